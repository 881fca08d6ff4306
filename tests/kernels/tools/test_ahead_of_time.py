"""Compiling without a GPU, as far as it needs none of the packages for it."""

import sys

import jax
import pytest

from kernels.routing.dynamic import compile_check
from kernels.tools import ahead_of_time


def test_process_must_have_been_started_for_it(monkeypatch):
    """The assembler's report is asked for before JAX is imported, or there is none."""
    monkeypatch.delenv("MOSAIC_GPU_DUMP_PTXAS", raising=False)
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    with pytest.raises(RuntimeError, match="must be set before JAX is imported"):
        ahead_of_time.compile_for_h200(lambda: None, [], mesh=mesh)
    assert "MOSAIC_GPU_DUMP_PTXAS" in ahead_of_time.environment()


def test_child_that_fails_tells_why():
    with pytest.raises(RuntimeError, match=r"(?s)kernels\.absent a.*1:.*No module"):
        compile_check.run_child(sys.executable, "kernels.absent", "a")


def test_largest_takes_each_number():
    one, other = ahead_of_time.Kernel(10, 0, 5), ahead_of_time.Kernel(9, 8, 7)
    assert ahead_of_time.largest([one, other]) == ahead_of_time.Kernel(10, 8, 7)
