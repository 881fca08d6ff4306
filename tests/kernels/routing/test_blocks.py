"""A function of a batch is the same in one block and in several."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.routing import blocks

P, Q, BYTES = 3, 5, 100


class Examples(NamedTuple):
    x: jax.Array
    scale: jax.Array
    nothing: None = None


def arguments(B):
    rng = np.random.default_rng(B)
    weights, x, scale = (
        jnp.asarray(rng.normal(size=shape), jnp.float32)
        for shape in ((P, Q), (B, 2, P), (B,))
    )
    return weights, Examples(x, scale)


def run(weights, examples):
    """Norms have no gradient at zero, so blocks must not be filled up with zeros."""

    def of_some(examples):
        y = jnp.linalg.norm(jnp.tanh(examples.x @ weights), axis=-1)
        return {"y": y * examples.scale[:, None], "scale": examples.scale**2}, None

    return blocks.over_examples(of_some, examples, BYTES)


def with_gradients(weights, examples):
    """Traced anew at each call, with the budget of then."""

    def loss(weights, examples):
        found, nothing = run(weights, examples)
        assert nothing is None
        return jnp.sum(jnp.sin(found["y"])) + jnp.sum(found["scale"] ** 2), found

    gradient = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    program = jax.jit(gradient).trace(weights, examples)
    found = program.lower().compile()(weights, examples)
    return found, "scan" in str(program.jaxpr)


@pytest.mark.parametrize(
    ("B", "per_block"), [(1, 0), (3, 0), (7, 2), (7, 3), (8, 3), (8, 4), (8, 7), (8, 8)]
)
def test_blocks_change_no_value_and_no_gradient(B, per_block, monkeypatch):
    """Also where their size does not divide the batch, or an example is too large."""
    together, in_blocks = with_gradients(*arguments(B))
    assert not in_blocks
    monkeypatch.setattr(blocks, "_CPU_BLOCK_BYTES", max(per_block * BYTES, 1))
    apart, in_blocks = with_gradients(*arguments(B))
    assert in_blocks == (max(per_block, 1) < B)
    for a, b in zip(*map(jax.tree.leaves, (apart, together)), strict=True):
        assert np.all(np.isfinite(a))
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_no_array_is_larger_than_a_block(monkeypatch):
    """Neither on the way there nor on the way back."""
    B, N = 12, 1000
    monkeypatch.setattr(blocks, "_CPU_BLOCK_BYTES", 4 * N * 4)

    def of_some(x):
        wide = jnp.sin(x[:, None] * jnp.arange(N, dtype=jnp.float32)[None])
        wide = jax.lax.optimization_barrier(wide)
        return jnp.sum(jnp.cos(wide) * wide, axis=1)

    def loss(x):
        return jnp.sum(blocks.over_examples(of_some, x, 4 * N))

    def temporaries(function):
        program = jax.jit(jax.grad(function)).lower(jnp.ones(B)).compile()
        memory = program.memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    assert temporaries(loss) < B * N * 4
    assert temporaries(lambda x: jnp.sum(of_some(x))) >= B * N * 4
