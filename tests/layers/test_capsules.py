"""Routed capsules on grids, with matrices as poses and with shared weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from capsjax.errors import SettingsError
from capsjax.layers import ConvCapsules, DepthwisePrimaryCapsules, RoutedCapsules
from capsjax.routings import (
    Capsules,
    Sizes,
    dynamic,
    inverted_attention,
    self_routing,
    uniform,
)
from kernels.routing.votes import Windows
from tests.kernels.routing import comparisons, reference

B, I, J, D = 2, 2, 3, 2
H, W = 4, 3
RNG = np.random.default_rng(0)


def normal(key, shape, dtype=jnp.float32, out_sharding=None):
    """Numbers to start from that need no compiler."""
    return jnp.asarray(np.random.default_rng(1).normal(size=shape), dtype)


def poses_of(matrices):
    pose = (D, D) if matrices else (5,)
    return RNG.normal(size=(B, H, W, I, *pose)).astype(np.float32)


def run(layer, poses):
    return jax.jit(lambda poses: layer(Capsules(poses)))(poses)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("matrices", [False, True])
def test_capsules_on_a_grid(matrices, bias):
    """Weights are those of (kernel row, kernel column, capsule) in every window."""
    K, S, padding = windows = Windows(3, 2, 1)
    P, Q = (D * D, D * D) if matrices else (5, 6)
    layer = ConvCapsules(
        Sizes(I, P, J, Q),
        windows,
        routing=dynamic.Config(iterations=2),
        weights_init=normal,
        bias_init=normal if bias else None,
        matrices=matrices,
        rngs=nnx.Rngs(0),
    )
    weights = np.float64(layer.weights[...])
    assert weights.shape == (K, K, I, J, *((D, D) if matrices else (Q, P)))
    poses = poses_of(matrices)
    found = run(layer, poses)
    h, w = (H + 1) // 2, (W + 1) // 2
    assert found.poses.shape == (B, h, w, J, *((D, D) if matrices else (Q,)))
    for b, y, x in np.ndindex(B, h, w):
        votes = np.zeros((K, K, I, J, Q))
        for row, column, i, j in np.ndindex(K, K, I, J):
            place = S * y + row - padding, S * x + column - padding
            if 0 <= place[0] < H and 0 <= place[1] < W:
                u, M = poses[b, *place, i], weights[row, column, i, j]
                vote = u @ M if matrices else M @ u
                votes[row, column, i, j] = vote.flatten()
        expected, _ = reference.route_votes(
            votes.reshape(-1, J, Q),
            None if layer.bias is None else layer.bias[...],
            num_iterations=2,
        )
        np.testing.assert_allclose(
            found.poses[b, y, x].reshape(J, Q), expected, atol=1e-5
        )


def shared(**options):
    return RoutedCapsules(
        Sizes(H * W * I, D * D, J, D * D),
        routing=uniform.Config(),
        weights_init=normal,
        matrices=True,
        shared_over=(H, W),
        rngs=nnx.Rngs(0),
        **options,
    )


def test_shared_weights_and_coordinates():
    """Places differ by the coordinates that are added to their votes alone."""
    layer = shared()
    weights = np.float64(layer.weights[...])
    assert weights.shape == (I, J, D, D)
    poses = poses_of(True)
    found = run(layer, poses)
    assert found.poses.shape == (B, J, D, D)
    for b in range(B):
        votes = np.zeros((H, W, I, J, D, D))
        for row, column, i, j in np.ndindex(H, W, I, J):
            vote = poses[b, row, column, i] @ weights[i, j]
            vote[0, -1] += (row + 0.5) / H
            vote[1, -1] += (column + 0.5) / W
            votes[row, column, i, j] = vote
        expected, _ = reference.route_votes(
            votes.reshape(-1, J, D * D), num_iterations=1
        )
        np.testing.assert_allclose(found.poses[b], expected.reshape(J, D, D), atol=1e-5)


def test_shared_weights_are_for_one_grid():
    """Another number of capsules is refused, below and when the layer is built."""
    with pytest.raises(ValueError, match="do not suit"):
        run(shared(), poses_of(True)[:, 1:])
    with pytest.raises(SettingsError, match=r"25 capsules .* 4x3"):
        RoutedCapsules(
            Sizes(25, D * D, J, D * D),
            routing=uniform.Config(),
            weights_init=normal,
            matrices=True,
            shared_over=(H, W),
            rngs=nnx.Rngs(0),
        )


@pytest.mark.parametrize("matrices", [False, True])
def test_capsules_without_activations_get_logits(matrices):
    """By one linear map of the poses, the same for all classes."""

    def layer(**options):
        return RoutedCapsules(
            Sizes(H * W * I, D * D, J, D * D),
            routing=inverted_attention.Config(),
            weights_init=normal,
            matrices=matrices,
            rngs=nnx.Rngs(0),
            **options,
        )

    poses = poses_of(True)
    if not matrices:
        poses = poses.reshape(B, H, W, I, D * D)
    with_readout = layer()
    found = run(with_readout, poses)
    assert found.poses.shape == (B, J, *((D, D) if matrices else (D * D,)))
    kernel, bias = with_readout.readout.kernel[...], with_readout.readout.bias[...]
    expected = np.asarray(found.poses).reshape(B, J, D * D) @ np.asarray(kernel)
    assert found.activations.dtype == jnp.float32
    np.testing.assert_allclose(
        found.activations, expected[:, :, 0] + np.asarray(bias), atol=1e-5
    )
    without = run(layer(readout=False), poses)
    assert without.activations is None
    np.testing.assert_array_equal(without.poses, found.poses)


def test_matrices_below_and_above_have_one_size():
    for P, Q in ((4, 9), (5, 5)):
        with pytest.raises(SettingsError, match=f"d x d elements .* {P} and {Q}"):
            RoutedCapsules(
                Sizes(7, P, J, Q),
                routing=uniform.Config(),
                weights_init=normal,
                matrices=True,
                rngs=nnx.Rngs(0),
            )


def class_capsules(routing, **options):
    return RoutedCapsules(
        Sizes(H * W * I, 5, J, 6),
        routing=routing,
        weights_init=normal,
        rngs=nnx.Rngs(0),
        **options,
    )


def test_activations_alone():
    """Without matrices where the routing needs none; else those of a call."""
    capsules = Capsules(
        poses_of(False), jnp.asarray(RNG.uniform(size=(B, H, W, I)), jnp.float32)
    )
    layer = class_capsules(self_routing.Config(), poses=False)
    assert layer.weights is None
    whole = class_capsules(self_routing.Config())
    for one in (layer, whole):
        one.routing.routing_weights[...] = normal(None, (H * W * I, J, 5))
    expected = whole(capsules).activations
    for one in (layer, whole):
        np.testing.assert_allclose(one.activations(capsules), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="has no poses"):
        layer(capsules)
    logits = class_capsules(inverted_attention.Config(), poses=False)
    assert logits.activations(capsules).shape == (B, J)
    silent = class_capsules(inverted_attention.Config(), readout=False)
    with pytest.raises(ValueError, match="gives no activations"):
        silent.activations(capsules)


def test_primary_capsules_as_published(routing_fixture):
    fixture = routing_fixture("self_attention_primary")
    kernel = fixture["depthwise_kernel"]
    layer = DepthwisePrimaryCapsules(
        kernel.shape[-1],
        len(kernel),
        fixture["meta"]["dimension"],
        stride=1,
        rngs=nnx.Rngs(0),
    )
    layer.kernel[...] = jnp.asarray(kernel, jnp.float32)
    layer.bias[...] = jnp.asarray(fixture["depthwise_bias"], jnp.float32)
    poses = jax.jit(layer.__call__)(jnp.asarray(fixture["images"], jnp.float32))
    comparisons.assert_close(poses, fixture["out_poses"], 2e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_primary_capsules_at_several_places(stride):
    """In the order (row, column, type); a capsule is ``dim`` channels in sequence."""
    K, channels, dim = 3, 6, 2
    layer = DepthwisePrimaryCapsules(channels, K, dim, stride=stride, rngs=nnx.Rngs(0))
    layer.bias[...] = normal(None, (channels,))
    kernel, bias = np.asarray(layer.kernel[...]), np.asarray(layer.bias[...])
    x = RNG.normal(size=(B, 5, 4, channels)).astype(np.float32)
    sums = [
        (x[:, y : y + K, z : z + K] * kernel[None, :, :, 0]).sum(axis=(1, 2)) + bias
        for y in range(0, 3, stride)
        for z in range(0, 2, stride)
    ]
    s = np.stack(sums, axis=1).reshape(B, -1, dim)
    length = np.linalg.norm(s, axis=-1, keepdims=True)
    found = jax.jit(layer.__call__)(x)
    np.testing.assert_allclose(found, (1 - np.exp(-length)) * s / length, atol=1e-5)
