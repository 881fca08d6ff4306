"""Times the train step beside its two convolutions alone, in one process.

python -m experiments.benchmark_training \
    --config=experiments/configs/mnist.py:authors_code

Random images of the data set's shape, so no data is needed. Prints a table and appends
its rows, with their provenance, to a CSV file.
"""

import pathlib

from absl import flags

from capsjax import benchmark, provenance, results
from capsjax.errors import UserError
from capsjax.progress import Progress
from experiments import launch

_CONFIG = launch.define_config()
_REPEATS = flags.DEFINE_integer(
    "repeats", 10, "Timed calls of each function.", lower_bound=1
)
_IMAGE_SHAPE = flags.DEFINE_list(
    "image_shape", ["28", "28", "1"], "Height, width and channels of the images."
)
_NUM_CLASSES = flags.DEFINE_integer("num_classes", 10, "Classes.", lower_bound=2)
_OUTPUT = flags.DEFINE_string(
    "output", "", "CSV file to append the rows to; empty: only print them."
)


def main() -> None:
    """Times, prints and records."""
    config = _CONFIG.value
    try:
        height, width, channels = (int(size) for size in _IMAGE_SHAPE.value)
    except ValueError as error:
        raise UserError(
            f"--image_shape={','.join(_IMAGE_SHAPE.value)} is not height,width,channels"
        ) from error
    with Progress("timing", 2 * (_REPEATS.value + 1), unit="calls") as progress:
        timings = benchmark.train_step_and_convolutions(
            config,
            (height, width, channels),
            _NUM_CLASSES.value,
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
    if _OUTPUT.value:
        path = pathlib.Path(_OUTPUT.value)
        rows = benchmark.rows(config, timings, provenance.environment())
        results.append(path, rows, benchmark.COLUMNS)
        print(f"rows appended to {path}")


if __name__ == "__main__":
    launch.run(main)
