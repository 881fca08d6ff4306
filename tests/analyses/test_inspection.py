"""What networks have learned, and what their layers cost."""

import contextlib
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from capsjax import models
from capsjax.analyses import (
    couplings,
    filters,
    inspection,
    layer_times,
    precision,
)
from capsjax.analyses.figures import inspection as plots
from capsjax.analyses.filters import Units
from capsjax.analyses.layer_times import LayerTime
from capsjax.config import Config
from capsjax.errors import NotApplicableError, UserError
from capsjax.models.capsules import capsnet
from capsjax.models.cnns import baseline_cnn
from capsjax.reports import page
from capsjax.runs import results
from capsjax.training import parameter_names
from capsjax.training.train import train
from capsjax.training.trained import TrainedModel, restore
from kernels import routing
from tests.launching import assert_one_line, run
from tests.models.test_every_model import SMALL

SHAPE = (8, 8, 1)
CAPSULES = capsnet.Config.preset("digits_quick", conv1_channels=4, decoder_units=())
CNN = baseline_cnn.Config(conv_channels=(4,), kernel_sizes=(3,), dense_units=(6,))


def made(config):
    graphdef, params, state = models.split(
        models.build(config, SHAPE, 10, nnx.Rngs(params=0))
    )
    return graphdef, models.Variables(jnp.zeros((), jnp.int32), params, state)


def test_pictures_have_ranges_of_their_own():
    found = filters.unit_range(np.array([[1.0, 3.0, 2.0], [-5.0, -5.0, -5.0]]))
    np.testing.assert_allclose(found, np.array([[0, 1, 0.5], [0, 0, 0]]))


def test_groups_are_held_against_random_ones():
    """All 20 ways to divide six values into two halves."""
    values = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    found, share = filters.group_difference(values, 2, draws=20_000)
    assert found == pytest.approx(56 / 3 - 7 / 3)
    spreads = [
        abs(2 * sum(half) - values.sum()) / 3
        for half in itertools.combinations(values, 3)
    ]
    expected = np.mean(np.array(spreads) >= found - 1e-9)
    assert share == pytest.approx(expected, abs=0.01)
    assert filters.group_difference(np.ones(6), 2, draws=10) == (0.0, 1.0)


def test_saturation_is_zero_for_grey():
    grey = np.broadcast_to(np.linspace(0, 1, 9).reshape(1, 3, 3, 1), (1, 3, 3, 3))
    red = np.zeros((1, 3, 3, 3))
    red[..., 0] = 0.75
    np.testing.assert_allclose(
        filters.saturation(np.concatenate([grey, red])), [0, 0.75]
    )


def test_gradient_ascent_finds_images_with_larger_scores():
    # Of a few units of a hidden layer, all may be silent.
    config = Config(model=CNN.replace(dense_units=(32,)))
    graphdef, variables = made(config.model)
    unit = Units("convs.0", (2,))
    images = filters.preferred(
        graphdef,
        variables,
        config,
        SHAPE,
        classes=[3, 7],
        units=[unit],
        steps=40,
    )
    assert images.shape == (3, *SHAPE)
    assert images.min() >= 0
    assert images.max() <= 1
    scores = filters.scores_of(graphdef, variables, config, images)
    grey = filters.scores_of(
        graphdef, variables, config, np.full((1, *SHAPE), 0.5, np.float32)
    )
    assert scores[0, 3] > grey[0, 3]
    assert scores[1, 7] > grey[0, 7]
    # The unit sees 3x3 pixels and wants its kernel there, as far as it is smooth.
    kernel = np.asarray(variables.params["convs"][0]["kernel"][...])[:, :, 0, 2]
    seen = images[2, 3:6, 3:6, 0] - 0.5
    assert np.corrcoef(seen.ravel(), kernel.ravel())[0, 1] > 0.7


@pytest.mark.parametrize("name", SMALL)
def test_every_network_is_looked_at_or_says_why_not(name):
    """Of one and three dimensions, too; filters are what the layer has."""
    config = Config(model=SMALL[name])
    graphdef, variables = made(config.model)
    image = jnp.asarray(np.random.default_rng(0).uniform(size=SHAPE), jnp.float32)
    with contextlib.suppress(NotApplicableError):
        layer, kernel, _ = filters.first_filters(graphdef, variables, SHAPE)
        assert kernel.ndim == 4
        assert f"{layer}.kernel" in dict(parameter_names.by_path(variables.params))
        assert plots.filters("", {"now": kernel}).axes
    for one in filters.features(graphdef, variables, image):
        assert one.maps.ndim == 3
    units = filters.units(graphdef, variables, SHAPE, layers=2, channels=2)
    found = filters.preferred(
        graphdef, variables, config, SHAPE, classes=[1], units=units, steps=1
    )
    assert np.all(np.isfinite(found))
    if couplings.are_known(config):
        routed = couplings.couplings(graphdef, variables, image[None])
        np.testing.assert_allclose(routed.coefficients.sum(axis=-1), 1, atol=1e-5)


