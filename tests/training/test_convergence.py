"""Training with one routing implementation or another: the same losses.

References:
    The convergence tests of Liger-Kernel: what a kernel gets wrong in the gradients and
    no test of single calls catches adds up here.
"""

import jax
import numpy as np
import pytest

from capsjax import data
from experiments.configs import digits, mnist
from kernels import gpu
from tests.stepping import take_steps

# Each takes seconds in the interpreter.
STEPS = 13 if gpu.interpreted() else 20
# Of the loss, relative. Rounding to float16 in the kernels, and what twenty steps of
# Adam make of it; float32's own rounding for the others.
BOUNDS = {"mosaic_gpu": 2e-3, "xla": 2e-5}


def losses(config, dataset, implementation):
    """The training losses of the first steps, in float64."""
    config = config.replace(model=config.model.routed_by(implementation))
    metrics, _ = take_steps(config, dataset, STEPS)
    return np.asarray([row["loss"] for row in metrics], np.float64)


def small(config, stride):
    """Eight primary capsules, as the interpreter is slow."""
    config.batch_size = 16
    config.model.conv1_channels = 16
    config.model.primary_types = 2
    config.model.primary_stride = stride
    config.model.decoder_units = (32,)
    # Fast enough for the coupling to move within the steps.
    config.optimizer.learning_rate = 3e-3
    return config


def check(config, dataset):
    expected = losses(config, dataset, "reference")
    assert expected[-1] < 0.9 * expected[0]
    for implementation, bound in BOUNDS.items():
        found = losses(config, dataset, implementation)
        np.testing.assert_allclose(found, expected, rtol=bound, err_msg=implementation)


@pytest.mark.usefixtures("compilation_with_optimizations")
@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:mosaic_gpu routing without a GPU")
def test_digits():
    dataset = data.load("digits", validation_examples=180)
    check(small(digits.get_config(), stride=3), dataset)


@pytest.mark.usefixtures("compilation_with_optimizations")
@pytest.mark.gpu
@pytest.mark.skipif(gpu.interpreted(), reason="the interpreter takes a minute for it")
def test_mnist(tfds_data_dir):
    dataset = data.load("mnist", data_dir=tfds_data_dir, validation_examples=5_000)
    check(small(mnist.get_config("authors_code"), stride=6), dataset)


@pytest.mark.usefixtures("compilation_with_optimizations")
@pytest.mark.gpu
@pytest.mark.skipif(gpu.interpreted(), reason="needs a Hopper GPU")
def test_mnist_in_full_size(tfds_data_dir):
    dataset = data.load("mnist", data_dir=tfds_data_dir, validation_examples=5_000)
    with jax.default_matmul_precision("highest"):
        check(mnist.get_config("authors_code"), dataset)
