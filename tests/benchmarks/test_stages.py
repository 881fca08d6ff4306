"""The stages of a train step: they are those of the model, and their times."""

import dataclasses
from typing import Any
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from matplotlib.patches import Rectangle

from capsjax import fields, losses, models
from capsjax.benchmarks import programs as benchmark
from capsjax.benchmarks import stages as benchmark_stages
from capsjax.benchmarks.figures import stages as plots_stages
from capsjax.benchmarks.programs import STEP, TRAIN, Problem, Timing
from capsjax.benchmarks.stages import BACKWARD, CONVOLUTIONS, FORWARD, OPTIMIZER
from capsjax.config import Config
from capsjax.errors import UserError
from capsjax.runs.results import Row
from capsjax.training import step as train_step
from experiments.configs import digits, mnist
from kernels import routing
from tests.benchmarks.test_routing import ENV
from tests.tables import committed_columns

IMAGES = SHAPE, NUM_CLASSES = (8, 8, 1), 10
STAGES = ["conv1", "primary_capsules", "routing", "decoder", "loss"]


# The routing has two parameters if it has a bias.
CHANGES: dict[str, dict[str, Any]] = {
    "default": {},
    "no decoder": {"model.routing_bias": True, "model.route_primary": True},
    "bfloat16": {"dtype": "bfloat16"},
}


@dataclasses.dataclass(frozen=True)
class Run:
    """A config, what its programs return when first called, and their times."""

    config: Config
    results: dict[tuple[str, str], Any]
    timings: list[Timing]
    calls: int


@pytest.fixture(scope="module", params=CHANGES)
def measured(request) -> Run:
    config = digits.get_config("quick")
    config.batch_size = 16
    config.augment.shift = 0  # The step sees the same images, whatever its keys.
    if request.param == "no decoder":
        config.model = config.model.without_decoder()
    fields.update(config, CHANGES[request.param])
    programs = benchmark_stages.compile_programs(Problem(config, *IMAGES))
    # Copies: the optimizer and the step take back what they return.
    results = {
        (untimed.stage, untimed.mode): jax.tree.map(np.array, call())
        for call, untimed in programs
    }
    on_call = Mock()
    timings = benchmark.measure(programs, repeats=2, on_call=on_call)
    timings = benchmark_stages.without_forward(timings)
    return Run(config, results, timings, on_call.call_count)


def names_of(config: Config) -> list[str]:
    return [name for name in STAGES if name != "decoder" or config.model.has_decoder]


def rows_of(config: Config, timings: list[Timing]) -> list[Row]:
    return [benchmark.row(Problem(config, *IMAGES), ENV, found) for found in timings]


def whole(config: Config):
    """Loss and gradients of the model in one piece, and its parameters."""
    problem = Problem(config, *IMAGES)
    graphdef, state = train_step.create(*problem)
    batch = benchmark_stages.augmented(problem.random_batch(), config)

    def loss(params):
        images, labels = batch["image"], batch["label"]
        variables = state.variables.replace(params=params)
        output, _ = models.apply(graphdef, variables, images, labels, config.dtype)
        parts = losses.per_example(
            config.loss,
            output.scores,
            labels,
            reconstructions=output.reconstructions,
            targets=images,
        )
        return jnp.mean(parts["loss"])

    return *jax.jit(jax.value_and_grad(loss))(state.params), state.params


def test_the_stages_are_the_model(measured):
    """Its loss, its gradients of all parameters, and what the step makes of them."""
    config, results = measured.config, measured.results
    # Rounding alone may differ: bfloat16 has 8 bits.
    bound = 3e-2 if config.dtype == "bfloat16" else 1e-5
    expected, gradients, params = whole(config)
    stepped, metrics = results[STEP, TRAIN]
    forward, (backward, _) = results["loss", FORWARD], results["loss", BACKWARD]
    for loss in (forward["loss"], backward["loss"], metrics["loss"]):
        assert loss.dtype == np.float32
        np.testing.assert_allclose(loss, expected, rtol=bound)

    found = {}
    for name in names_of(config):
        _, (of_params, _) = results[name, BACKWARD]
        found.update(of_params)
    assert set(found) == set(params)
    (updated, _), _ = results[OPTIMIZER, TRAIN]
    for x, y, after, after_step in zip(
        *map(jax.tree.leaves, (nnx.State(found), gradients, updated, stepped.params)),
        strict=True,
    ):
        assert x.dtype == np.float32
        rounding = bound * np.abs(y).max()
        np.testing.assert_allclose(x, y, atol=rounding)
        # Adam's first step is the gradient's sign, which rounding must not decide.
        clear = np.abs(y) > 2 * rounding
        assert clear.any()
        np.testing.assert_allclose(after[clear], after_step[clear], atol=1e-6)


def test_every_stage_has_its_rows(measured):
    config, timings = measured.config, measured.timings
    assert measured.calls == 3 * len(timings)
    rows = rows_of(config, timings)
    assert [(row["stage"], row["mode"]) for row in rows] == [
        *((name, mode) for name in names_of(config) for mode in (FORWARD, BACKWARD)),
        (OPTIMIZER, TRAIN),
        (CONVOLUTIONS, TRAIN),
        (STEP, TRAIN),
    ]
    for row in rows:
        assert row.keys() >= committed_columns("benchmark_training.csv")
        low, median, high = map(row.number, ("min_s", "median_s", "max_s"))
        assert 0 <= low <= median <= high
        assert median > 0 or row["mode"] == BACKWARD
        assert (row["repeats"], row["dtype"]) == ("2", config.dtype)
        assert row.number("compile_s") > 0
        assert row.number("peak_mb") > 0
    assert sum(benchmark_stages.summarize(rows).shares.values()) == pytest.approx(1)


