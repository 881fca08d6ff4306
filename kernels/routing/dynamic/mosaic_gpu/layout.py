"""Conversion between the op's arrays and those of the kernels.

Padding with zeros needs no masks: a zero input or weight adds zero to every sum, and
squash(0) = 0. Only a softmax over output capsules must not see the padding.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from kernels.routing.dynamic.mosaic_gpu.tile import COLUMNS, GROUP, IN_DIM, ROWS, Sizes

# Columns of a warpgroup's float32 sums, with 64 rows, that leave enough registers for
# everything else: one register in a thread for every two columns.
_SUM_COLUMNS = 160
# Row lengths in bytes that the copy engine can swizzle, in 16-bit elements.
_OUT_DIMS = (16, 32, 64)


def unsupported(inputs: Array, weights: Array) -> str | None:
    """Returns the reason why the kernels do not support these arguments, or None."""
    _, _, Q, P = weights.shape
    if inputs.dtype not in (jnp.float32, jnp.bfloat16, jnp.float16):
        return f"inputs are {inputs.dtype}, not float32, bfloat16 or float16"
    if P > IN_DIM:
        return f"input capsules have {P} dimensions, more than {IN_DIM}"
    if _OUT_DIMS[-1] < Q:
        return f"output capsules have {Q} dimensions, more than {_OUT_DIMS[-1]}"
    return None


def operand_dtype(dtype: DTypeLike) -> jnp.dtype:
    """The dtype of the matrix products: float16 for float32, else the dtype itself.

    float16 has the 10-bit fraction of TF32 at half the bytes, and unlike TF32 may be
    transposed on its way into a product.
    """
    return jnp.dtype(jnp.float16 if dtype == jnp.float32 else dtype)


def padded_sizes(
    batch: int, in_capsules: int, out_capsules: int, out_dim: int, group_multiple: int
) -> Sizes:
    """Sizes padded to whole tiles, and to a multiple of some groups."""
    Q = next(size for size in _OUT_DIMS if out_dim <= size)
    chunks = -(-out_capsules // (_SUM_COLUMNS // Q))
    chunk = -(-out_capsules // chunks)
    return Sizes(
        B=_up(batch, ROWS),
        G=_up(in_capsules, GROUP * group_multiple) // GROUP,
        J=chunks * chunk,
        Q=Q,
        chunk=chunk,
        real_outputs=out_capsules,
    )


def group_inputs(
    inputs: Float[Array, "B I P"], sizes: Sizes, dtype: DTypeLike
) -> Float[Array, "G B_ 64"]:
    """Rearranges inputs into tiles: columns p * 8 + i of each group."""
    B, I, P = inputs.shape
    G = sizes.G
    u = jnp.pad(
        inputs.astype(dtype),
        [(0, sizes.B - B), (0, G * GROUP - I), (0, IN_DIM - P)],
    )
    u = u.reshape(sizes.B, G, GROUP, IN_DIM)
    return u.transpose(1, 0, 3, 2).reshape(G, sizes.B, COLUMNS)


def ungroup_inputs(
    grouped: Float[Array, "G B_ 64"], shape: Sequence[int]
) -> Float[Array, "B I P"]:
    """Undoes `group_inputs`, for gradients."""
    B, I, P = shape
    G, padded_B, _ = grouped.shape
    u = grouped.reshape(G, padded_B, IN_DIM, GROUP).transpose(1, 0, 3, 2)
    return u.reshape(padded_B, G * GROUP, IN_DIM)[:B, :I, :P]


def group_weights(
    weights: Float[Array, "I J Q P"], sizes: Sizes, dtype: DTypeLike
) -> Float[Array, "G J_*64 Q_"]:
    """Rearranges weights into tiles: rows j * 64 + p * 8 + i of each group."""
    I, J, Q, P = weights.shape
    G = sizes.G
    w = jnp.pad(
        weights.astype(dtype),
        [
            (0, G * GROUP - I),
            (0, sizes.J - J),
            (0, sizes.Q - Q),
            (0, IN_DIM - P),
        ],
    )
    w = w.reshape(G, GROUP, sizes.J, sizes.Q, IN_DIM)
    return w.transpose(0, 2, 4, 1, 3).reshape(G, sizes.J * COLUMNS, sizes.Q)


def ungroup_weights(
    grouped: Float[Array, "G J_*64 Q_"], shape: Sequence[int]
) -> Float[Array, "I J Q P"]:
    """Undoes `group_weights`, for gradients."""
    I, J, Q, P = shape
    G, rows, padded_Q = grouped.shape
    padded_J = rows // COLUMNS
    w = grouped.reshape(G, padded_J, IN_DIM, GROUP, padded_Q)
    w = w.transpose(0, 3, 1, 4, 2).reshape(G * GROUP, padded_J, padded_Q, IN_DIM)
    return w[:I, :J, :Q, :P]


def pad_outputs(
    x: Float[Array, "b J Q"], sizes: Sizes, rows: int
) -> Float[Array, "J_ rows Q_"]:
    """Pads an array of the output capsules and puts the capsules first."""
    b, J, Q = x.shape
    x = jnp.pad(x, [(0, rows - b), (0, sizes.J - J), (0, sizes.Q - Q)])
    return x.transpose(1, 0, 2)


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
