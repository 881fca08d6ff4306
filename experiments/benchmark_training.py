r"""Times a model's train step, stage by stage, or its answers (--mode=inference).

python -m experiments.benchmark_training \
    --config=experiments/configs/mnist.py:authors_code \
    --routing_implementations=xla,reference --output=benchmark.csv

Random images, so no data is needed: --image_shape and --num_classes say of what size.
A CapsNet's step is timed in turn with its stages (conv1, primary capsules, routing,
decoder, loss, optimizer; forward and backward) and with its two convolutions alone. It
prints a table for each combination of implementation, batch size and dtype, appends the
rows with their provenance to a CSV file, and draws them as a picture beside it. On a
GPU stages are device times; else all times are by the wall clock.

--mode=inference times answers from images to scores, both in host memory; by default
one image (latency) and batches of 32 and 256 (throughput). --mode=memory only compiles
the step and says how much memory it takes.

--against='COMMAND' runs another program in turn with our step, each in a process of its
own, and compares seconds and memory. It is to print a line such as
{"full_step_s": 1.2, "batch": 128}.
"""

import json
import pathlib
import resource
import statistics
import sys
from typing import Any

from absl import flags

from capsjax import config as config_lib
from capsjax import figures
from capsjax.benchmarks import against as benchmark_against
from capsjax.benchmarks import inference as benchmark_inference
from capsjax.benchmarks import memory as benchmark_memory
from capsjax.benchmarks import programs as benchmark
from capsjax.benchmarks import stages as benchmark_stages
from capsjax.benchmarks.figures import stages as plots_stages
from capsjax.benchmarks.stages import STEP, TRAIN
from capsjax.config import Config
from capsjax.errors import UserError
from capsjax.runs import provenance, results
from capsjax.runs.progress import Progress
from experiments import launch

_CONFIG = launch.define_config()
_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "inference", "memory"],
    "train: times of the train step; inference: of answers; memory: what the train "
    "step takes by the compiler's account, without running it.",
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
    "combination only, the memory that this process had in use goes into the row.",
)
_AGAINST = flags.DEFINE_string(
    "against",
    None,
    "Command of another program to run in turn with our step, that of the first "
    "combination.",
)
_ROUNDS = flags.DEFINE_integer(
    "rounds", 3, "How often --against runs each of the two.", lower_bound=1
)
_JSON = flags.DEFINE_bool(
    "json", False, "Prints a line of JSON, such as --against reads, and no table."
)
_OUTPUT = flags.DEFINE_string(
    "output",
    "",
    "CSV file to append the rows to; empty: only print them. Training is drawn in a "
    "picture beside it, named like it with _stages.png at the end.",
)

Rows = list[results.Row]


def main() -> None:
    """Times, prints, records and draws."""
    inference = _MODE.value == "inference"
    configs = benchmark.combinations(
        _CONFIG.value,
        routing_implementations=_IMPLEMENTATIONS.value,
        batch_sizes=_BATCH_SIZES.value or (["1", "32", "256"] if inference else None),
        dtypes=_DTYPES.value,
    )
    path = pathlib.Path(_OUTPUT.value) if _OUTPUT.value else None
    if (_AGAINST.value is not None or _JSON.value) and _MODE.value != "train":
        raise UserError("--against and --json are of train steps; leave --mode out")
    if path:
        results.read(path)  # Complains before the work.
    env = provenance.environment()
    rows: Rows = []

    def record(new: Rows) -> None:
        rows.extend(new)
        if path:
            results.append(path, new)

    if inference:
        record(_inference(configs, env))
    elif _MODE.value == "memory":
        for config in configs:
            record(_memory(config, env))
    else:
        for config in configs:
            record(_train(config, env, alone=len(configs) == 1))
    if _AGAINST.value is not None:
        record(_against(_AGAINST.value, configs[0], env))
    if not path:
        return
    print(f"rows appended to {path}")
    if plots_stages.can_draw(rows):
        picture = path.with_name(f"{path.stem}_stages.png")
        figures.save(plots_stages.draw(rows), picture)
        print(f"drawn in {picture}")