@pytest.mark.parametrize("leaky", [False, True])
def test_couplings_are_those_of_a_loop(leaky):
    """Written out in float64."""
    rng = np.random.default_rng(0)
    B, I, J, Q, P = 2, 3, 4, 5, 6
    u, W = rng.normal(size=(B, I, P)), rng.normal(size=(I, J, Q, P))
    found = routing.dynamic.couplings(
        jnp.float32(u), jnp.float32(W), num_iterations=3, leaky=leaky
    )
    for b in range(B):
        votes = np.einsum("ijqp,ip->ijq", W, u[b])
        logits = np.zeros((I, J))
        for _ in range(3):
            c = np.exp(logits) / (np.exp(logits).sum(axis=1, keepdims=True) + leaky)
            s = np.einsum("ij,ijq->jq", c, votes)
            square = np.sum(s**2, axis=1, keepdims=True)
            v = square / (1 + square) * s / np.sqrt(square)
            logits = logits + np.einsum("ijq,jq->ij", votes, v)
        np.testing.assert_allclose(found[b], c, rtol=1e-4)


def test_couplings_lie_where_the_capsules_are():
    """On the grid of the convolution, each place with its types."""
    graphdef, variables = made(CAPSULES)
    images = jax.random.uniform(jax.random.key(0), (2, *SHAPE))
    found = couplings.couplings(graphdef, variables, images)
    assert found.coefficients.shape == (2, 4, 4, 4, 10)
    assert found.maps.shape == (2, 4, 4, 10)
    np.testing.assert_allclose(found.coefficients.sum(axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(found.by_type.sum(axis=-1), 1, rtol=1e-5)
    # What only the last place sees changes only the last place.
    changed = couplings.couplings(graphdef, variables, images.at[:, 7, 7].add(1.0))
    differs = np.any(changed.activities != found.activities, axis=(0, 3))
    assert differs[3, 3]
    assert differs.sum() == 1


def test_networks_whose_couplings_are_unknown_are_known():
    assert couplings.are_known(Config(model=CAPSULES))
    assert not couplings.are_known(Config(model=CNN))


def test_rounding_by_hand():
    kernel = jnp.float32([[1.0, 0.0], [-0.4, 0.0], [0.003, 0.0]])
    found = precision.rounded(kernel, "8 bits")
    np.testing.assert_allclose(found[:, 0], [1, -51 / 127, 0], rtol=1e-6)
    np.testing.assert_array_equal(found[:, 1], 0)
    found = precision.rounded(kernel, "1 bit")
    np.testing.assert_allclose(found[:, 0], np.array([1, -1, 1]) * 1.403 / 3, rtol=1e-6)
    np.testing.assert_array_equal(precision.rounded(kernel, "float32"), kernel)
    found = precision.rounded(kernel, "bfloat16")
    assert float(found[1, 0]) == float(jnp.bfloat16(-0.4)) != np.float32(-0.4)
    matrices = jnp.float32(np.arange(1, 9).reshape(2, 1, 2, 2))
    found = precision.rounded(matrices, "1 bit", per_matrix=True)
    np.testing.assert_allclose(found[:, 0, 0, 0], [2.5, 6.5])


def test_eight_bits_are_off_by_half_a_step_at_most():
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 4, 5))
    found = precision.rounded(kernel, "8 bits")
    step = np.abs(kernel).max(axis=(0, 1, 2)) / 127
    off = np.abs(found - kernel).max(axis=(0, 1, 2))
    assert (off <= 0.5001 * step).all()
    assert (off > 0.3 * step).all()
    np.testing.assert_allclose(precision.rounded(found, "8 bits"), found, rtol=1e-5)


