"""The CapsNet in PyTorch that ours is compared with."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.benchmarks import against
from kernels.routing import route
from tests.launching import assert_one_line, finish, start

SCRIPT = "experiments/torch_capsnet_step.py"


def test_without_torch_it_says_what_to_install():
    without = "import runpy, sys; sys.modules['torch'] = None; "
    process = finish(start("-c", f"{without}runpy.run_path({SCRIPT!r})"))
    assert_one_line(process, "PyTorch", "pip install -e '.[torch]'")


def test_its_parameters_are_those_of_ours():
    """As many as mnist.py:authors_code has in all, and in each part."""
    pytest.importorskip("torch")
    from experiments.torch_capsnet_step import CapsNet

    parts: dict[str, int] = {}
    for name, parameter in CapsNet().named_parameters():
        part = name.partition(".")[0]
        parts[part] = parts.get(part, 0) + parameter.numel()
    assert parts == {
        "conv1": 9 * 9 * 256 + 256,
        "primary": 9 * 9 * 256 * 256,
        "primary_bias": 256,
        "weights": 1152 * 10 * 16 * 8,
        "bias": 10 * 16,
        "decoder": 161 * 512 + 513 * 1024 + 1025 * 784,
    }
    assert sum(parts.values()) == 8_215_728


def test_its_routing_is_ours():
    torch = pytest.importorskip("torch")
    from experiments.torch_capsnet_step import CapsNet, squash

    rng = np.random.default_rng(0)
    u = rng.normal(size=(2, 1152, 8)).astype(np.float32)
    model = CapsNet()
    with torch.no_grad():
        model.bias.zero_()
        weights = model.weights.view(1152, 8, 10, 16)
        votes = torch.einsum("bip,ipjq->bjiq", torch.tensor(u), weights)
        poses = model.route(votes).numpy()
        np.testing.assert_allclose(squash(torch.zeros(1, 16)).numpy(), 0)
    W = np.transpose(weights.detach().numpy(), (0, 2, 3, 1))
    expected = route(
        jnp.asarray(u), jnp.asarray(W), num_iterations=3, implementation="reference"
    )
    np.testing.assert_allclose(poses, expected, rtol=1e-3, atol=1e-5)


def test_it_prints_the_line_that_comparisons_read():
    pytest.importorskip("torch")
    flags = ["--batch_size=2", "--repeats=1", "--no-compile"]
    report = against.run([sys.executable, SCRIPT, *flags])
    assert report.batch == 2
    assert report.seconds.keys() == {"full_step_s", "conv_only_s"}
