r"""Times a model's train step, stage by stage, or its inference (--mode=inference).

python -m experiments.benchmark_training \
    --config=experiments/configs/mnist.py:authors_code \
    --routing_implementations=xla,reference --output=benchmark.csv

Random images of the size and classes of the config's data, or of --image_shape and
--num_classes; the data are loaded only if they are your own. A
CapsNet's step is timed in turn with its stages (conv1, primary capsules, routing,
decoder, loss, optimizer; forward and backward) and with its two convolutions alone.
Prints a table for each combination of implementation, batch size and dtype, appends the
rows with their provenance to a CSV file, and draws them in a picture beside it. Stages
on a GPU are device times; all other times are by the wall clock.

--mode=inference times inference from images to scores, both in host memory; by default
of one image (latency) and of batches of 32 and 256 (throughput). --mode=memory only
compiles the step and prints how much memory it takes.

--against='COMMAND' runs another program in turn with our step, each in its own process,
and compares seconds and memory. It must print a line such as
{"full_step_s": 1.2, "batch": 128}.
"""

import dataclasses
import itertools
import json
import pathlib
import resource
import sys
from collections.abc import Iterator
from typing import Any

from absl import flags

from capsjax import config as config_lib
from capsjax import figures
from capsjax.benchmarks import against as benchmark_against
from capsjax.benchmarks import programs as benchmark
from capsjax.benchmarks import stages as benchmark_stages
from capsjax.benchmarks.figures import stages as plots_stages
from capsjax.benchmarks.programs import INFERENCE, MEMORY, TRAIN, Problem, Timing
from capsjax.errors import UserError
from capsjax.runs import provenance, results
from capsjax.runs.progress import Progress
from experiments import launch

_CONFIG = launch.define_config()
_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "inference", "memory"],
    "train: times of the train step; inference: times of inference; memory: the train "
    "step's memory by the compiler's account, without running it.",
)
_IMPLEMENTATIONS = flags.DEFINE_list(
    "routing_implementations",
    None,
    "From reference, xla, mosaic_gpu; by default the config's.",
)
_BATCH_SIZES = flags.DEFINE_list(
    "batch_sizes", None, "Images; by default the config's, in inference 1,32,256."
)
_DTYPES = flags.DEFINE_list(
    "dtypes", None, f"From {', '.join(config_lib.DTYPES)}; by default the config's."
)
_REPEATS = flags.DEFINE_integer(
    "repeats", 10, "Timed calls of each function.", lower_bound=1
)
_images = launch.define_images()
_STAGES = flags.DEFINE_bool(
    "stages",
    True,
    "Whether to time the stages of a CapsNet's step too. Without them, and with one "
    "combination only, this process's peak memory goes into the row.",
)
_AGAINST = flags.DEFINE_string(
    "against",
    None,
    "Command of another program to run in turn with our step of the first combination.",
)
_ROUNDS = flags.DEFINE_integer(
    "rounds", 3, "Runs of each program in --against.", lower_bound=1
)
_JSON = flags.DEFINE_bool(
    "json", False, "Prints a line of JSON as read by --against, and no table."
)
_OUTPUT = flags.DEFINE_string(
    "output",
    "",
    "CSV file to append the rows to; empty: only print them. The stages of training "
    "are drawn in a picture beside it whose name ends in _stages.png.",
)

Rows = list[results.Row]


def main() -> None:
    """Times, prints, records and draws."""
    sizes = _BATCH_SIZES.value
    if _MODE.value == INFERENCE:
        sizes = sizes or ["1", "32", "256"]
    configs = benchmark.combinations(
        _CONFIG.value,
        routing_implementations=_IMPLEMENTATIONS.value,
        batch_sizes=sizes,
        dtypes=_DTYPES.value,
    )
    path = pathlib.Path(_OUTPUT.value) if _OUTPUT.value else None
    if (_AGAINST.value is not None or _JSON.value) and _MODE.value != TRAIN:
        raise UserError("--against and --json are for train steps; leave --mode out")
    if path:
        results.read(path)  # Raises its errors before the work.
    images = _images(_CONFIG.value)
    problems = [Problem(config, *images) for config in configs]
    env = provenance.environment()
    measure = {TRAIN: _train, INFERENCE: _inference, MEMORY: _memory}[_MODE.value]
    parts = measure(problems, env)
    if _AGAINST.value is not None:
        parts = itertools.chain(parts, _against(_AGAINST.value, problems[0], env))
    rows: Rows = []
    for new in parts:
        rows += new
        if path:
            results.append(path, new)
    if not path:
        return
    print(f"rows appended to {path}")
    if plots_stages.can_draw(rows):
        picture = path.with_name(f"{path.stem}_stages.png")
        figures.save(plots_stages.draw(rows), picture)
        print(f"drawn in {picture}")


