"""Timing of compiled functions: device time on a GPU, wall clock on a CPU.

A routing kernel takes tens of microseconds, as does its launch from Python; the wall
clock would measure both. The GPU's clock, read through JAX's profiler, sees the kernels
alone, without the gaps between the kernels of one call. (Mosaic's profiler reads it
too, but counts no copies or memsets, and leaves on XLA's command buffers, which XLA
turns off under its own profiler because they conflict with CUPTI.)
"""

import dataclasses
import pathlib
import statistics
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import jax
from jax.profiler import ProfileData

# XLA attaches these statistics only to kernels, copies and memsets on the device.
_DEVICE_WORK = {"kernel_details", "memcpy_details", "Memset_details"}


@dataclasses.dataclass(frozen=True)
class Timing:
    """Durations of calls of a function.

    Attributes:
        seconds: duration of each call.
        clock: ``"device"`` counts the device's work, ``"wall"`` the time until the
            results are available.
    """

    seconds: tuple[float, ...]
    clock: Literal["device", "wall"]

    @property
    def median_s(self) -> float:
        """Median seconds of a call."""
        return statistics.median(self.seconds)

    def columns(self) -> dict[str, float]:
        """Median, extremes and number of the calls, by column of a benchmark's rows."""
        if not self.seconds:
            return {"repeats": 0}
        return {
            "median_s": self.median_s,
            "min_s": min(self.seconds),
            "max_s": max(self.seconds),
            "repeats": len(self.seconds),
        }


class Program(NamedTuple):
    """A compiled function and its cost besides running time.

    Attributes:
        call: the function.
        compile_s: seconds of tracing and compiling.
        temp_mb: memory of temporaries by XLA's account, in MB.
        peak_mb: memory of arguments, results and temporaries, likewise.
    """

    call: jax.stages.Compiled
    compile_s: float
    temp_mb: float
    peak_mb: float


def compile_program(function: jax.stages.Wrapped, *arguments: Any) -> Program:
    """Compiles a jitted function for these arguments."""
    started = time.perf_counter()
    compiled = function.lower(*arguments).compile()
    compile_s = time.perf_counter() - started
    memory: Any = compiled.memory_analysis()
    peak = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )
    return Program(compiled, compile_s, memory.temp_size_in_bytes / 1e6, peak / 1e6)


def measure_in_turn(
    calls: Sequence[Callable[[], Any]],
    *,
    repeats: int,
    on_call: Callable[[], None] = lambda: None,
    wall: bool = False,
) -> list[Timing]:
    """Times functions on the default device, after one untimed call of each.

    By the wall clock they alternate: other work on the machine slows all of them alike,
    so their ratios are meaningful. Device time does not need that.

    Args:
        calls: compiled functions that return arrays.
        repeats: timed calls of each.
        on_call: called between the calls, ``repeats + 1`` times for each function.
        wall: whether to use the wall clock on a GPU too, to include transfers, dispatch
            and the cost of several devices.

    Raises:
        RuntimeError: on a GPU, if the profiler saw no device work or not the same work
            in every call. There is no fallback to the wall clock.
    """
    if jax.default_backend() == "gpu" and not wall:
        return [
            Timing(_device_seconds(call, repeats, on_call), "device") for call in calls
        ]
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats + 1):
        for call, times in zip(calls, seconds, strict=True):
            started = time.perf_counter()
            jax.block_until_ready(call())
            times.append(time.perf_counter() - started)
            on_call()
    return [Timing(tuple(times[1:]), "wall") for times in seconds]


def _device_seconds(
    call: Callable[[], Any], repeats: int, on_call: Callable[[], None]
) -> tuple[float, ...]:
    jax.block_until_ready(call())
    options = jax.profiler.ProfileOptions()
    options.host_tracer_level = options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            # One extra, untimed: the first call without command buffers.
            for _ in range(repeats + 1):
                jax.block_until_ready(call())
                on_call()
        (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
        profile = ProfileData.from_file(str(path))
        return busy_seconds(profile, num_calls=repeats + 1)[1:]


def busy_seconds(profile: ProfileData, num_calls: int) -> tuple[float, ...]:
    """Seconds of device work of each call in a trace of one function's calls alone.

    Overlapping work counts once. The trace does not say where a call begins; but the
    calls do the same work and do not overlap, so each has an equal share of the events
    in order of time.

    Raises:
        RuntimeError: there is no device work, or it differs between the calls.
    """
    with warnings.catch_warnings():
        # jaxlib's iterator over statistics has no module, of which Python warns; as an
        # error the warning would end the process.
        warnings.filterwarnings("ignore", "builtin type event_stats has no __module__")
        work = sorted(_device_work(profile))
    if not work:
        raise RuntimeError(
            "the profiler saw no work on the GPU; check that CUPTI is installed and "
            "that no other profiler is attached"
        )
    length, rest = divmod(len(work), num_calls)
    shares = [work[i * length : (i + 1) * length] for i in range(num_calls)]
    names = [Counter(name for _, _, name in share) for share in shares]
    if rest or any(other != names[0] for other in names):
        raise RuntimeError(
            f"the profiler saw {len(work)} pieces of device work in {num_calls} calls, "
            "which are not the same work in every call"
        )
    return tuple(map(_covered_seconds, shares))


def _device_work(profile: ProfileData) -> Iterable[tuple[float, float, str]]:
    """Start and end in nanoseconds and name of each kernel, copy and memset."""
    for plane in profile.planes:
        if plane.name.startswith("/device:GPU:"):
            for line in plane.lines:
                for event in line.events:
                    if any(name in _DEVICE_WORK for name, _ in event.stats):
                        yield event.start_ns, event.end_ns, event.name


def _covered_seconds(work: Iterable[tuple[float, float, str]]) -> float:
    """Length of the union of the work's intervals, in order of their starts."""
    total, covered_to = 0.0, float("-inf")
    for start, end, _ in work:
        total += max(0.0, end - max(start, covered_to))
        covered_to = max(covered_to, end)
    return total * 1e-9
