"""Checks of the flags that say what the benchmarks measure."""

from collections.abc import Collection, Sequence

import jax

from capsjax.errors import UserError

# Without a GPU these run only in an interpreter.
NEED_GPU = {"mosaic_gpu"}


def check_names(flag: str, names: Sequence[str], known: Collection[str]) -> None:
    """Checks a flag's list of names.

    Raises:
        UserError: the list is empty, or a name is unknown.
    """
    for name in names:
        if name not in known:
            raise UserError(
                f"--{flag}: there is no {name!r}; choose from {', '.join(known)}"
            )
    if not names:
        raise UserError(f"--{flag} is empty; choose from {', '.join(known)}")


def check_implementations(
    flag: str, names: Sequence[str], known: Collection[str]
) -> None:
    """Checks a flag's list of routing implementations.

    Raises:
        UserError: as `check_names`, or one has no meaningful time on this machine.
    """
    check_names(flag, names, known)
    for name in names:
        if name in NEED_GPU and jax.default_backend() != "gpu":
            raise UserError(
                f"--{flag}: without a GPU {name} runs in an interpreter, whose time "
                "says nothing; leave it out"
            )


def counts(flag: str, words: Sequence[str], what: str) -> list[int]:
    """Positive numbers from a flag's list of words.

    Raises:
        UserError: the list is empty, or a word is not a positive number.
    """
    for word in words or [""]:
        if not word.isdecimal() or int(word) < 1:
            raise UserError(
                f"--{flag}={','.join(words)}: {word!r} is not a number of {what}; "
                "give some, such as 1,2,4"
            )
    return [int(word) for word in words]
