"""Times the train step on 1, 2, 4, ... devices: images per second and efficiency.

python -m experiments.benchmark_scaling \
    --config=experiments/configs/mnist.py:authors_code
python -m experiments.benchmark_scaling --config=experiments/configs/digits.py:quick \
    --devices=1,2,4 --scaling=strong

Random images of the size and classes of the config's data, or of --image_shape and
--num_classes; the data are loaded only if they are your own. Prints a table, appends
its rows with their provenance to a CSV file, and draws them in a picture beside it. On
a CPU, --devices splits it into virtual devices, which share its cores, so training gets
no faster.
"""

import pathlib

import jax
from absl import flags

from capsjax import figures
from capsjax.benchmarks import choices
from capsjax.benchmarks import programs as benchmark
from capsjax.benchmarks import scaling as benchmark_scaling
from capsjax.benchmarks.figures import scaling as plots_scaling
from capsjax.benchmarks.programs import Problem
from capsjax.runs import provenance, results
from capsjax.runs.progress import Progress
from capsjax.training import parallel
from experiments import launch

_CONFIG = launch.define_config()
_images = launch.define_images()
_DEVICES = flags.DEFINE_list(
    "devices",
    None,
    "Numbers of devices to compare, such as 1,2,4; by default the powers of two and "
    "all devices.",
)
_SCALING = flags.DEFINE_enum(
    "scaling",
    "weak",
    benchmark_scaling.SCALINGS,
    "weak: config.batch_size is the batch of each device; strong: it is the whole "
    "batch, which the devices share.",
)
_REPEATS = flags.DEFINE_integer(
    "repeats", 20, "Timed steps on each number of devices.", lower_bound=1
)
_OUTPUT = flags.DEFINE_string(
    "output",
    "runs/benchmarks/scaling.csv",
    "CSV file to append the rows to; the picture is its .png. results/scaling.csv is "
    "the committed one.",
)


def main() -> None:
    """Measures, prints, records and draws."""
    images = _images(_CONFIG.value)
    counts = None
    if _DEVICES.value is not None:
        counts = choices.counts("devices", _DEVICES.value, "devices")
        jax.config.update("jax_num_cpu_devices", max(counts))  # Of a CPU only.
    output = pathlib.Path(_OUTPUT.value)
    results.read(output)  # Raises its errors before the work.
    configs = benchmark_scaling.make_configs(
        _CONFIG.value,
        counts or benchmark_scaling.default_counts(len(jax.devices())),
        _SCALING.value,
    )
    env = provenance.environment()
    if env["platform"] == "cpu":
        print(f"note: {benchmark_scaling.SHARED_CORES}", flush=True)
        if counts is None:
            print("note: --devices=1,2,4 splits the CPU into devices", flush=True)
    problems = [Problem(config, *images) for config in configs]
    steps = [
        benchmark.compile_step(problem, parallel.choose(problem.config))
        for problem in problems
    ]
    total = len(steps) * (_REPEATS.value + 1)
    with Progress("timing", total, unit="steps") as progress:
        timings = benchmark.measure(
            steps, repeats=_REPEATS.value, on_call=progress.advance, wall=True
        )
    rows = benchmark_scaling.rows(problems, _SCALING.value, timings, env)
    print(benchmark_scaling.title(rows[0]))
    print(benchmark_scaling.table(rows))
    results.append(output, rows)
    newest = results.latest_run(results.read(output), env["device"])
    figures.save(plots_scaling.scaling(newest), output.with_suffix(".png"))
    print(f"rows appended to {output}, drawn in {output.with_suffix('.png')}")


if __name__ == "__main__":
    launch.run(main)