def test_images_are_those_of_training(tiny_config):
    """Shifted, which loses what leaves the image; labels as they were."""
    batch = Problem(tiny_config, *IMAGES).random_batch()
    found = benchmark_stages.augmented(batch, tiny_config)
    assert np.mean(np.asarray(found["image"]) == 0) > 0.05
    np.testing.assert_array_equal(found["label"], batch["label"])


def test_the_routing_is_the_one_of_the_config(tiny_config, monkeypatch):
    tiny_config.model = tiny_config.model.routed_by("reference")
    graphdef, state = train_step.create(tiny_config, *IMAGES)
    model = nnx.merge(graphdef, state.params)
    (stage,) = (stage for stage in model.stages() if stage.name == "routing")
    function = benchmark_stages.function_of(stage, model, tiny_config)
    route = Mock(side_effect=routing.route)
    monkeypatch.setattr(routing, "route", route)
    weights = model.class_capsules.weights
    primary = jax.ShapeDtypeStruct((2, weights.shape[0], weights.shape[3]), "float32")
    batch = {
        "image": jax.ShapeDtypeStruct((2, *SHAPE), "float32"),
        "label": jax.ShapeDtypeStruct((2,), "int32"),
    }
    made = jax.eval_shape(function, state.params, {"primary": primary}, batch)
    (call,) = route.call_args_list
    assert call.kwargs["implementation"] == "reference"
    assert made["scores"].shape == (2, NUM_CLASSES)


def given(*seconds: tuple[float, ...]) -> list[Timing]:
    """Measurements from these times of conv1, the optimizer and the step."""
    stages = ("conv1", "conv1", OPTIMIZER, STEP)
    modes = (FORWARD, BACKWARD, TRAIN, TRAIN)
    each = zip(seconds, stages, modes, strict=True)
    return benchmark_stages.without_forward(
        [Timing(s, "wall", stage, mode) for s, stage, mode in each]
    )


def test_a_backward_is_a_difference_of_medians():
    forward, backward, *_ = given((1.0, 2.0, 9.0), (4.0, 7.0, 5.0), (2.0,), (8.0,))
    assert backward.seconds == (2.0, 5.0, 3.0)
    assert (backward.columns()["min_s"], backward.median_s) == (2.0, 3.0)
    assert forward.seconds == (1.0, 2.0, 9.0)


def test_a_backward_without_extra_time_has_no_images_per_second(tiny_config):
    rows = rows_of(tiny_config, given((2.0,), (1.5,), (2.0,), (8.0,)))
    assert (rows[1]["median_s"], rows[1]["images_per_s"]) == ("0", "")
    assert rows[0]["images_per_s"] == "8"  # of 16
    assert "50.0" in benchmark_stages.table(rows)


def test_the_table_compares_the_sum_with_the_step(tiny_config):
    rows = rows_of(tiny_config, given((0.001,), (0.004,), (0.002,), (0.008,)))
    header, conv1, optimizer, last = benchmark_stages.table(rows).splitlines()
    assert " ".join(header.split()) == "stage forward ms backward ms total ms % of sum"
    assert conv1.split() == ["conv1", "1.000", "3.000", "4.000", "66.7"]
    assert optimizer.split() == [OPTIMIZER, "2.000", "33.3"]
    assert len(header) == len(conv1) == len(optimizer)
    assert "8.000 ms" in last
    assert "0.75 times the step" in last


def test_the_figure_shows_the_medians(tiny_config):
    rows = rows_of(tiny_config, given((0.001,), (0.004,), (0.002,), (0.008,)))
    (axes,) = plots_stages.times(rows).axes
    # Start and length of the pieces: conv1, optimizer, the sum of both, the step.
    bars = [bar for bar in axes.patches if isinstance(bar, Rectangle)]
    starts = [0, 0.001, 0, 0, 0.001, 0.004, 0]
    lengths = [0.001, 0.003, 0.002, 0.001, 0.003, 0.002, 0.008]
    np.testing.assert_allclose([bar.get_x() for bar in bars], starts)
    np.testing.assert_allclose([bar.get_width() for bar in bars], lengths)
    words = [text.get_text() for text in axes.texts]
    assert words[:2] == ["4 ms, 66.7 %", "2 ms, 33.3 %"]
    assert words[2:] == ["6 ms, 0.75 times the step", "8 ms"]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["conv1", OPTIMIZER, "sum of the stages", "whole step"]
    settings = ("capsnet", "8x8x1", "10 classes", "16", "float32", "default")
    for word in (*settings, "2 cores of a cpu"):
        assert word in axes.get_title()


@pytest.mark.parametrize("step", [0.004, 0.016])
def test_a_bar_is_as_long_as_its_label_says(tiny_config, step):
    """The whole step's time, whatever the sum of the stages, here 6 ms."""
    rows = rows_of(tiny_config, given((0.001,), (0.004,), (0.002,), (step,)))
    (axes,) = plots_stages.comparison(rows).axes
    bars = [bar for bar in axes.patches if isinstance(bar, Rectangle)]
    per_image = 1e3 * step / 16
    lengths = [per_image * 4 / 6, per_image * 2 / 6]
    np.testing.assert_allclose([bar.get_width() for bar in bars], lengths)
    np.testing.assert_allclose([bar.get_x() for bar in bars], [0, lengths[0]])
    (label,) = axes.texts
    assert label.get_text() == f"{per_image:.2f} ms"
    assert not axes.lines


def test_only_a_capsnet_has_stages():
    problem = Problem(mnist.get_config("baseline,quick"), (28, 28, 1), 10)
    with pytest.raises(UserError, match=r"config\.model\.name is 'baseline_cnn'"):
        benchmark_stages.compile_programs(problem)
