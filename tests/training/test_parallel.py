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
from capsjax import data, models
from capsjax.config import Config
from capsjax.data import TrainBatches
from capsjax.errors import UserError
from capsjax.losses import cross_entropy
from capsjax.models import baseline_cnn
from capsjax.training import parallel
from capsjax.training import step as train_step
from capsjax.training.evaluate import evaluate, make_eval_step
from capsjax.training.parallel import Devices
from kernels import gpu

pytestmark = pytest.mark.skipif(
    len(jax.devices()) < 4, reason="needs four devices, as a CPU is made into here"
)
STEPS = 4
MODES = ("jit", "pmap")


@pytest.fixture(scope="module")
def digits_data() -> data.Dataset:
    return data.load("digits", validation_examples=100)


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


def train(config: Config, dataset: data.Dataset, devices: Devices):
    """Metrics of each step, and the parameters before, after the first, at the end."""
    batches = TrainBatches(dataset.train, config.batch_size, config.seed)
    graphdef, state = train_step.create(config, dataset.image_shape, 10)
    params = [jax.device_get(state.params)]
    state = devices.replicate(state)
    step = train_step.make_train_step(graphdef, config, devices)
    rows = devices.rows(config.batch_size)
    found = []
    for index in range(STEPS):
        state, metrics = step(state, devices.shard(batches.batch(index, rows)))
        found.append(jax.device_get(metrics))
        if index == 0:
            params.append(jax.device_get(state.params))
    return found, [*params, jax.device_get(state.params)]


@pytest.fixture(scope="module")
def on_one_device(digits_data):
    """Trains a model on one device, once for all tests."""
    runs: dict[str, tuple] = {}

    def run(name: str, config: Config):
        if name not in runs:
            runs[name] = train(config, digits_data, Devices(jax.devices()[:1]))
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
    metrics, (start, first, last) = on_one_device(name, config)
    devices = Devices(jax.devices()[:count], mode)
    found, (same_start, found_first, found_last) = train(config, digits_data, devices)
    for row, expected in zip(found, metrics, strict=True):
        assert row.keys() == expected.keys()
        for key in expected:
            np.testing.assert_allclose(row[key], expected[key], rtol=2e-5, err_msg=key)

    rate = config.optimizer.learning_rate
    for index, before in enumerate(jax.tree.leaves(start)):
        after, found_after, end, found_end, found_before = (
            jax.tree.leaves(tree)[index]
            for tree in (first, found_first, last, found_last, same_start)
        )
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
    for devices in (Devices(jax.devices()[:1]), Devices(jax.devices()[:count], mode)):
        step = make_eval_step(graphdef, tiny_config, devices)
        variables = devices.replicate(state.variables)
        results.append(evaluate(step, variables, images, 10, devices))
    expected, found = results
    np.testing.assert_array_equal(found.predictions, expected.predictions)
    assert found.metrics == pytest.approx(expected.metrics, rel=1e-5)


def test_each_device_computes_its_share_only(tiny_config):
    """By XLA's count, which is of one device: a quarter of the work on four."""
    tiny_config.batch_size = 256
    batch = {
        "image": np.zeros((256, 8, 8, 1), np.uint8),
        "label": np.zeros(256, np.int32),
    }
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
        batch = {
            "image": np.zeros((batch_size, 8, 8, 1), np.uint8),
            "label": np.zeros(batch_size, np.int32),
        }
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
                current, _ = step(current, devices.shard(batches.batch(index)))
            assert not compilations


def test_the_states_memory_is_used_again(tiny_config, digits_data):
    batches = TrainBatches(digits_data.train, tiny_config.batch_size, 0)
    graphdef, state = train_step.create(tiny_config, (8, 8, 1), 10)
    for mode in MODES:
        devices = Devices(jax.devices()[:2], mode)
        step = train_step.make_train_step(graphdef, tiny_config, devices)
        before = devices.replicate(jax.device_get(state))
        step(before, devices.shard(batches.batch(0)))
        assert all(x.is_deleted() for x in jax.tree.leaves(before))


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
    devices = Devices(jax.devices()[:1])
    batch = TrainBatches(digits_data.train, tiny_config.batch_size, 0).batch(0)
    graphdef, state = train_step.create(tiny_config, (8, 8, 1), 10)
    step = train_step.make_train_step(graphdef, tiny_config, devices)
    traced = step.trace(devices.replicate(state), devices.shard(batch))
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    products = re.findall(
        r"stablehlo\.(?:dot_general|convolution).*: (\(.*?\)) ->", text
    )
    assert products
    assert all(operands.count("bf16") == 2 for operands in products)
    state, metrics = step(devices.replicate(state), devices.shard(batch))
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
        devices = Devices(jax.devices()[:1])
        batches = TrainBatches(digits_data.train, 64, seed=0)
        graphdef, state = train_step.create(tiny_config, (8, 8, 1), 10)
        state = devices.replicate(state)
        step = train_step.make_train_step(graphdef, tiny_config, devices)
        losses = []
        for index in range(60):
            state, metrics = step(state, devices.shard(batches.batch(index)))
            losses.append(float(metrics["loss"]))
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
