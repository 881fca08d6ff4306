"""The routing's rows of metrics: what stands in them, and that they change nothing."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from capsjax.analyses.figures import run as plots
from capsjax.runs.folder import RunFolder
from capsjax.runs.metrics import read_metrics
from capsjax.training import augment
from capsjax.training import step as train_step
from capsjax.training.routing_log import make_diagnose
from capsjax.training.train import train
from kernels import routing

NAMES = [
    *(f"logit_change_{t}" for t in (1, 2, 3)),
    *(f"coupling_entropy_{t}" for t in (1, 2, 3)),
]


def test_the_numbers_are_those_of_the_primary_capsules(tiny_config, digits_data):
    """Of images that are preprocessed and not augmented, though training augments."""
    tiny_config.preprocess.crop = 7
    tiny_config.model.routing.leaky = True
    tiny_config.model.routing_bias = True
    graphdef, state = train_step.create(tiny_config, (8, 8, 1), 10)
    images = digits_data.train.images[:5]
    found = make_diagnose(graphdef, tiny_config)(state.variables, images)
    assert list(found) == NAMES
    assert all(type(value) is float for value in found.values())
    # A mean in float32 over all primary capsules.
    assert found["coupling_entropy_1"] == pytest.approx(math.log(11), rel=1e-5)

    @jax.jit
    def diagnosis(params):
        model = nnx.merge(graphdef, params)
        seen = augment.for_evaluation(jnp.asarray(images), tiny_config)
        layer = model.class_capsules
        return routing.diagnose(
            model.primary_capsules(jax.nn.relu(model.conv1(seen))),
            layer.weights[...],
            layer.bias[...],
            num_iterations=3,
            leaky=True,
        )

    expected = diagnosis(state.params)
    values = np.concatenate([expected.logit_changes, expected.coupling_entropies])
    np.testing.assert_allclose(list(found.values()), values, rtol=1e-4)


def test_half_precision_layers(tiny_config, digits_data):
    images = digits_data.train.images[:5]
    graphdef, state = train_step.create(tiny_config, (8, 8, 1), 10)
    full = make_diagnose(graphdef, tiny_config)(state.variables, images)
    tiny_config.dtype = "bfloat16"
    half = make_diagnose(graphdef, tiny_config)(state.variables, images)
    assert half != full
    assert half == pytest.approx(full, rel=0.05)


def test_rows_at_every_evaluation_and_the_same_training(
    tiny_config, digits_data, tmp_path
):
    tiny_config.max_steps = 2
    plain, diagnosed = RunFolder(tmp_path / "plain"), RunFolder(tmp_path / "diagnosed")
    train(tiny_config, digits_data, plain)
    tiny_config.diagnose_routing = True
    train(tiny_config, digits_data, diagnosed)
    rows = read_metrics(diagnosed.metrics)
    (row,) = [row for row in rows if row["split"] == "routing"]
    assert list(row) == ["step", "split", *NAMES]
    assert row["step"] == 2
    assert all(math.isfinite(row[name]) for name in NAMES)
    assert row["coupling_entropy_1"] == pytest.approx(math.log(10))

    hashes = [folder.load_result()["params_sha256"] for folder in (plain, diagnosed)]
    assert hashes[0] == hashes[1]
    assert not [row for row in read_metrics(plain.metrics) if row["split"] == "routing"]
    # They are no curve of losses.
    figure = plots.learning_curves(rows)
    labels = [line.get_label() for line in figure.axes[0].lines]
    assert labels == ["train", "validation", "test"]
