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

from kernels.routing.dtypes import accumulation_dtype
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
    """See `kernels.routing.route`. Reverse-mode gradients only."""
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
        u, s, gradient = x
        terms = _backward(options, u, s, gradient, w)
        return (sums[0] + terms.weights, sums[1] + terms.bias), terms.inputs

    zeros = (jnp.zeros(w.shape, s.dtype), jnp.zeros(bias.shape, s.dtype))
    (dw, dbias), du = jax.lax.scan(
        block, zeros, (blocks, split(s), split(gradient[None])[:, 0])
    )
    du = du.swapaxes(2, 3).reshape(n * b, I, P)[:B]
    dw = dw.transpose(3, 0, 1, 2)
    return tuple(x.astype(inputs.dtype) for x in (du, dw, dbias))


_route.defvjp(_route_fwd, _route_bwd)


def _to_blocks(inputs: Array, weights: Array) -> Float[Array, "n b P I"]:
    """Fills the batch up with zeros, which get no gradient, and splits it."""
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
    return jnp.einsum("jbpi,jqpi->bjq", scaled_inputs, w, preferred_element_type=dtype)


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


def _uniform_coupling(options: _Options, u: Array, w: Array) -> Array:
    """The first iteration's coupling coefficients [J, b, I]: softmax of zeros."""
    J, _, _, I = w.shape
    dtype = accumulation_dtype(u.dtype)
    return jnp.full((J, u.shape[0], I), 1 / (J + options.leaky), dtype)


def _forward(options: _Options, u: Array, w: Array, bias: Array) -> Array:
    """Total inputs s^1 .. s^r [r, b, J, Q] of one block."""
    wide = accumulation_dtype(u.dtype)
    bias = bias.astype(wide)[None]

    def iteration(V: Array, _) -> tuple[Array, Array]:
        c = _softmax(_agreement(u, _transform(V, w)), options.leaky)
        s = _sum_votes(_scale(u, c), w, wide) + bias
        return V + squash(s), s

    first = _sum_votes(_scale(u, _uniform_coupling(options, u, w)), w, wide) + bias
    _, later = jax.lax.scan(iteration, squash(first), length=options.num_iterations - 1)
    return jnp.concatenate([first[None], later])


class _Gradients(NamedTuple):
    """One block's gradients while they are summed over the iterations."""

    inputs: Float[Array, "b P I"]
    weights: Float[Array, "J Q P I"]
    bias: Float[Array, "J Q"]


def _backward(
    options: _Options, u: Array, s: Array, gradient: Array, w: Array
) -> _Gradients:
    """Gradients of one block, from the last iteration to the first.

    An iteration t passes its gradient on in two ways: through the weighted sum of the
    votes (as ``ds``, with the coupling held fixed), and through the coupling (as
    ``dlogits``) to V^t and so to the poses of every iteration before it.

    Args:
        options: of the op.
        u: inputs [b, P, I].
        s: total inputs [r, b, J, Q].
        gradient: with respect to the poses of the last iteration [b, J, Q].
        w: weights [J, Q, P, I].

    Returns:
        The gradients in the accumulation dtype.
    """
    wide = s.dtype
    V = jnp.cumsum(squash(s), axis=0)  # V[t - 1] is the sum before iteration t.

    def weight_term(directions: Array, k: Array) -> Array:
        return jnp.einsum(
            "bjq,jbpi->jqpi",
            directions.astype(w.dtype),
            _scale(u, k),
            preferred_element_type=wide,
        )

    def through_sum(total: _Gradients, ds: Array, R: Array, c: Array) -> _Gradients:
        return _Gradients(
            total.inputs + jnp.sum(c[:, :, None, :] * R, axis=0),
            total.weights + weight_term(ds, c),
            total.bias + jnp.sum(ds, axis=0),
        )

    def iteration(carry, x):
        dposes, dV, total = carry
        s, V = x
        (ds,) = jax.vjp(squash, s)[1](dposes)
        T, R = _transform(V, w), _transform(ds, w)
        c = _softmax(_agreement(u, T), options.leaky)
        total = through_sum(total, ds, R, c)
        if not options.stop_gradient:
            dc = _agreement(u, R)
            dlogits = c * (dc - jnp.sum(c * dc, axis=0)[None])
            total = total._replace(
                inputs=total.inputs + jnp.sum(dlogits[:, :, None, :] * T, axis=0),
                weights=total.weights + weight_term(V, dlogits),
            )
            dV = dV + _sum_votes(_scale(u, dlogits), w, wide)
        # The poses before the last iteration act only through the later V, all of
        # which hold them.
        return (dV, dV, total), None

    zeros = _Gradients(
        jnp.zeros(u.shape, wide), jnp.zeros(w.shape, wide), jnp.zeros(s.shape[2:], wide)
    )
    only_last = slice(-1, None) if options.stop_gradient else slice(None)
    (dposes, _, total), _ = jax.lax.scan(
        iteration,
        (gradient.astype(wide), jnp.zeros_like(s[0]), zeros),
        (s[1:][only_last], V[:-1][only_last]),
        reverse=True,
    )
    if options.stop_gradient and options.num_iterations > 1:
        return total
    (ds,) = jax.vjp(squash, s[0])[1](dposes)
    return through_sum(total, ds, _transform(ds, w), _uniform_coupling(options, u, w))
