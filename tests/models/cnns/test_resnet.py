"""A network with state besides parameters: batch normalisation, end to end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, Mesh, PartitionSpec

from capsjax import fields, models
from capsjax.errors import UserError
from capsjax.layers import BATCH_AXIS, BatchNorm, BottleneckBlock
from capsjax.models.cnns import resnet
from capsjax.training import step as train_step
from capsjax.training.parallel import Devices
from capsjax.training.train import train
from experiments.configs import digits_resnet
from tests.stepping import ONE, take_steps

needs_four_devices = pytest.mark.skipif(
    len(jax.devices()) < 4, reason="needs four devices, as a CPU is made into here"
)


@pytest.fixture
def config():
    """Plain steps, in which a gradient that is N times too large is one."""
    config = digits_resnet.get_config("quick")
    config.batch_size, config.max_steps, config.log_every_steps = 16, 4, 2
    config.optimizer.name, config.optimizer.learning_rate = "sgd", 0.1
    config.num_devices = 1
    config.model = resnet.Config(channels=(4, 8), blocks=1)
    return config


def test_the_number_of_parameters():
    """On CIFAR-10: 3x3 convolutions without bias, two numbers per normalised channel.

    The paper says 0.27M.
    """
    config, expected = resnet.Config.preset("resnet20"), 269_722
    model = nnx.eval_shape(
        lambda: models.build(config, (32, 32, 3), 10, nnx.Rngs(params=0))
    )
    assert models.num_parameters(model) == expected
    convolutions = 9 * (3 * 16 + 6 * 16 * 16 + 16 * 32 + 5 * 32 * 32 + 32 * 64)
    convolutions += 9 * 5 * 64 * 64
    norms = 2 * (7 * 16 + 6 * 32 + 6 * 64)
    assert convolutions + norms + 65 * 10 == expected


@pytest.mark.parametrize(
    ("preset", "size", "num_classes", "total"),
    [
        ("resnet32", 32, 10, 464_154),
        ("resnet44", 32, 10, 658_586),
        ("resnet56", 32, 10, 853_018),
        ("resnet110", 32, 10, 1_727_962),
        ("resnet18", 224, 1000, 11_689_512),
        ("resnet34", 224, 1000, 21_797_672),
        ("resnet50", 224, 1000, 25_557_032),
        ("resnet101", 224, 1000, 44_549_160),
        ("resnet152", 224, 1000, 60_192_808),
    ],
)
def test_the_number_of_parameters_of_every_depth(preset, size, num_classes, total):
    """As torchvision's networks for ImageNet; without a forward pass, for time."""
    config = resnet.Config.preset(preset)
    model = nnx.eval_shape(
        lambda: config.build((size, size, 3), num_classes, nnx.Rngs(params=0))
    )
    assert models.num_parameters(model) == total


@pytest.mark.parametrize("stride_in_3x3", [False, True])
def test_where_a_bottleneck_has_its_stride(stride_in_3x3):
    """The paper's takes every second pixel; 3x3 convolutions see all of them."""
    block = BottleneckBlock(
        2,
        1,
        2,
        shortcut="project",
        momentum=0.9,
        padding=1,
        stride_in_3x3=stride_in_3x3,
        rngs=nnx.Rngs(0),
    )
    # Any feature that is seen counts.
    assert block.projection is not None
    for conv in (block.conv1, block.conv2, block.conv3, block.projection):
        conv.kernel[...] = jnp.ones_like(conv.kernel[...])
    images = jnp.ones((1, 8, 8, 2))
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(block(x, train=False))))(images)
    seen = np.any(gradient[0], axis=-1)
    expected = np.ones((8, 8), bool)
    if not stride_in_3x3:
        expected[1::2] = expected[:, 1::2] = False
    np.testing.assert_array_equal(seen, expected)


def test_padding_of_new_runs_and_of_old_ones():
    """Runs that were saved without the field pad at the end only, as they did."""
    assert resnet.Config().symmetric_padding
    assert not fields.from_json(resnet.Config, {"name": "resnet"}).symmetric_padding
    assert not fields.flatten(digits_resnet.get_config())["model.symmetric_padding"]
    images = jnp.zeros((1, 8, 8, 1)).at[0, 0, 0].set(1.0)
    for symmetric in (True, False):
        config = resnet.Config(channels=(1, 1), blocks=1, symmetric_padding=symmetric)
        model = config.build((8, 8, 1), 10, nnx.Rngs(params=0))
        conv = model.blocks[1].conv1
        conv.kernel[...] = jnp.arange(1.0, 10.0).reshape(3, 3, 1, 1)
        # The place of the kernel that the first pixel meets: its middle or its start.
        assert conv(images)[0, 0, 0, 0] == (5.0 if symmetric else 1.0)
        assert conv(images).shape == (1, 4, 4, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": ()}, "needs channels; got none"),
        ({"blocks": (1, 2)}, "2 blocks and 3 channels"),
    ],
)
def test_settings_that_do_not_fit(changes, message):
    with pytest.raises(UserError, match=message):
        models.build(resnet.Config(**changes), (8, 8, 1), 10, nnx.Rngs(0))


