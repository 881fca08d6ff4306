"""The C library's memory, which it keeps for itself unless it is told."""

import ctypes


def release_unused() -> None:
    """Gives memory that this process has freed back to the system.

    Compiling a train step leaves a quarter of a gigabyte that glibc keeps in case it is
    asked for again; but what the step needs is too large to come from there. Does
    nothing where the C library has no such function.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
