"""One device and several train alike; what each of them computes is its share."""

import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax import config as config_lib
from capsjax import models
from capsjax.config import Config
from capsjax.data import TrainBatches
from capsjax.errors import UserError
from capsjax.losses import cross_entropy
from capsjax.models.cnns import baseline_cnn
from capsjax.training import parallel
from capsjax.training import step as train_step
from capsjax.training.evaluate import evaluate, make_eval_step
from capsjax.training.parallel import Devices
from kernels import gpu
from tests.stepping import ONE, take_steps

pytestmark = pytest.mark.skipif(
    len(jax.devices()) < 4, reason="needs four devices, as a CPU is made into here"
)
STEPS = 4
MODES = ("jit", "pmap")


def sgd(config: Config) -> Config:
    """Plain steps, in which a gradient that is N times too large is one."""
    config.optimizer.name, config.optimizer.learning_rate = "sgd", 0.1
    config.optimizer.decay_rate = 1.0
    return config


def capsnet(config: Config, implementation: str) -> Config:
    config.model = config.model.routed_by(implementation)
    # So that the decoder's gradients stand out from the rounding of its parameters.
    config.loss.reconstruction_weight = 0.1
    return sgd(config)


def cnn(config: Config) -> Config:
    """With dropout, whose draws must not depend on the devices either."""
    config.model = baseline_cnn.Config(
        conv_channels=(4, 4), kernel_sizes=(5, 5), dense_units=(16,)
    )
    config.loss = cross_entropy.Softmax()
    return sgd(config)


MODELS = {
    "xla": lambda config: capsnet(config, "xla"),
    "reference": lambda config: capsnet(config, "reference"),
    "cnn": cnn,
}


@pytest.fixture(scope="module")
def on_one_device(digits_data):
    """Trains a model on one device, once for all tests."""
    runs: dict[str, tuple] = {}

    def run(name: str, config: Config):
        if name not in runs:
            runs[name] = take_steps(config, digits_data, STEPS)
        return runs[name]

    return run


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("name", MODELS)
def test_several_devices_equal_one(
    name, count, mode, tiny_config, digits_data, on_one_device
):
    """Losses, gradients (the first step of SGD) and final parameters, all in float32.

    Augmentation and dropout are on: what is random belongs to an example.
    """
    config = MODELS[name](tiny_config)
    assert config.augment.shift > 0
    devices = Devices(jax.devices()[:count], mode)
    metrics, states = on_one_device(name, config)
    found, found_states = take_steps(config, digits_data, STEPS, devices)
    for row, expected in zip(found, metrics, strict=True):
        assert row.keys() == expected.keys()
        for key in expected:
            np.testing.assert_allclose(row[key], expected[key], rtol=2e-5, err_msg=key)

    rate = config.optimizer.learning_rate
    # Before the first step, after it, and at the end.
    kept = [each[i].params for each in (states, found_states) for i in (0, 1, -1)]
    for before, after, end, found_before, found_after, found_end in zip(
        *map(jax.tree.leaves, kept), strict=True
    ):
        np.testing.assert_array_equal(found_before, before)
        gradient, found_gradient = (
            (before.astype(np.float64) - x) / rate for x in (after, found_after)
        )
        # What the parameters' own rounding leaves of the gradient in their difference.
        rounding = np.finfo(np.float32).eps * np.abs(before).max() / rate
        bound = 2e-5 * np.abs(gradient).max() + rounding
        np.testing.assert_allclose(found_gradient, gradient, atol=bound)
        np.testing.assert_allclose(found_end, end, atol=2e-5 * np.abs(end).max())
        # The comparison says something: they moved, by far more than its bound.
        assert np.abs(gradient).max() > 20 * bound


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("count", [2, 4])
def test_evaluation_on_several_devices_equals_one(
    count, mode, tiny_config, digits_data
):
    """101 images in batches of 10, which four devices cannot share: 12 are taken."""
    images = digits_data.test.take(np.arange(101))
    graphdef, state = train_step.create(tiny_config, (8, 8, 1), 10)
    results = []
    for devices in (ONE, Devices(jax.devices()[:count], mode)):
        step = make_eval_step(graphdef, tiny_config, devices)
        variables = devices.replicate(state.variables)
        results.append(evaluate(step, variables, images, 10, devices))
    expected, found = results
    np.testing.assert_array_equal(found.predictions, expected.predictions)
    assert found.metrics == pytest.approx(expected.metrics, rel=1e-5)


def blank_batch(size: int) -> dict[str, np.ndarray]:
    images = np.zeros((size, 8, 8, 1), np.uint8)
    return {"image": images, "label": np.zeros(size, np.int32)}


@pytest.mark.usefixtures("compilation_with_optimizations")
def test_each_device_computes_its_share_only(tiny_config):
    """By XLA's count, which is of one device: a quarter of the work on four."""
    tiny_config.batch_size = 256
    batch = blank_batch(256)
    graphdef, state = train_step.create(tiny_config, (8, 8, 1), 10)

    def flops(count: int) -> float:
        devices = Devices(jax.devices()[:count])
        step = train_step.make_train_step(graphdef, tiny_config, devices)
        lowered = step.lower(devices.replicate(state), devices.shard(batch))
        cost: Any = lowered.compile().cost_analysis()
        return cost["flops"]

    assert flops(4) < 0.3 * flops(1)


