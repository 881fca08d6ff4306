"""What each routing iteration does, against float64 NumPy and against `route`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.routing import diagnose, route
from tests.kernels.routing import reference as routing_reference

# As they run for users.
pytestmark = pytest.mark.usefixtures("compilation_with_optimizations")


def make_arguments(B=4, I=7, P=5, J=3, Q=6, seed=0):
    """Inputs, weights and bias in float64."""
    rng = np.random.default_rng(seed)
    u = rng.normal(size=(B, I, P)) / np.sqrt(P)
    W = rng.normal(size=(I, J, Q, P)) * 2 / np.sqrt(I)
    return u, W, rng.normal(size=(J, Q)) * 0.3


def float32(arguments):
    return [jnp.asarray(x, jnp.float32) for x in arguments]


def run(arguments, **options):
    """What is found, as float64."""
    found = jax.jit(functools.partial(diagnose, **options))(*arguments)
    return [np.asarray(x, np.float64) for x in found]


def in_float64(arguments, num_iterations, leaky):
    """From the definition: every example, every input capsule on its own."""
    u, W, bias = arguments
    I, J = W.shape[:2]
    changes, entropies = np.zeros((2, num_iterations, len(u)))
    for example, inputs in enumerate(u):
        votes = np.array([[W[i, j] @ inputs[i] for j in range(J)] for i in range(I)])
        logits = np.zeros((I, J))
        for t in range(num_iterations):
            outcomes = np.concatenate([logits, np.zeros((I, int(leaky)))], axis=1)
            shares = np.exp(outcomes)
            shares /= shares.sum(axis=1, keepdims=True)
            entropies[t, example] = np.mean(-np.sum(shares * np.log(shares), axis=1))
            s = np.einsum("ij,ijq->jq", shares[:, :J], votes) + bias
            change = np.einsum("ijq,jq->ij", votes, routing_reference.squash(s))
            changes[t, example] = np.mean(np.abs(change))
            logits = logits + change
    return changes.mean(axis=1), entropies.mean(axis=1)


@pytest.mark.parametrize("num_iterations", [1, 4])
@pytest.mark.parametrize("leaky", [False, True])
def test_numbers_against_their_definition(num_iterations, leaky):
    arguments = make_arguments()
    changes, entropies = in_float64(arguments, num_iterations, leaky)
    found = run(float32(arguments), num_iterations=num_iterations, leaky=leaky)
    np.testing.assert_allclose(found[0], changes, rtol=2e-5)
    np.testing.assert_allclose(found[1], entropies, rtol=2e-5)


@pytest.mark.parametrize("leaky", [False, True])
def test_the_iterations_are_routes(leaky):
    """After iteration t the poses are those of routing with t iterations."""
    u, W, bias = float32(make_arguments())
    changes, _ = run((u, W, bias), num_iterations=3, leaky=leaky)
    votes = np.einsum("ijqp,bip->bijq", np.float64(W), np.float64(u))
    for t in (1, 2, 3):
        poses = np.asarray(route(u, W, bias, num_iterations=t, leaky=leaky), np.float64)
        expected = np.mean(np.abs(np.einsum("bijq,bjq->bij", votes, poses)))
        np.testing.assert_allclose(changes[t - 1], expected, rtol=2e-5)


def test_coupling_starts_uniform_and_sharpens():
    arguments = float32(make_arguments(J=5))
    for leaky in (False, True):
        _, entropies = run(arguments, num_iterations=4, leaky=leaky)
        np.testing.assert_allclose(entropies[0], np.log(5 + leaky), rtol=1e-6)
        assert np.all(np.diff(entropies) < -1e-3)


def test_without_a_bias():
    u, W, _ = make_arguments()
    found = run(float32((u, W)), num_iterations=2)
    expected = in_float64((u, W, np.zeros(W.shape[1:3])), 2, False)
    np.testing.assert_allclose(found, expected, rtol=2e-5)


def test_certain_coupling_has_entropy_zero():
    """Logits so large that all other shares vanish: no NaN from the logarithm of 0."""
    u, W, bias = make_arguments()
    _, entropies = run(float32((u, 1e4 * W, bias)), num_iterations=3)
    np.testing.assert_allclose(entropies[1:], 0, atol=1e-3)


def test_a_whole_batch_is_the_mean_of_its_examples():
    u, W, bias = float32(make_arguments())
    together = run((u, W, bias), num_iterations=3)
    alone = [run((u[i : i + 1], W, bias), num_iterations=3) for i in range(len(u))]
    np.testing.assert_allclose(together, np.mean(alone, axis=0), rtol=1e-5)


def test_half_precision_is_summed_in_float32():
    arguments = [x.astype(jnp.bfloat16) for x in float32(make_arguments(I=300))]
    found = jax.jit(functools.partial(diagnose, num_iterations=3))(*arguments)
    exact = [np.asarray(x, np.float64) for x in arguments]
    for values, expected in zip(found, in_float64(exact, 3, False), strict=True):
        assert values.dtype == jnp.float32
        np.testing.assert_allclose(values, expected, rtol=4 * 2**-9)


def test_votes_of_one_example_at_a_time_are_in_memory():
    """By XLA's own account, at the paper's MNIST sizes."""
    B, I, P, J, Q = 64, 1152, 8, 10, 16
    shapes = [(B, I, P), (I, J, Q, P), (J, Q)]
    call = jax.jit(functools.partial(diagnose, num_iterations=3))
    lowered = call.lower(*(jax.ShapeDtypeStruct(x, jnp.float32) for x in shapes))
    analysis = lowered.compile().memory_analysis()
    assert analysis is not None
    # One example's votes take a 64th of this.
    assert analysis.temp_size_in_bytes < 4 * B * I * J * Q / 4


def test_bad_arguments_are_refused_with_the_shapes():
    u, W, bias = float32(make_arguments())
    with pytest.raises(ValueError, match=r"\(4, 7, 4\)"):
        diagnose(u[:, :, :4], W, bias, num_iterations=3)
    with pytest.raises(ValueError, match="num_iterations"):
        diagnose(u, W, bias, num_iterations=0)
