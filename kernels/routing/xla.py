"""Routing without forming the votes, in plain JAX, with its own gradient.

Let V^t be the sum of the poses of the iterations before t. Then the routing logits are
``votes . V^t = u . T`` with ``T_bijp = sum_q V_bjq W_ijqp``, and the weighted sum of
the votes is ``S(c)_bjq = sum_ip (c_ij u_ip) W_ijqp``. Neither needs the votes
themselves, nor the logits of the iteration before.

Arrays are laid out [J, b, P, I], so that the sum over the P dimensions of a capsule
adds P arrays and the softmax over the J outputs runs over the leading axis: both are
elementwise over long contiguous rows of I. The batch is taken in blocks, small enough
on a CPU that a block's T stays in the cache. The gradient keeps only the total inputs
s^t [B, J, Q] and computes all else again.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.routing.squash import squash

# Bytes of one block's T. On a CPU a block should stay in the last-level cache; an
# accelerator wants large blocks and only has to be kept from running out of memory.
_CPU_BLOCK_BYTES = 6 * 2**20
_ACCELERATOR_BLOCK_BYTES = 512 * 2**20
# With fewer rows than this, reading the weights costs more than the cache saves.
_MIN_BLOCK_ROWS = 8


def route(
    inputs: Float[Array, "B I P"],
    weights: Float[Array, "I J Q P"],
    bias: Float[Array, "J Q"] | None,
    *,
    num_iterations: int,
    leaky: bool,
    stop_gradient: bool,
) -> Float[Array, "B J Q"]:
    """See `kernels.routing.route`. Reverse-mode gradients only, of the first order."""
    if bias is None:
        bias = jnp.zeros(weights.shape[1:3], weights.dtype)
    options = _Options(num_iterations, leaky, stop_gradient)
    return _route(options, inputs, weights, bias)


class _Options(NamedTuple):
    num_iterations: int
    leaky: bool
    stop_gradient: bool


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _route(options: _Options, inputs: Array, weights: Array, bias: Array) -> Array:
    return _route_fwd(options, inputs, weights, bias)[0]


def _route_fwd(options: _Options, inputs: Array, weights: Array, bias: Array):
    B, blocks = inputs.shape[0], _to_blocks(inputs, weights)
    w = weights.transpose(1, 2, 3, 0)
    s = jax.lax.map(lambda u: _forward(options, u, w, bias), blocks)  # [n, r, b, J, Q]
    s = s.swapaxes(0, 1).reshape(options.num_iterations, -1, *bias.shape)[:, :B]
    return squash(s[-1]).astype(inputs.dtype), (inputs, weights, bias, s)


def _route_bwd(options: _Options, residuals, gradient: Array):
    inputs, weights, bias, s = residuals
    (B, I, P), blocks = inputs.shape, _to_blocks(inputs, weights)
    n, b = blocks.shape[:2]
    w = weights.transpose(1, 2, 3, 0)

    def split(x: Array) -> Array:  # [r, B, J, Q] -> [n, r, b, J, Q]
        x = jnp.pad(x, [(0, 0), (0, n * b - B), (0, 0), (0, 0)])
        return x.reshape(-1, n, b, *bias.shape).swapaxes(0, 1)

    def block(sums, x):
        du, *terms = _backward(options, *x, w)
        return [total + term for total, term in zip(sums, terms, strict=True)], du

    zeros = [jnp.zeros(w.shape, s.dtype), jnp.zeros(bias.shape, s.dtype)]
    (dw, dbias), du = jax.lax.scan(
        block, zeros, (blocks, split(s), split(gradient[None])[:, 0])
    )
    du = du.swapaxes(2, 3).reshape(n * b, I, P)[:B]
    dw = dw.transpose(3, 0, 1, 2)
    return tuple(x.astype(inputs.dtype) for x in (du, dw, dbias))


_route.defvjp(_route_fwd, _route_bwd)


def _to_blocks(inputs: Array, weights: Array) -> Float[Array, "n b P I"]:
    """Pads the batch with zeros, which route to zeros, and splits it into blocks."""
    B, I, P = inputs.shape
    on_cpu = jax.default_backend() == "cpu"
    budget = _CPU_BLOCK_BYTES if on_cpu else _ACCELERATOR_BLOCK_BYTES
    rows = max(_MIN_BLOCK_ROWS, budget // (4 * weights.shape[1] * I * P))
    n = -(-B // rows)
    b = -(-B // n)
    padded = jnp.pad(inputs, [(0, n * b - B), (0, 0), (0, 0)])
    return padded.reshape(n, b, I, P).swapaxes(2, 3)


def _transform(
    V: Float[Array, "b J Q"], w: Float[Array, "J Q P I"]
) -> Float[Array, "J b P I"]:
    """T = V W: what an output direction looks like from each input capsule."""
    return jnp.einsum(
        "bjq,jqpi->jbpi", V.astype(w.dtype), w, preferred_element_type=V.dtype
    )


def _sum_votes(
    scaled_inputs: Float[Array, "J b P I"], w: Float[Array, "J Q P I"], dtype
) -> Float[Array, "b J Q"]:
    """Sum over input capsules of the votes, each scaled as its input is."""
    return jnp.einsum(
        "jbpi,jqpi->bjq", scaled_inputs, w, preferred_element_type=dtype
    )


def _agreement(u: Float[Array, "b P I"], T: Float[Array, "J b P I"]) -> Array:
    """Dot products [J, b, I] of the votes with the direction that T was made from."""
    return jnp.sum(u.astype(T.dtype)[None] * T, axis=2)


def _softmax(logits: Float[Array, "J b I"], leaky: bool) -> Array:
    top = jnp.max(logits, axis=0)
    if leaky:
        top = jnp.maximum(top, 0)
    e = jnp.exp(logits - top[None])
    total = jnp.sum(e, axis=0)
    if leaky:
        total = total + jnp.exp(-top)
    return e / total[None]


def _scale(u: Float[Array, "b P I"], k: Float[Array, "J b I"]) -> Array:
    """Inputs scaled by one coefficient for each output, in the inputs' dtype."""
    return (k[:, :, None, :] * u.astype(k.dtype)[None]).astype(u.dtype)


