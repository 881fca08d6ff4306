"""The steps that run on a GPU, one after the other, within a given time."""

import contextlib
import os
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

# Keeps a process from reserving most of a GPU's memory when it starts. Set for the
# process that runs the steps, which needs none; not for the steps.
_PREALLOCATE = "XLA_PYTHON_CLIENT_PREALLOCATE"
_ROOT = pathlib.Path(__file__).parents[2]
_SECONDS_TO_STOP = 30


class Step(NamedTuple):
    """Arguments of the Python interpreter, and the largest share of the whole time.

    Unused time goes to the following steps.
    """

    name: str
    command: Sequence[str]
    share: float


def take_no_memory() -> None:
    """Leaves the GPU's memory to the steps; must be called before JAX sees the GPU."""
    os.environ[_PREALLOCATE] = "false"


def folder_name(device_kind: str) -> str:
    """A device's folder under results: ``nvidia_h200`` for ``NVIDIA H200``."""
    return re.sub(r"\W+", "_", device_kind).lower().strip("_")


def steps(
    output: pathlib.Path, data_dir: str | None, workdir: pathlib.Path
) -> list[Step]:
    """The kernels' tests, both benchmarks, and as much of table 1 as fits the time.

    Args:
        output: folder of the results.
        data_dir: folder of the TFDS data sets; without it the digits are used.
        workdir: folder of the trainings, which are not kept.
    """
    routing = [
        "--workloads=mnist,cifar10",
        f"--output={output / 'routing_benchmark.csv'}",
    ]
    training = [
        "--config=experiments/configs/mnist.py:authors_code",
        "--routing_implementations=mosaic_gpu,xla,reference",
        "--batch_sizes=128,512",
        "--dtypes=float32,bfloat16",
        "--nostages",  # So that all combinations fit into the time.
        f"--output={output / 'benchmark_training.csv'}",
    ]
    table1 = [
        "--table=1",
        "--scale=paper",
        "--max_steps=10000",  # As many as in the released code would take an hour.
        # The most informative first: CapsNet as published.
        "--cells=mnist_r3_decoder,mnist_r1_decoder,multimnist_r3_decoder,"
        "multimnist_r1_decoder,mnist_baseline",
        "--seeds=1",
        f"--data_dir={data_dir}" if data_dir else "--images=digits",
        f"--workdir={workdir}",
        f"--output={output}",
    ]
    return [
        Step("tests", ["-m", "pytest", "-m", "gpu", "-v"], 0.35),
        Step("benchmark", ["-m", "experiments.benchmark_routing", *routing], 0.25),
        Step("train_step", ["-m", "experiments.benchmark_training", *training], 0.2),
        Step("table1", ["-m", "experiments.reproduce", *table1], 0.2),
    ]


def run(
    steps: Sequence[Step],
    output: pathlib.Path,
    seconds: float,
    report: Callable[[str], None],
) -> dict[str, str]:
    """Runs every step to its end or its time limit, even if others fail.

    Output goes to ``<name>.log`` in the folder, line by line, so that a stopped step
    leaves its results. It is asked to stop before it is killed. All steps together have
    these seconds; ``report`` is called with a line before and after each.

    Returns:
        Status by step: ``"ok"``, ``"failed"`` or ``"out of time"``.
    """
    output.mkdir(parents=True, exist_ok=True)
    environment = {k: v for k, v in os.environ.items() if k != _PREALLOCATE}
    started, due, statuses = time.monotonic(), 0.0, {}
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
        statuses[step.name] = status
        report(f"{step.name}: {status} after {time.monotonic() - begun:.0f} s")
    return statuses
