"""Timing: the wall clock here, the GPU's clock from traces written by hand."""

from unittest.mock import Mock

import jax
import jax.numpy as jnp
import pytest
from jax.profiler import ProfileData

from kernels.tools import timing
from kernels.tools.timing import Timing, busy_seconds, measure_in_turn


def trace(*lines: str) -> ProfileData:
    """A trace as XLA writes it on a GPU; numbers in nanoseconds.

    Each line is the name of an XLine and its events, ``a start duration detail``; the
    detail of a kernel may be left out.
    The host has the same events a little later.
    """
    details = ["kernel_details", "memcpy_details", "Memset_details", "overhead"]
    text, names = "", "abcdmo"
    for line in lines:
        name, *events = line.split("; ")
        text += f'lines {{ name: "{name}" timestamp_ns: 1000 '
        for event in events:
            event_name, start, duration, *detail = event.split()
            stat = details.index(detail[0] if detail else "kernel_details") + 1
            text += (
                f"events {{ metadata_id: {names.index(event_name) + 1} "
                f"offset_ps: {start}000 duration_ps: {duration}000 "
                f"stats {{ metadata_id: {stat} int64_value: 1 }} }} "
            )
        text += "} "
    for field, keys in (("event", names), ("stat", details)):
        for index, key in enumerate(keys, 1):
            text += (
                f"{field}_metadata {{ key: {index} "
                f'value {{ id: {index} name: "{key}" }} }} '
            )
    text = f'planes {{ name: "/device:GPU:0" {text} }}'
    host = text.replace("/device:GPU:0", "/host:CPU").replace(": 1000", ": 1007")
    return ProfileData.from_serialized_xspace(
        ProfileData.text_proto_to_serialized_xspace(text + host)
    )


def test_busy_time_of_each_call():
    """Kernels, copies and memsets; not what the tracer itself did, nor the host."""
    found = trace(
        "Stream #7(Compute); a 0 10; b 15 20; a 100 11; b 115 30",
        "Stream #8(Memset,MemcpyD2D); m 40 1 Memset_details; m 150 2 Memset_details; "
        "c 60 4 memcpy_details; c 160 8 memcpy_details",
        "CUPTI overhead; o 70 9 overhead",
    )
    assert busy_seconds(found, 2) == pytest.approx((35e-9, 51e-9), rel=1e-12)


def test_work_that_overlaps_counts_once():
    found = trace("Stream #7; a 0 10; c 30 5", "Stream #8; b 2 3; d 33 7")
    assert busy_seconds(found, 1) == pytest.approx((20e-9,), rel=1e-12)


@pytest.mark.parametrize("events", ["a 0 10; a 20 10; a 40 10", "a 0 10; b 20 10"])
def test_calls_that_differ_are_an_error(events):
    with pytest.raises(RuntimeError, match="not the same work in every call"):
        busy_seconds(trace(f"Stream #7; {events}"), num_calls=2)


def test_no_device_work_is_an_error():
    line = "CUPTI overhead; o 70 9 overhead"
    with pytest.raises(RuntimeError, match="saw no work on the GPU"):
        busy_seconds(trace(line), num_calls=2)


def test_a_gpu_is_never_timed_by_the_wall_clock(monkeypatch):
    """The profiler runs, sees no work, and that is an error."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(RuntimeError, match="saw no work on the GPU"):
        measure_in_turn([lambda: None], repeats=2)


def test_a_gpu_trace_gives_a_timing(monkeypatch):
    """One call more than asked for is traced, and not counted."""
    profile_data, call, between = Mock(), Mock(return_value=None), Mock()
    profile_data.from_file.return_value = trace("Stream #7; a 0 50; a 100 20; a 200 30")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(timing, "ProfileData", profile_data)
    (found,) = measure_in_turn([call], repeats=2, on_call=between)
    assert found.clock == "device"
    assert found.seconds == pytest.approx((20e-9, 30e-9), rel=1e-12)
    assert call.call_count == 4  # the first is for warming up
    assert between.call_count == 3
    (path,) = profile_data.from_file.call_args.args
    assert path.endswith(".xplane.pb")


def test_calls_alternate_on_a_cpu(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    order: list[str] = []
    timings = measure_in_turn(
        [lambda: order.append("a"), lambda: order.append("b")],
        repeats=3,
        on_call=lambda: order.append("."),
    )
    assert order == ["a", ".", "b", "."] * 4  # the first of each is not timed
    assert [len(timing.seconds) for timing in timings] == [3, 3]
    assert {timing.clock for timing in timings} == {"wall"}


def test_summary_of_seconds():
    found = Timing((3.0, 1.0, 2.5, 9.0), "wall").columns()
    assert found == {"median_s": 2.75, "min_s": 1.0, "max_s": 9.0, "repeats": 4}
    assert Timing((), "wall").columns() == {"repeats": 0}


def test_program_tells_its_memory():
    """Two arguments, of which one is given up to the result; one temporary."""

    def function(x, y):
        return x + jnp.sum(jnp.sort(y, axis=0)[::2]), x * 2

    x, y = jnp.ones((250, 1000)), jnp.ones((500, 1000))
    program = timing.compile_program(jax.jit(function, donate_argnums=0), x, y)
    assert program.compile_s > 0
    assert program.temp_mb >= 2  # the sorted y
    # Arguments of 1 and 2 MB and results of 1 and 1 MB, one of them in x's place.
    assert program.peak_mb == pytest.approx(4 + program.temp_mb, rel=1e-3)
    assert [part.shape for part in program.call(x, y)] == [x.shape] * 2