def _train(config: Config, env: dict[str, Any], *, alone: bool) -> Rows:
    """Times and prints one combination; returns its rows.

    Only if it is alone is the most memory that the process had in use its own.
    """
    in_stages = _STAGES.value and config.model.has_stages
    if in_stages:
        programs = benchmark_stages.compile_programs(config, *_images())
    else:
        programs = [benchmark_stages.compile_step(config, *_images())]
    with Progress(
        "timing", len(programs) * (_REPEATS.value + 1), unit="calls"
    ) as progress:
        timings = benchmark_stages.measure(
            programs, repeats=_REPEATS.value, on_call=progress.advance
        )
    peak_rss_mb = _peak_rss_mb() if alone and not in_stages else None
    rows = [
        benchmark.row(
            config,
            *_images(),
            env,
            stage=stage,
            mode=mode,
            measured=timing,
            peak_rss_mb=peak_rss_mb,
        )
        for (stage, mode), timing in timings.items()
    ]
    if _JSON.value:
        seconds = {
            f"{stage}_s": timing.median_s
            for (stage, mode), timing in timings.items()
            if mode == TRAIN
        }
        print(json.dumps({"batch": config.batch_size, **seconds}))
        return rows
    print(_title(config))
    if in_stages:
        print(benchmark_stages.table(rows))
    step = timings[STEP, TRAIN]
    print(
        f"step: {_seconds(step)}, {config.batch_size / step.median_s:.1f} images/s, "
        f"{step.peak_mb:.0f} MB by the compiler's account, compiled in "
        f"{step.compile_s:.1f} s"
    )
    if peak_rss_mb:
        print(f"this process had at most {peak_rss_mb:.0f} MB in use")
    return rows


def _against(theirs: str, config: Config, env: dict[str, Any]) -> Rows:
    """Compares one combination with the other program; returns the rows of both."""
    shape, num_classes = _images()
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
    return benchmark_against.rows(comparison, config, shape, num_classes, env)


def _memory(config: Config, env: dict[str, Any]) -> Rows:
    """Compiles and prints one combination; returns its row."""
    measured = benchmark_memory.measure(config, *_images())
    print(f"{_title(config)}: {measured.peak_mb:.0f} MB", flush=True)
    return [
        benchmark.row(
            config, *_images(), env, stage=STEP, mode="memory", measured=measured
        )
    ]


def _inference(configs: list[Config], env: dict[str, Any]) -> Rows:
    """Times and prints answers; returns the rows."""
    programs = [
        benchmark_inference.compile_predictor(config, *_images()) for config in configs
    ]
    calls = len(programs) * (_REPEATS.value + 1)
    with Progress("timing", calls, unit="calls") as progress:
        timings = benchmark_inference.measure(
            programs, repeats=_REPEATS.value, on_call=progress.advance
        )
    rows = []
    for config, program, timing in zip(configs, programs, timings, strict=True):
        print(
            f"{_title(config)}: {_seconds(timing)}, "
            f"{config.batch_size / timing.median_s:.1f} images/s"
        )
        rows.append(
            benchmark.row(
                config,
                *_images(),
                env,
                stage=program.stage,
                mode=program.mode,
                measured=timing,
            )
        )
    return rows


def _title(config: Config) -> str:
    columns = config.model.columns()
    return (
        f"{columns['model']}, {columns['routing_implementation']} routing, "
        f"batch size {config.batch_size}, {config.dtype}"
    )


def _seconds(timing: benchmark.Timing) -> str:
    return (
        f"{statistics.median(timing.seconds):.4g} s median ({timing.min_s:.4g} to "
        f"{timing.max_s:.4g})"
    )


def _peak_rss_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    launch.run(main)