def _forward(options: _Options, u: Array, w: Array, bias: Array) -> Array:
    """Total inputs s^1 .. s^r [r, b, J, Q] of one block."""
    J, _, _, I = w.shape
    wide = jnp.promote_types(u.dtype, jnp.float32)
    bias = bias.astype(wide)[None]
    uniform = jnp.full((J, u.shape[0], I), 1 / (J + options.leaky), wide)
    s = [_sum_votes(_scale(u, uniform), w, wide) + bias]
    V = squash(s[0])
    for _ in range(options.num_iterations - 1):
        c = _softmax(_agreement(u, _transform(V, w)), options.leaky)
        s.append(_sum_votes(_scale(u, c), w, wide) + bias)
        V = V + squash(s[-1])
    return jnp.stack(s)


def _backward(options: _Options, u: Array, s: Array, gradient: Array, w: Array):
    """Gradients of one block, from the last iteration to the first.

    ``D`` is the gradient with respect to the poses of iteration t: the sum of what
    every later V^t' passes on, since V^t' holds them all.

    Args:
      options: of the op.
      u: inputs [b, P, I].
      s: total inputs [r, b, J, Q].
      gradient: with respect to the poses of the last iteration [b, J, Q].
      w: weights [J, Q, P, I].

    Returns:
      du [b, P, I]; the block's terms of dw [J, Q, P, I] and of the bias's [J, Q].
    """
    r, J, wide = options.num_iterations, w.shape[0], s.dtype
    V = jnp.cumsum(squash(s), axis=0)  # V[t - 1] is the sum before iteration t.
    du = jnp.zeros(u.shape, wide)
    dw = jnp.zeros(w.shape, wide)
    dbias = jnp.zeros(s.shape[2:], wide)
    D = jnp.zeros_like(s[0])

    def weight_term(directions: Array, k: Array) -> Array:
        return jnp.einsum(
            "bjq,jbpi->jqpi",
            directions.astype(w.dtype),
            _scale(u, k),
            preferred_element_type=wide,
        )

    for t in reversed(range(r)):
        last = t == r - 1
        (ds,) = jax.vjp(squash, s[t])[1](gradient.astype(wide) if last else D)
        dbias = dbias + jnp.sum(ds, axis=0)
        R = _transform(ds, w)
        if t == 0:
            c = jnp.full((J, *u.shape[::2]), 1 / (J + options.leaky), wide)
        else:
            T = _transform(V[t - 1], w)
            c = _softmax(_agreement(u, T), options.leaky)
        du = du + jnp.sum(c[:, :, None, :] * R, axis=0)
        dw = dw + weight_term(ds, c)
        if t == 0 or options.stop_gradient:
            break
        dc = _agreement(u, R)
        dlogits = c * (dc - jnp.sum(c * dc, axis=0)[None])
        du = du + jnp.sum(dlogits[:, :, None, :] * T, axis=0)
        dw = dw + weight_term(V[t - 1], dlogits)
        D = D + _sum_votes(_scale(u, dlogits), w, wide)
    return du, dw, dbias
