"""Routing without forming the votes, in plain JAX, with its own gradient.

Let V^t be the sum of the poses of the iterations before t. Then the routing logits are
``votes . V^t = u . T`` with ``T_bijp = sum_q V_bjq W_ijqp``, and the weighted sum of
the votes is ``S(c)_bjq = sum_ip (c_ij u_ip) W_ijqp``. Neither needs the votes
themselves, nor the logits of the iteration before.

The input capsules are taken in chunks, small enough on a CPU that a chunk's T stays in
the cache. The gradient saves only the total inputs s^t [B, J, Q] and recomputes the
rest.

Arrays are laid out [P, J, B, I]. T, S and the gradient of W are then one plain matrix
product for each of the P J pairs, and the rest is elementwise over long contiguous rows
of I.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from kernels.dtypes import accumulation_dtype
from kernels.partitioning import varying, varying_axes
from kernels.routing.squash import squash

# Bytes of one chunk's T. On a CPU the few arrays of its size should stay in the
# last-level cache together; an accelerator wants large chunks and only has to be kept
# from running out of memory.
_CPU_CHUNK_BYTES = 2 * 2**20
_ACCELERATOR_CHUNK_BYTES = 512 * 2**20
# With fewer inputs than this, the rows are too short to compute on efficiently.
_MIN_CHUNK_INPUTS = 64

# XLA:CPU computes a reduction, a softmax or a matrix product far more slowly when it
# has fused it with the computation of its operands. This keeps them apart.
_computed = jax.lax.optimization_barrier


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
    arguments = (inputs, weights, bias)
    return _route(options, *varying(varying_axes(arguments), arguments))


class _Options(NamedTuple):
    num_iterations: int
    leaky: bool
    stop_gradient: bool


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _route(options: _Options, inputs: Array, weights: Array, bias: Array) -> Array:
    return _route_fwd(options, inputs, weights, bias)[0]


def _route_fwd(options: _Options, inputs: Array, weights: Array, bias: Array):
    chunks = _to_chunks(inputs, weights)
    wide = accumulation_dtype(inputs.dtype)
    (J, Q), B = bias.shape, inputs.shape[0]
    bias_of_b = jnp.broadcast_to(bias.astype(wide)[:, None], (J, B, Q))

    def total_input(votes_sum: Callable[[Array, Array], Array]) -> Array:
        def add(s: Array, k: Array, u: Array, w: Array) -> Array:
            return s + votes_sum(u, w)

        return _over_chunks(add, bias_of_b, chunks)

    def iteration(V: Array, _) -> tuple[Array, Array]:
        def votes_sum(u: Array, w: Array) -> Array:
            c = _coupling(options, u, _transform(V, w))
            return _sum_votes(_scale(u, c), w, wide)

        s = total_input(votes_sum)
        return V + squash(s), s

    c = _uniform_coupling(options, J)
    first = total_input(lambda u, w: c * _sum_all_votes(u, w, wide))
    _, later = jax.lax.scan(iteration, squash(first), length=options.num_iterations - 1)
    s = jnp.concatenate([first[None], later])  # [r, J, B, Q]
    poses = squash(s[-1]).swapaxes(0, 1).astype(inputs.dtype)
    return poses, (inputs, weights, s)


def _route_bwd(options: _Options, residuals, gradient: Array):
    """Goes from the last iteration to the first.

    An iteration t passes its gradient on in two ways: through the weighted sum of the
    votes (as ``ds``, with the coupling held fixed), and through the coupling (as
    ``dlogits``) to V^t and so to the poses of every iteration before it.
    """
    inputs, weights, s = residuals
    (B, I, P), (_, J, Q, _) = inputs.shape, weights.shape
    wide = s.dtype
    chunks = _to_chunks(inputs, weights)
    V = jnp.cumsum(squash(s), axis=0)  # V[t - 1] is the sum before iteration t.

    def iteration(carry, x):
        dposes, dV, sums = carry
        s, V = x
        (ds,) = jax.vjp(squash, s)[1](dposes)

        def add(carry, k, u, w):
            dV, sums = carry
            terms = _routed_terms(options, u, w, V, ds)
            return dV + terms.V, _add_to_chunk(sums, k, terms.inputs, terms.weights)

        dV, sums = _over_chunks(add, (dV, sums), chunks)
        # The poses before the last iteration act only through the later V, all of
        # which hold them.
        return (dV, dV, sums), ds

    zeros = jax.tree.map(lambda x: jnp.zeros_like(x, wide), chunks)
    only_last = slice(-1, None) if options.stop_gradient else slice(None)
    (dposes, _, sums), ds = jax.lax.scan(
        iteration,
        (gradient.astype(wide).swapaxes(0, 1), jnp.zeros_like(s[0]), zeros),
        (s[1:][only_last], V[:-1][only_last]),
        reverse=True,
    )
    dbias = jnp.sum(ds, axis=(0, 2))
    if options.num_iterations == 1 or not options.stop_gradient:
        (ds,) = jax.vjp(squash, s[0])[1](dposes)
        c_ds = _uniform_coupling(options, J) * ds
        sums = _over_chunks(
            lambda sums, k, u, w: _add_to_chunk(sums, k, *_uniform_terms(u, w, c_ds)),
            sums,
            chunks,
        )
        dbias = dbias + jnp.sum(ds, axis=1)
    du, dw = sums
    du = du.reshape(P, B, -1)[..., :I].transpose(1, 2, 0)
    dw = dw.reshape(P, J, Q, -1)[..., :I].transpose(3, 1, 2, 0)
    return tuple(x.astype(inputs.dtype) for x in (du, dw, dbias))


_route.defvjp(_route_fwd, _route_bwd)


def _to_chunks(
    inputs: Array, weights: Array
) -> tuple[Float[Array, "P B n i"], Float[Array, "P J Q n i"]]:
    """Splits I into n chunks, filled up with zeros, which get no gradient."""
    (B, I, P), (_, J, Q, _) = inputs.shape, weights.shape
    on_cpu = jax.default_backend() == "cpu"
    budget = _CPU_CHUNK_BYTES if on_cpu else _ACCELERATOR_CHUNK_BYTES
    n = -(-I // max(_MIN_CHUNK_INPUTS, budget // (4 * P * J * B)))
    i = -(-I // n)
    if on_cpu and n > 1:
        i |= 1  # Were it even, often all slices of T would lie in the same cache sets.
    u, w = inputs.transpose(2, 0, 1), weights.transpose(3, 1, 2, 0)
    u = jnp.pad(u, [(0, 0), (0, 0), (0, n * i - I)])
    w = jnp.pad(w, [(0, 0), (0, 0), (0, 0), (0, n * i - I)])
    return u.reshape(P, B, n, i), w.reshape(P, J, Q, n, i)


def _over_chunks(step: Callable, start, chunks: tuple[Array, Array]):
    """The last ``carry`` of ``carry = step(carry, k, u, w)``, for each chunk k."""

    def body(carry, k):
        u, w = (
            jax.lax.dynamic_index_in_dim(x, k, axis=-2, keepdims=False) for x in chunks
        )
        return step(carry, k, *_computed((u, w))), None

    return jax.lax.scan(body, start, jnp.arange(chunks[0].shape[-2]))[0]


def _add_to_chunk(
    sums: tuple[Float[Array, "P B n i"], Float[Array, "P J Q n i"]],
    k: Array,
    *terms: Array,
) -> tuple[Array, Array]:
    """Adds terms [P, B, i] and [P, J, Q, i] to the k-th chunk of the sums, in place."""

    def add(x: Array, term: Array) -> Array:
        old = jax.lax.dynamic_index_in_dim(x, k, axis=-2, keepdims=False)
        return jax.lax.dynamic_update_index_in_dim(x, old + term, k, axis=-2)

    return add(sums[0], terms[0]), add(sums[1], terms[1])


def _transform(
    V: Float[Array, "J B Q"], w: Float[Array, "P J Q I"]
) -> Float[Array, "P J B I"]:
    """Returns T = V W: an output direction, as seen from each input capsule."""
    V_of_p = jnp.broadcast_to(V.astype(w.dtype), (w.shape[0], *V.shape))
    return jnp.einsum("pjbq,pjqi->pjbi", V_of_p, w, preferred_element_type=V.dtype)


def _sum_votes(
    scaled_inputs: Float[Array, "P J B I"], w: Float[Array, "P J Q I"], dtype: DTypeLike
) -> Float[Array, "J B Q"]:
    """Sum over input capsules of the votes, each scaled as its input is."""
    s_of_p = jnp.einsum(
        "pjbi,pjqi->pjbq", scaled_inputs, w, preferred_element_type=dtype
    )
    return _reduce(jnp.add, _computed(s_of_p), axis=0)


def _weight_terms(
    V: Float[Array, "J B Q"], scaled_inputs: Float[Array, "P J B I"]
) -> Float[Array, "P J Q I"]:
    """Gradient of ``sum(V * _sum_votes(scaled_inputs, w))`` with respect to w."""
    V = V.swapaxes(1, 2)
    V_of_p = jnp.broadcast_to(
        V.astype(scaled_inputs.dtype), (scaled_inputs.shape[0], *V.shape)
    )
    return jnp.einsum(
        "pjqb,pjbi->pjqi", V_of_p, scaled_inputs, preferred_element_type=V.dtype
    )


def _reduce(function: Callable[[Array, Array], Array], x: Array, axis: int) -> Array:
    """A short axis reduced slice by slice, which XLA:CPU computes in whole vectors."""
    return _computed(functools.reduce(function, jnp.unstack(x, axis=axis)))


def _agreement(
    u: Float[Array, "P B I"], T: Float[Array, "P J B I"]
) -> Float[Array, "J B I"]:
    """Dot products of the votes with the direction that T was made from."""
    return _reduce(jnp.add, u.astype(T.dtype)[:, None] * T, axis=0)


def _coupling(options: _Options, u: Array, T: Array) -> Float[Array, "J B I"]:
    """Softmax over the outputs of the agreement."""
    logits = _agreement(u, T)
    top = _reduce(jnp.maximum, logits, axis=0)
    if options.leaky:
        top = jnp.maximum(top, 0)
    e = jnp.exp(logits - top[None])
    total = _reduce(jnp.add, e, axis=0)
    if options.leaky:
        total = total + jnp.exp(-top)
    return e / total[None]


def _scale(
    u: Float[Array, "P B I"], k: Float[Array, "J B I"]
) -> Float[Array, "P J B I"]:
    """Inputs scaled by one coefficient for each output, in the inputs' dtype."""
    return _computed((k[None] * u.astype(k.dtype)[:, None]).astype(u.dtype))