def test_layers_called_by_themselves_make_the_networks_scores():
    """The last layer, with what it received and its own parameters."""
    graphdef, variables = made(CNN)
    images = jax.random.uniform(jax.random.key(0), (2, *SHAPE))
    parts = layer_times.parts_of(
        graphdef, variables.params, variables.model_state, images
    )
    assert [(part.name, part.kind) for part in parts] == [
        ("convs.0", "convolution"),
        ("dense.0", "dense"),
        ("logits", "dense"),
    ]
    output, _ = models.apply(graphdef, variables, images, None, "float32")
    np.testing.assert_allclose(
        parts[-1].function(*parts[-1].arguments), output.scores, rtol=1e-5, atol=1e-6
    )


def test_times_by_kind_and_their_sum():
    times = [
        LayerTime("a", "convolution", 0.001, 0.002),
        LayerTime("b", "dense", 0.003, 0.004),
        LayerTime("c", "convolution", 0.01, 0.02),
    ]
    found = layer_times.by_kind(times)
    assert list(found) == ["convolution", "dense"]
    np.testing.assert_allclose(found["convolution"], (0.011, 0.022))
    rows = layer_times.rows(times, LayerTime("whole network", "", 0.01, 0.01))
    assert rows[-2].number("forward_ms") == pytest.approx(14)
    assert rows[-2].number("percent_of_sum") == 100
    assert rows[-1].number("percent_of_sum") == 50


def test_figures_of_times_and_of_preferred_images_show_all():
    times = [
        LayerTime("conv1", "convolution", 0.001, 0.002),
        LayerTime("logits", "dense", 0.003, 0.004),
    ]
    figure = plots.times("title", times, LayerTime("whole network", "", 0.005, 0.007))
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[0] == "forward: layers 4 ms,\nwhole network 5 ms"
    assert titles[1] == "backward: layers 6 ms,\nwhole network 7 ms"
    bars = figure.axes[2]
    names = [label.get_text() for label in bars.get_yticklabels()]
    assert names == ["conv1", "logits"]
    images = np.random.default_rng(0).random((3, *SHAPE))
    figure = plots.preferred_of_classes("title", images, "abc", np.array([1.0, 2, 3]))
    assert [x.get_title() for x in figure.axes] == ["a: 1", "b: 2", "c: 3"]
    units = [Units("one", (0, 4)), Units("two", (1,))]
    figure = plots.preferred_of_units("title", images, units)
    titles = [title for axes in figure.axes if (title := axes.get_title())]
    assert titles == ["map 0", "map 4", "map 1"]


def test_a_run_is_inspected_and_reported(digits_data, tiny_config, tmp_path):
    tiny_config.model = CAPSULES
    tiny_config.max_steps = 2
    folder = tmp_path / "run"
    train(tiny_config, digits_data, folder)
    inspected = inspection.Inspected(
        "run",
        restore(folder, digits_data),
        digits_data,
        [0, 3],
        steps=2,
        batch_size=2,
        repeats=1,
        output=folder / "inspection",
    )
    assert inspection.inspect(inspected, list(inspection.PARTS)) == []
    captions = json.loads((inspected.output / "captions.json").read_text())
    for name in captions:
        assert (inspected.output / name).stat().st_size > 50, name
    assert {"filters.png", "couplings.png", "features_3.png"} <= captions.keys()
    layers = results.read(inspected.output / "layers.csv")
    assert [row["sees_pixels"] for row in layers] == ["3", "5", "all"]
    times = results.read(inspected.output / "layer_times.csv")
    assert [row["layer"] for row in times[:-2]] == [row["layer"] for row in layers]
    assert all(row.number("forward_ms") > 0 for row in times)
    found = results.read(inspected.output / "precision.csv")
    assert found[0]["predictions changed, %"] == "0"
    assert [row["weights"] for row in found] == list(precision.FORMATS)
    moved = json.loads((inspected.output / "filters.json").read_text())
    assert min(moved["distance_moved"]) > 0
    page.write([folder], tmp_path / "report.html")
    text = (tmp_path / "report.md").read_text()
    assert captions["couplings.png"] in text
    assert "Test error with rounded weights" in text


def test_bad_flags_of_the_launcher(tmp_path):
    folder = f"--workdir={tmp_path}"
    process = run("inspect_network", folder, "--parts=filters,colours")
    assert_one_line(process, "colours", "receptive_field")


def test_a_test_image_that_is_not_there(digits_data, tmp_path):
    model = TrainedModel(Config(model=CNN), *made(CNN))
    inspected = inspection.Inspected(
        "run", model, digits_data, [10_000], 1, 1, 1, tmp_path / "inspection"
    )
    with pytest.raises(UserError, match="no test image 10000; digits has 360"):
        inspection.inspect(inspected, [])
