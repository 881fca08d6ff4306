"""Computation over blocks of examples, so that votes take memory for one block only.

The votes of a convolutional layer of capsules are many times as large as its poses: a
network whose poses of a batch take 20 MB has votes of gigabytes. Examples are routed
independently, so a block of them can be computed, reduced to poses and forgotten, and
computed again for the gradient.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

# With 4 MB, EM routing on two CPU cores is faster than with 16; a GPU is kept busy by
# large blocks.
_CPU_BLOCK_BYTES, _BLOCK_BYTES = 4 * 2**20, 512 * 2**20


def over_examples(
    function: Callable[[Any], Any], examples: Any, bytes_per_example: int
) -> Any:
    """Computes a function of a batch, a block of examples at a time.

    Args:
        function: takes ``examples`` for some of the batch. Its arrays must not depend
            on which other examples there are, nor on their number.
        examples: arrays of which the first axis is the batch, in any nest.
        bytes_per_example: bytes of the largest array that the function makes for an
            example, such as its votes.

    Returns:
        What the function returns for the whole batch, in any nest of arrays. If it
        takes several blocks, the gradient computes each of them again.
    """
    B = len(jax.tree.leaves(examples)[0])
    budget = _CPU_BLOCK_BYTES if jax.default_backend() == "cpu" else _BLOCK_BYTES
    count = -(-B * bytes_per_example // budget)
    if count <= 1 or B <= 1:
        return function(examples)
    size = -(-B // min(count, B))
    count = -(-B // size)

    def blocks(x: Array) -> Array:
        # The last block is filled up with copies of the last example.
        widths = [(0, count * size - B), *[(0, 0)] * (x.ndim - 1)]
        return jnp.pad(x, widths, mode="edge").reshape(count, size, *x.shape[1:])

    found = jax.lax.map(
        jax.checkpoint(function, prevent_cse=False), jax.tree.map(blocks, examples)
    )
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:B], found)