def _uniform_coupling(options: _Options, J: int) -> float:
    """The first iteration's coupling coefficients: softmax of zeros."""
    return 1 / (J + options.leaky)


def _sum_all_votes(
    u: Float[Array, "P B I"], w: Float[Array, "P J Q I"], dtype: DTypeLike
) -> Float[Array, "J B Q"]:
    """`_sum_votes` of inputs that are the same for all outputs."""
    s_of_p = jnp.einsum("pbi,pjqi->pbjq", u, w, preferred_element_type=dtype)
    return _reduce(jnp.add, _computed(s_of_p), axis=0).swapaxes(0, 1)


def _uniform_terms(
    u: Float[Array, "P B I"], w: Float[Array, "P J Q I"], ds: Float[Array, "J B Q"]
) -> tuple[Float[Array, "P B I"], Float[Array, "P J Q I"]]:
    """Gradients of ``sum(ds * _sum_all_votes(u, w))``."""
    ds_of_p = jnp.broadcast_to(ds.astype(w.dtype), (w.shape[0], *ds.shape))
    return (
        jnp.einsum("pjbq,pjqi->pbi", ds_of_p, w, preferred_element_type=ds.dtype),
        jnp.einsum("pjbq,pbi->pjqi", ds_of_p, u, preferred_element_type=ds.dtype),
    )


class _Terms(NamedTuple):
    """One iteration's and one chunk's terms of the gradients."""

    inputs: Float[Array, "P B I"]
    weights: Float[Array, "P J Q I"]
    V: Float[Array, "J B Q"]


def _routed_terms(
    options: _Options,
    u: Float[Array, "P B I"],
    w: Float[Array, "P J Q I"],
    V: Float[Array, "J B Q"],
    ds: Float[Array, "J B Q"],
) -> _Terms:
    """Terms of an iteration after the first, in the accumulation dtype of ``ds``."""
    T, R = _transform(V, w), _transform(ds, w)
    c = _coupling(options, u, T)
    x = _scale(u, c)
    if options.stop_gradient:
        du = _reduce(jnp.add, c[None] * R, axis=1)
        return _Terms(du, _weight_terms(ds, x), jnp.zeros_like(V))
    dc = _agreement(u, R)
    dlogits = _computed(c * (dc - _reduce(jnp.add, c * dc, axis=0)[None]))
    y = _scale(u, dlogits)
    return _Terms(
        _reduce(jnp.add, c[None] * R + dlogits[None] * T, axis=1),
        _weight_terms(ds, x) + _weight_terms(V, y),
        _sum_votes(y, w, V.dtype),
    )