def _train(problems: list[Problem], env: dict[str, Any]) -> Iterator[Rows]:
    """Times and prints the train steps; yields the rows of each combination."""
    for problem in problems:
        in_stages = _STAGES.value and problem.config.model.has_stages
        timings = benchmark_stages.without_forward(
            _timed(  # The programs are freed before the next combination's.
                benchmark_stages.compile_programs(problem)
                if in_stages
                else [benchmark.compile_step(problem)]
            )
        )
        step = timings[-1]
        if len(problems) == 1 and not in_stages:
            # The process has run nothing else.
            kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            step = dataclasses.replace(step, peak_rss_mb=kib * 1024 / 1e6)
            timings = [step]
        rows = [benchmark.row(problem, env, timing) for timing in timings]
        if _JSON.value:
            seconds = {f"{x.stage}_s": x.median_s for x in timings if x.mode == TRAIN}
            print(json.dumps({"batch": problem.config.batch_size, **seconds}))
        else:
            print(_title(problem))
            if in_stages:
                print(benchmark_stages.table(rows))
            print(
                f"step: {_speed(problem, step)}, {step.peak_mb:.0f} MB by the "
                f"compiler's account, compiled in {step.compile_s:.1f} s"
            )
            if step.peak_rss_mb:
                print(f"peak memory of this process: {step.peak_rss_mb:.0f} MB")
        yield rows


def _memory(problems: list[Problem], env: dict[str, Any]) -> Iterator[Rows]:
    """Compiles and prints the memory of each train step; yields its row."""
    for problem in problems:
        measured = benchmark.step_memory(problem)
        print(f"{_title(problem)}: {measured.peak_mb:.0f} MB", flush=True)
        yield [benchmark.row(problem, env, measured)]


def _inference(problems: list[Problem], env: dict[str, Any]) -> Iterator[Rows]:
    """Times and prints inference of all combinations in turn; yields their rows."""
    programs = [benchmark.compile_predictor(problem) for problem in problems]
    for problem, timing in zip(problems, _timed(programs, wall=True), strict=True):
        print(f"{_title(problem)}: {_speed(problem, timing)}")
        yield [benchmark.row(problem, env, timing)]


def _against(theirs: str, problem: Problem, env: dict[str, Any]) -> Iterator[Rows]:
    """Compares one combination with the other program; yields the rows of both."""
    config, shape, num_classes = problem
    ours = [
        *(sys.executable, "-m", "experiments.benchmark_training"),
        *_CONFIG.words(),
        f"--batch_sizes={config.batch_size}",
        f"--dtypes={config.dtype}",
        f"--image_shape={','.join(map(str, shape))}",
        f"--num_classes={num_classes}",
        f"--repeats={_REPEATS.value}",
        "--nostages",
        "--json",
    ]
    if config.model.routing and config.model.routing.implementation:
        ours.append(f"--routing_implementations={config.model.routing.implementation}")
    with Progress("comparing", _ROUNDS.value, unit="rounds") as progress:
        comparison = benchmark_against.compare(
            ours, theirs, rounds=_ROUNDS.value, on_round=progress.advance
        )
    print(comparison.table())
    yield comparison.rows(problem, env)


def _timed(programs: list[benchmark.Program], *, wall: bool = False) -> list[Timing]:
    calls = len(programs) * (_REPEATS.value + 1)
    with Progress("timing", calls, unit="calls") as progress:
        return benchmark.measure(
            programs, repeats=_REPEATS.value, on_call=progress.advance, wall=wall
        )


def _title(problem: Problem) -> str:
    columns = problem.config.model.columns()
    return (
        f"{columns['model']}, {columns['routing_implementation']} routing, "
        f"{problem.size} images, {problem.num_classes} classes, "
        f"batch size {problem.config.batch_size}, {problem.config.dtype}"
    )


def _speed(problem: Problem, timing: Timing) -> str:
    speed = problem.config.batch_size / timing.median_s
    return (
        f"{timing.median_s:.4g} s median ({min(timing.seconds):.4g} to "
        f"{max(timing.seconds):.4g}), {speed:.1f} images/s"
    )


if __name__ == "__main__":
    launch.run(main)