def float64(param):
    return np.asarray(param[...], np.float64)


@needs_four_devices
@pytest.mark.parametrize("count", [1, 2, 4])
def test_batch_norm_in_float64(count):
    """Mean and variance of the whole batch, on however many devices it lies."""
    layer = BatchNorm(3, momentum=0.8, rngs=nnx.Rngs(0))
    scale, bias = layer.norm.scale, layer.norm.bias
    assert scale is not None
    assert bias is not None
    scale[...] = jnp.array([1.0, 2.0, 0.5])
    bias[...] = jnp.array([0.0, -1.0, 1.0])
    x = np.random.default_rng(0).normal(3, 2, (8, 5, 4, 3))
    graphdef, state = nnx.split(layer)

    def call(state, x):
        merged = nnx.merge(graphdef, state, copy=True)
        return merged(x, train=True), nnx.state(merged)

    spread = jax.shard_map(
        call,
        mesh=Mesh(
            np.array(jax.devices()[:count], dtype=object),
            (BATCH_AXIS,),
            axis_types=(AxisType.Auto,),
        ),
        in_specs=(PartitionSpec(), PartitionSpec(BATCH_AXIS)),
        out_specs=(PartitionSpec(BATCH_AXIS), PartitionSpec()),
        check_vma=False,
    )
    y, after = jax.jit(spread)(state, jnp.float32(x))
    mean, variance = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
    expected = (x - mean) / np.sqrt(variance + 1e-5) * float64(scale) + float64(bias)
    np.testing.assert_allclose(y, expected, atol=2e-5)
    np.testing.assert_allclose(after["norm"]["mean"][...], 0.2 * mean, rtol=1e-5)
    np.testing.assert_allclose(
        after["norm"]["var"][...], 0.8 + 0.2 * variance, rtol=1e-5
    )


def steps(config, dataset, devices=ONE):
    """Losses of a few steps, and the states before and after them."""
    metrics, states = take_steps(config, dataset, 3, devices)
    return [row["loss"] for row in metrics], states[0], states[-1]


@needs_four_devices
def test_several_devices_equal_one_under_pmap(config, digits_data):
    """Losses, parameters and running averages."""
    expected, start, state = steps(config, digits_data)
    averages = map(jax.tree.leaves, (start.model_state, state.model_state))
    for before, after in zip(*averages, strict=True):
        assert np.abs(before - after).max() > 1e-3  # They move.
    found, _, other = steps(config, digits_data, Devices(jax.devices()[:4], "pmap"))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    for a, b in zip(*map(jax.tree.leaves, (other, state)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_evaluation_uses_the_running_averages(config):
    """So that an example does not depend on its batch mates, unlike in training."""
    graphdef, state = train_step.create(config, (8, 8, 1), 10)
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.uniform(size=(4, 8, 8, 1)), jnp.float32)

    @jax.jit
    def scores(images):
        return models.apply(graphdef, state.variables, images, None, "float32")[
            0
        ].scores

    np.testing.assert_allclose(scores(images)[:1], scores(images[:1]), atol=1e-5)


def test_a_run_with_debug_nans_trains_alike(config, digits_data, tmp_path):
    plain = train(config, digits_data, tmp_path / "plain")
    config.debug_nans = True
    watched = train(config, digits_data, tmp_path / "watched")
    assert plain is not None
    assert watched is not None
    assert watched.record["params_sha256"] == plain.record["params_sha256"]
    config.optimizer.learning_rate = 1e38
    with pytest.raises(UserError, match=r"makes a NaN|is nan|is inf"):
        train(config, digits_data, tmp_path / "bad")


def test_channels_that_do_not_grow_need_projections():
    with pytest.raises(UserError, match="cannot take 8 channels to 4; let the"):
        models.build(
            resnet.Config(channels=(8, 4), blocks=1), (8, 8, 1), 10, nnx.Rngs(params=0)
        )
