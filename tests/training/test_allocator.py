"""Memory is given back where the C library can, and nothing happens elsewhere."""

import ctypes
import types

import pytest

from capsjax.training import allocator


def test_the_c_library_is_asked_to_keep_nothing(monkeypatch):
    """``malloc_trim(0)``: no bytes are to be kept at the top of the heap."""
    asked: list[int] = []
    monkeypatch.setattr(
        ctypes, "CDLL", lambda name: types.SimpleNamespace(malloc_trim=asked.append)
    )
    allocator.release_unused()
    assert asked == [0]


def test_other_c_libraries_have_no_such_function(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: types.SimpleNamespace())
    allocator.release_unused()


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not the GNU C library"
)
def test_memory_that_was_freed_goes_back():
    """Blocks too small to have come from the system one by one, all but the last."""

    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    malloc, free = ctypes.CDLL(None).malloc, ctypes.CDLL(None).free
    malloc.restype, free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    size = 50_000
    blocks = [malloc(size) for _ in range(1001)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    for block in blocks[:-1]:
        free(block)
    before = resident()
    allocator.release_unused()
    assert before - resident() > 0.8 * 1000 * size
    free(blocks[-1])
