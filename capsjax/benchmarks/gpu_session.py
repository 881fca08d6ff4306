"""What is to be run on a GPU, step after step, within a given time."""

import contextlib
import os
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

# Keeps a process from taking most of a GPU's memory when it starts. For the one that
# runs the steps and needs none; not for the steps.
_PREALLOCATE = "XLA_PYTHON_CLIENT_PREALLOCATE"
_ROOT = pathlib.Path(__file__).parents[2]
# A run as long as the released code's would take an hour.
_TABLE_STEPS = 10_000
_TABLE_CELLS = (
    "mnist_r3_decoder",
    "mnist_r1_decoder",
    "multimnist_r3_decoder",
    "multimnist_r1_decoder",
    "mnist_baseline",
)
_SECONDS_TO_STOP = 30


class Step(NamedTuple):
    """A command and how much of the time it may take.

    Attributes:
        name: of its log.
        command: after the name of the Python interpreter.
        share: of the whole time, at most. What a step leaves goes to those after it.
    """

    name: str
    command: Sequence[str]
    share: float


class Outcome(NamedTuple):
    """How a step ended.

    Attributes:
        name: of the step.
        status: ``"ok"``, ``"failed"`` or ``"out of time"``.
        seconds: that it took.
    """

    name: str
    status: str
    seconds: float


def take_no_memory() -> None:
    """Leaves the GPU's memory to the steps; to be called before JAX sees the GPU."""
    os.environ[_PREALLOCATE] = "false"


def folder_name(device_kind: str) -> str:
    """A device's folder under results: ``nvidia_h200`` of ``NVIDIA H200``."""
    return re.sub(r"\W+", "_", device_kind).lower().strip("_")


def steps(
    output: pathlib.Path, data_dir: str | None, workdir: pathlib.Path
) -> list[Step]:
    """The kernels' tests, both benchmarks, and as much of table 1 as there fits.

    Args:
        output: folder of the results.
        data_dir: of the TFDS data sets; without it the trainings are on the digits.
        workdir: of the trainings, which are not kept.
    """
    images = [f"--data_dir={data_dir}"] if data_dir else ["--images=digits"]
    return [
        Step("tests", ["-m", "pytest", "-m", "gpu", "-v"], 0.35),
        Step(
            "benchmark",
            [
                "-m",
                "experiments.benchmark_routing",
                "--workloads=mnist,cifar10",
                f"--output={output / 'routing_benchmark.csv'}",
            ],
            0.25,
        ),
        Step(
            "train_step",
            [
                "-m",
                "experiments.benchmark_training",
                "--config=experiments/configs/mnist.py:authors_code",
                "--routing_implementations=mosaic_gpu,xla,reference",
                "--batch_sizes=128,512",
                "--dtypes=float32,bfloat16",
                # So that all combinations fit into the time.
                "--nostages",
                f"--output={output / 'benchmark_training.csv'}",
            ],
            0.2,
        ),
        Step(
            "table1",
            [
                "-m",
                "experiments.reproduce",
                "--table=1",
                "--scale=paper",
                f"--max_steps={_TABLE_STEPS}",
                # In the order of what they tell: CapsNet as published comes first.
                f"--cells={','.join(_TABLE_CELLS)}",
                "--seeds=1",
                *images,
                f"--workdir={workdir}",
                f"--output={output}",
            ],
            0.2,
        ),
    ]


def run(
    steps: Sequence[Step],
    output: pathlib.Path,
    seconds: float,
    report: Callable[[str], None],
) -> list[Outcome]:
    """Runs the steps, each to its end or to the end of its time, whatever others do.

    Their output goes to ``<name>.log`` in the folder, line by line, so that a step that
    is stopped leaves what it had found. It is asked to stop before it is killed.

    Args:
        steps: in order.
        output: folder of the logs.
        seconds: for all of them.
        report: is given a line before and after each.
    """
    output.mkdir(parents=True, exist_ok=True)
    environment = {k: v for k, v in os.environ.items() if k != _PREALLOCATE}
    started, due, outcomes = time.monotonic(), 0.0, []
    for step in steps:
        due += step.share * seconds
        log = output / f"{step.name}.log"
        left = max(1.0, due - (time.monotonic() - started))
        report(f"{step.name}: at most {left:.0f} s, log in {log}")
        begun = time.monotonic()
        with log.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-u", *step.command],
                cwd=_ROOT,
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
            try:
                status = "ok" if process.wait(left) == 0 else "failed"
            except subprocess.TimeoutExpired:
                status = "out of time"
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_SECONDS_TO_STOP)
            finally:
                process.kill()
                process.wait()
        outcomes.append(Outcome(step.name, status, time.monotonic() - begun))
        report(f"{step.name}: {status} after {outcomes[-1].seconds:.0f} s")
    return outcomes