def test_on_gpus_the_fused_kernels_get_one_devices_rows(tiny_config):
    """Lowered for two H200s, a step has the kernels that one has for half the batch."""
    tiny_config.model.routing.implementation = "mosaic_gpu"

    def kernels(count: int, batch_size: int) -> list[str]:
        config = tiny_config.replace(batch_size=batch_size)
        devices = Devices(jax.devices()[:count])
        batch = blank_batch(batch_size)
        with gpu.ahead_of_time("NVIDIA H200"):
            graphdef, state = train_step.create(config, (8, 8, 1), 10)
            step = train_step.make_train_step(graphdef, config, devices)
            traced = step.trace(devices.replicate(state), devices.shard(batch))
            text = traced.lower(lowering_platforms=("cuda",)).as_text()
        assert "all_gather" not in text
        return re.findall(r"mosaic_gpu_v2.*(: \(.*)", text)

    assert kernels(2, 256) == kernels(1, 128) != kernels(1, 256)


def test_rows_of_the_only_process_are_the_batch():
    for count in (1, 2, 4):
        assert Devices(jax.devices()[:count]).rows(8) == slice(0, 8)


@pytest.fixture
def compilations() -> Iterator[list[str]]:
    """Grows with each program that XLA compiles."""
    events: list[str] = []

    def listen(event: str, duration_secs: float, **details: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            events.append(str(details))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    jax.monitoring.unregister_event_duration_listener(listen)


def test_the_first_step_compiles_and_no_other(tiny_config, digits_data, compilations):
    """Whatever state it starts from: a new one, or NumPy arrays of a checkpoint."""
    batches = TrainBatches(digits_data.train, tiny_config.batch_size, 0)
    graphdef, state = train_step.create(tiny_config, (8, 8, 1), 10)
    for mode in MODES:
        devices = Devices(jax.devices()[:2], mode)
        step = train_step.make_train_step(graphdef, tiny_config, devices)
        for start in (state, jax.device_get(state)):
            # A copy, for the step takes the memory of what it is given.
            current = devices.replicate(jax.tree.map(np.copy, start))
            compilations.clear()
            current, _ = step(current, devices.shard(batches.batch(0)))
            assert compilations or start is not state
            compilations.clear()
            for index in (1, 2):
                before = current
                current, _ = step(before, devices.shard(batches.batch(index)))
                # The state's memory is used again.
                assert all(x.is_deleted() for x in jax.tree.leaves(before))
            assert not compilations


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_devices": 5}, r"num_devices is 5, but there are 4 \(cpu\).*cpu_devices"),
        ({"batch_size": 18, "num_devices": 4}, r"batch_size is 18.* 4 devices.* 16"),
        ({"batch_size": 3, "num_devices": 0}, r"batch_size is 3.* 4 devices.* 4"),
    ],
)
def test_devices_that_do_not_fit_are_refused_with_the_numbers(
    changes, words, tiny_config
):
    with pytest.raises(UserError, match=words):
        parallel.choose(tiny_config.replace(**changes))


def test_bfloat16_computes_in_bfloat16_and_keeps_float32(tiny_config, digits_data):
    """Parameters, optimizer and metrics stay float32; products are of bfloat16.

    On a GPU: a CPU has no units for such products, and transforms in float32.
    """
    tiny_config.dtype = "bfloat16"
    batch = TrainBatches(digits_data.train, tiny_config.batch_size, 0).batch(0)
    graphdef, state = train_step.create(tiny_config, (8, 8, 1), 10)
    step = train_step.make_train_step(graphdef, tiny_config, ONE)
    traced = step.trace(ONE.replicate(state), ONE.shard(batch))
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    products = re.findall(
        r"stablehlo\.(?:dot_general|convolution).*: (\(.*?\)) ->", text
    )
    assert products
    assert all(operands.count("bf16") == 2 for operands in products)
    state, metrics = step(ONE.replicate(state), ONE.shard(batch))
    dtypes = {x.dtype for x in jax.tree.leaves((state.params, metrics))}
    assert dtypes == {jnp.dtype(jnp.float32)}
    floats = {x.dtype for x in jax.tree.leaves(state.opt_state) if x.ndim}
    assert floats == {jnp.dtype(jnp.float32)}


def test_bfloat16_learns_as_float32_does(tiny_config, digits_data):
    """The same batches for 60 steps: losses within a few per cent all the way."""
    curves = {}
    tiny_config.batch_size = 64
    for dtype in config_lib.DTYPES:
        tiny_config.dtype = dtype
        metrics, _ = take_steps(tiny_config, digits_data, 60)
        losses = [row["loss"] for row in metrics]
        # Means of ten steps; single batches differ by more than the dtypes do.
        curves[dtype] = np.asarray(losses).reshape(6, 10).mean(axis=1)
    assert curves["float32"][-1] < 0.6 * curves["float32"][0]
    np.testing.assert_allclose(curves["bfloat16"], curves["float32"], rtol=0.05)
    assert np.any(curves["bfloat16"] != curves["float32"])


def test_half_precision_output_of_a_model_is_float32(tiny_config):
    graphdef, state = train_step.create(tiny_config, (8, 8, 1), 10)
    images = jnp.asarray(np.random.default_rng(0).uniform(size=(3, 8, 8, 1)), "float32")
    labels = jnp.arange(3)
    exact, rounded = (
        models.apply(graphdef, state.variables, images, labels, dtype)[0]
        for dtype in config_lib.DTYPES
    )
    for a, b in zip(jax.tree.leaves(rounded), jax.tree.leaves(exact), strict=True):
        assert a.dtype == jnp.float32
        # Eight bits in each of a handful of layers.
        np.testing.assert_allclose(a, b, atol=0.03)
