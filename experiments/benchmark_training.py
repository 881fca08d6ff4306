"""Times the train step beside its two convolutions alone, in one process.

python -m experiments.benchmark_training \
    --config=experiments/configs/mnist.py:authors_code

Random images of the data set's shape, so no data is needed. Prints a table and appends
its rows, with their provenance, to a CSV file.

With --stages the step is timed beside its stages instead (convolution, primary
capsules, routing, decoder, loss, optimizer), each forward and backward, and drawn as a
picture beside that file. On a GPU these are device times; else all times are by the
wall clock.
"""

import pathlib

from absl import flags
from ml_collections import ConfigDict

from capsjax import (
    benchmark,
    benchmark_stages,
    plots,
    plots_stages,
    provenance,
    results,
)
from capsjax.progress import Progress
from experiments import launch

_CONFIG = launch.define_config()
_REPEATS = flags.DEFINE_integer(
    "repeats", 10, "Timed calls of each function.", lower_bound=1
)
_images = launch.define_images()
_STAGES = flags.DEFINE_bool(
    "stages", False, "Whether to time the step's stages, not its convolutions."
)
_OUTPUT = flags.DEFINE_string(
    "output",
    "",
    "CSV file to append the rows to; empty: only print them. --stages draws a picture "
    "beside it, named like it with _stages.png at the end.",
)


def main() -> None:
    """Times, prints, records, and draws the stages."""
    config = _CONFIG.value
    path = pathlib.Path(_OUTPUT.value) if _OUTPUT.value else None
    if path:
        results.read(path, benchmark.COLUMNS)  # Complains before the work.
    measure = _stages if _STAGES.value else _convolutions
    rows = measure(config, *_images())
    if not path:
        return
    results.append(path, rows, benchmark.COLUMNS)
    print(f"rows appended to {path}")
    if _STAGES.value:
        picture = path.with_name(f"{path.stem}_stages.png")
        plots.save(plots_stages.times(rows), picture)
        print(f"drawn in {picture}")


def _convolutions(
    config: ConfigDict, image_shape: tuple[int, int, int], num_classes: int
) -> list[dict[str, str]]:
    """Times and prints the step and its convolutions; returns the rows."""
    with Progress("timing", 2 * (_REPEATS.value + 1), unit="calls") as progress:
        timings = benchmark.train_step_and_convolutions(
            config,
            image_shape,
            num_classes,
            repeats=_REPEATS.value,
            on_call=progress.advance,
        )
    for stage, timing in timings.items():
        print(
            f"{stage:12} {timing.median_s:8.4f} s median ({timing.min_s:.4f} to "
            f"{max(timing.seconds):.4f}), {config.batch_size / timing.median_s:7.1f} "
            f"images/s, {timing.peak_mb:.0f} MB, compiled in {timing.compile_s:.1f} s"
        )
    ratio = timings["step"].median_s / timings["convolutions"].median_s
    print(f"the step takes {ratio:.2f} times its convolutions")
    return benchmark.rows(config, timings, provenance.environment())


def _stages(
    config: ConfigDict, image_shape: tuple[int, int, int], num_classes: int
) -> list[dict[str, str]]:
    """Times and prints the step and its stages; returns the rows."""
    programs = benchmark_stages.compile_programs(config, image_shape, num_classes)
    calls = len(programs) * (_REPEATS.value + 1)
    with Progress("timing", calls, unit="calls") as progress:
        timings = benchmark_stages.measure(
            programs, repeats=_REPEATS.value, on_call=progress.advance
        )
    rows = benchmark_stages.rows(config, timings, provenance.environment())
    print(benchmark_stages.table(rows))
    return rows


if __name__ == "__main__":
    launch.run(main)
