"""Gradients in networks of several routed layers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from capsjax import losses, models
from capsjax.analyses import gradient_flow
from capsjax.analyses.gradient_flow import Cell
from capsjax.models.capsules import capsnet
from capsjax.runs import results
from capsjax.training import step as train_step
from capsjax.training.train import train
from experiments import launch
from tests.launching import assert_one_line, run

WORDS = ["--config=digits:quick", "--config.model.decoder_units=()"]


def config_of(cell: Cell):
    config = launch.config_of(WORDS)
    config = launch.config_of([*WORDS, *gradient_flow.flags(cell, config, width=5)])
    config.data.validation_examples, config.max_steps = 100, 2
    return config


def test_the_flags_make_networks_of_that_depth():
    for routing, depth in (("uniform", 1), ("inverted_attention", 3), ("em", 2)):
        config = config_of(Cell(routing, depth))
        assert config.model.routing.name == routing
        assert config.model.hidden_capsules == (5,) * (depth - 1)
        _, state = train_step.create(config, (8, 8, 1), 10)
        layers = state.params.get("hidden_capsules", {})
        assert len(layers) == depth - 1
        assert all(layer["weights"][...].shape[1] == 5 for layer in layers.values())


def test_norms_are_slopes_of_the_loss(digits_data):
    """Along the gradient of a layer's parameters, by central differences."""
    config = config_of(Cell("inverted_attention", 3))
    graphdef, state = train_step.create(config, (8, 8, 1), 10)
    found = gradient_flow.norms(graphdef, state.variables, config, digits_data)
    assert len(found) == 3
    images = jnp.float32(digits_data.train.images[:128]) / 255
    labels = jnp.asarray(digits_data.train.labels[:128])

    @jax.jit
    def loss(params):
        variables = state.variables.replace(params=params)
        output, _ = models.apply(graphdef, variables, images, labels, "float32")
        return jnp.mean(losses.per_example(config.loss, output.scores, labels)["loss"])

    gradient = jax.grad(loss)(state.params)
    for layer, norm in enumerate(found):
        path = ("hidden_capsules", layer) if layer < 2 else ("class_capsules",)

        def of_layer(keys, x, path=path):
            return x if tuple(key.key for key in keys[: len(path)]) == path else 0 * x

        slope = jax.tree_util.tree_map_with_path(of_layer, gradient)

        def moved(amount, slope=slope):
            scale = amount / optax.tree.norm(slope)
            return float(
                loss(jax.tree.map(lambda x, d: x + scale * d, state.params, slope))
            )

        step = 0.1
        expected = (moved(step) - moved(-step)) / (2 * step)
        np.testing.assert_allclose(norm, expected, rtol=0.15)


def test_the_table_of_runs(digits_data, tmp_path):
    cells = gradient_flow.cells(["uniform"], [1, 2])
    for cell in cells:
        train(config_of(cell), digits_data, tmp_path / cell.name)
    cells.append(Cell("em", 1))
    text = gradient_flow.write(tmp_path, tmp_path / "out", cells, digits_data)
    assert "missing" in text
    rows = results.read(tmp_path / "out/gradients.csv")
    assert [(row["depth"], row["when"], row["layer"]) for row in rows] == [
        ("1", "start", "1"),
        ("1", "end", "1"),
        ("2", "start", "1"),
        ("2", "start", "2"),
        ("2", "end", "1"),
        ("2", "end", "2"),
    ]
    assert all(row.number("gradient_norm") > 0 for row in rows)
    assert (tmp_path / "out/gradients.png").stat().st_size > 10_000


def test_the_launcher(tmp_path):
    folder = f"--workdir={tmp_path}"
    assert_one_line(run("gradient_flow", folder, "--depths=0"), "numbers from 1")
    shown = run("gradient_flow", folder, "--routings=em", "--depths=2", "--dry_run")
    assert shown.returncode == 0, shown.stderr
    assert "--config.model.hidden_capsules=(32,)" in shown.stdout


def test_hidden_capsules_are_counted():
    config = capsnet.Config.preset("digits_quick", hidden_capsules=(5, 6))
    model = models.build(config, (8, 8, 1), 10, nnx.Rngs(params=0))
    plain = models.build(
        capsnet.Config.preset("digits_quick"), (8, 8, 1), 10, nnx.Rngs(params=0)
    )
    between = 64 * 5 * 8 * 8 + 5 * 6 * 8 * 8 + 6 * 10 * 16 * 8
    more = models.num_parameters(model) - models.num_parameters(plain)
    assert more == between - 64 * 10 * 16 * 8
