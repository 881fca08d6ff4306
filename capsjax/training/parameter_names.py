"""Parameters by name: dotted paths, and the patterns that choose among them."""

import fnmatch
from collections.abc import Iterable
from typing import Any

import jax
from flax import nnx


def by_path(state: nnx.State) -> list[tuple[str, Any]]:
    """Leaves with dotted paths, in the order of `jax.tree.leaves`."""
    return [
        (jax.tree_util.keystr(path[:-1], simple=True, separator="."), x)
        for path, x in jax.tree.leaves_with_path(state)
    ]


def matches(path: str, pattern: str) -> bool:
    """Whether a pattern is the path of a parameter, or of a layer that holds it.

    ``*`` stands for anything, as in ``blocks.0.*``.
    """
    return fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(
        path, f"{pattern}.*"
    )


def is_weight(path: str, value: Any) -> bool:
    """Whether a parameter is a kernel or a matrix, not a bias or a scale."""
    return value.ndim > 1 and "bias" not in path.rpartition(".")[2]


def layers(paths: Iterable[str]) -> list[str]:
    """The layers that hold the parameters, each once."""
    return list(dict.fromkeys(path.rpartition(".")[0] or path for path in paths))
