"""Times the routing implementations side by side; only checked results count.

python -m experiments.benchmark_routing
python -m experiments.benchmark_routing --workloads=mnist,cifar10 \
    --batch_sizes=32,128,512 --modes=forward+backward --dtypes=float32,bfloat16

Random capsules in the sizes of the named networks, so no data is needed. Prints a
table, appends its rows with their provenance to a CSV file after each combination, and
draws the run in a picture beside it. A result that differs from the textbook's by more
than rounding gets no time, and the exit status is 1.

Then every routing algorithm is timed in two layers of capsules, fully connected and
convolutional, and compared with its own result in float64; the rows go to
OUTPUT_algorithms.csv. --routings=dynamic,em chooses some, --routings= none;
--implementations= leaves out the first part.

On a GPU, --tune first searches the fused kernels' configs for these workloads, batch
sizes and dtypes, and saves the fastest in kernels/routing/dynamic/mosaic_gpu/tuned.
"""

import pathlib

from absl import flags

from capsjax import figures
from capsjax.benchmarks import algorithms
from capsjax.benchmarks import routing as benchmark_routing
from capsjax.benchmarks import tuning as tune_routing
from capsjax.benchmarks.figures import routing as plots_routing
from capsjax.benchmarks.routing import BOTH
from capsjax.errors import UserError
from capsjax.routings import ROUTINGS
from capsjax.runs import provenance, results
from experiments import launch

_WORKLOADS = flags.DEFINE_list(
    "workloads",
    ["mnist"],
    f"Sizes of the op, from {', '.join(benchmark_routing.WORKLOADS)}.",
)
_BATCH_SIZES = flags.DEFINE_list(
    "batch_sizes", None, "Examples; by default 128, on a GPU 128,512,1024."
)
_IMPLEMENTATIONS = flags.DEFINE_list(
    "implementations",
    None,
    f"From {', '.join(benchmark_routing.routing.IMPLEMENTATIONS)}; by default all "
    "suitable for this machine.",
)
_MODES = flags.DEFINE_list(
    "modes",
    list(benchmark_routing.MODES),
    "forward: the poses; forward+backward: also the gradients of all arguments.",
)
_DTYPES = flags.DEFINE_list(
    "dtypes",
    None,
    f"From {', '.join(benchmark_routing.ERROR_BOUNDS)}; by default float32, on a GPU "
    "float32,bfloat16.",
)
_ROUTINGS = flags.DEFINE_list(
    "routings",
    list(ROUTINGS),
    f"Algorithms to time in layers of capsules, from {', '.join(ROUTINGS)}.",
)
_LAYERS = flags.DEFINE_list(
    "layers", list(algorithms.LAYERS), f"Layers, from {', '.join(algorithms.LAYERS)}."
)
_REPEATS = flags.DEFINE_integer(
    "repeats", 20, "Timed calls of each function.", lower_bound=1
)
_OUTPUT = flags.DEFINE_string(
    "output",
    "runs/benchmarks/routing_benchmark.csv",
    "CSV file to append the rows to; results/routing_benchmark.csv is the committed "
    "one.",
)
_PLOT = flags.DEFINE_bool("plot", True, "Whether to draw the run, in OUTPUT's .png.")
_TUNE = flags.DEFINE_bool(
    "tune",
    False,
    "Whether to search the fastest configs of the fused kernels first (needs a GPU).",
)


def main() -> None:
    """Measures the implementations of dynamic routing, and all algorithms."""
    plan = None
    if _ROUTINGS.value:
        plan = algorithms.make_plan(
            layers=_LAYERS.value,
            routings=_ROUTINGS.value,
            batch_sizes=_BATCH_SIZES.value or ["128"],
            modes=_MODES.value,
            repeats=_REPEATS.value,
        )
    if _IMPLEMENTATIONS.value != []:
        _time_implementations()
    if plan is not None:
        _time_algorithms(plan)


def _time_algorithms(plan: algorithms.Plan) -> None:
    output = pathlib.Path(_OUTPUT.value)
    output = output.with_name(f"{output.stem}_algorithms{output.suffix}")
    results.read(output)  # Raises its errors before the work.
    env = provenance.environment()
    wrong: list[results.Row] = []
    for rows in algorithms.run(plan, env):
        results.append(output, rows)
        print(algorithms.table(rows), flush=True)
        wrong += [row for row in rows if row["status"] != benchmark_routing.OK]
    print(f"rows appended to {output}")
    if wrong:
        names = sorted({row["routing"] for row in wrong})
        raise UserError(f"{len(wrong)} results have no time: {', '.join(names)}")


def _time_implementations() -> None:
    plan = benchmark_routing.make_plan(
        workloads=_WORKLOADS.value,
        batch_sizes=_BATCH_SIZES.value,
        implementations=_IMPLEMENTATIONS.value,
        modes=_MODES.value,
        dtypes=_DTYPES.value,
        repeats=_REPEATS.value,
    )
    output = pathlib.Path(_OUTPUT.value)
    results.read(output)  # Raises its errors before the work.
    if _TUNE.value:
        _tune(plan)
    env = provenance.environment()
    bad: list[results.Row] = []
    for rows in benchmark_routing.run(plan, env):
        results.append(output, rows)
        print(benchmark_routing.table(rows), flush=True)
        bad += filter(benchmark_routing.is_bad, rows)
    print(f"rows appended to {output}")
    if _PLOT.value:
        rows = results.latest_run(results.read(output), env["device"])
        if any(row.get("median_s") for row in rows):
            figures.save(plots_routing.times(rows), output.with_suffix(".png"))
            print(f"drawn in {output.with_suffix('.png')}")
    if bad:
        names = sorted({f"{row['implementation']} {row['status']}" for row in bad})
        raise UserError(f"{len(bad)} results have no time: {', '.join(names)}")


def _tune(plan: benchmark_routing.Plan) -> None:
    for task in dict.fromkeys(x._replace(mode=BOTH) for x in plan.combinations):
        print(f"tuning {task.workload}, batch {task.batch_size}, {task.dtype}")
        problem, config = tune_routing.tune(task, report=print)
        path = tune_routing.save(problem, config)
        print(f"fastest: {config}, saved in {path.name}", flush=True)


if __name__ == "__main__":
    launch.run(main)
