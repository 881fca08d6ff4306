"""The steps that run on a GPU, one after the other, within a given time."""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, NoReturn

# Keeps a process from reserving most of a GPU's memory when it starts. Set for the
# process that runs the steps, which needs none; not for the steps.
_PREALLOCATE = "XLA_PYTHON_CLIENT_PREALLOCATE"
# A step's processes inherit it, also those in sessions of their own. Its value is that
# of one step.
_MARK = "CAPSJAX_GPU_STEP"
_ROOT = pathlib.Path(__file__).parents[2]
# The end of a step's time, in which it is stopped: at most these seconds, and this
# share of its time. What is left of it after the request to stop is for killing.
_SECONDS_TO_STOP, _SHARE_TO_STOP, _SHARE_TO_ASK = 30.0, 0.2, 0.8
_SECONDS_BETWEEN_LOOKS = 0.05


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
    leaves its results. It is asked to stop before it is killed. However a step or this
    process ends, short of SIGKILL to this process, no process that the step has started
    goes on.

    Args:
        steps: the steps, in their order.
        output: folder of the logs.
        seconds: the time of all steps together, stopping and killing included.
        report: function that receives a line before and after each step.

    Returns:
        Status by step: ``"ok"``, ``"failed"``, ``"out of time"``, or ``"cannot be
        killed"`` if one of its processes outlives SIGKILL.
    """
    output.mkdir(parents=True, exist_ok=True)
    started, due, statuses = time.monotonic(), 0.0, {}
    with _exit_on_signals():
        for step in steps:
            due += step.share * seconds
            log = output / f"{step.name}.log"
            begun = time.monotonic()
            left = max(0.0, started + due - begun)
            report(f"{step.name}: at most {left:.0f} s, log in {log}")
            statuses[step.name] = status = _run_step(step, log, left)
            report(f"{step.name}: {status} after {time.monotonic() - begun:.0f} s")
    return statuses


def _run_step(step: Step, log: pathlib.Path, seconds: float) -> str:
    """Runs a step and ends all of its processes within these seconds."""
    deadline = time.monotonic() + seconds
    to_stop = min(_SECONDS_TO_STOP, _SHARE_TO_STOP * seconds)
    mark = str(uuid.uuid4())
    environment = {k: v for k, v in os.environ.items() if k != _PREALLOCATE}
    environment[_MARK] = mark
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-u", *step.command],
            cwd=_ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # So that only we stop it.
        )
    try:
        status = "ok" if process.wait(seconds - to_stop) == 0 else "failed"
    except subprocess.TimeoutExpired:
        status = "out of time"
    finally:
        try:
            process.terminate()  # Nothing, if it has ended.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_SHARE_TO_ASK * to_stop)
        finally:
            survivors = _kill_marked(mark, deadline)
            process.poll()  # It is no zombie any more.
    return "cannot be killed" if survivors else status


def _kill_marked(mark: str, deadline: float) -> set[int]:
    """Kills the processes with a mark until there are none, or time is up.

    A process that has just started another program shows no environment for a moment,
    so two looks in a row must find none.

    Args:
        mark: the value of `_MARK` in their environment.
        deadline: seconds of `time.monotonic`.

    Returns:
        The processes that are still there.
    """
    found: set[int] = set()
    looks_without = 0
    while True:
        # Those found before lose their environment before they release the GPU.
        found = {pid for pid in found | _marked(mark) if _is_alive(pid)}
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        looks_without = 0 if found else looks_without + 1
        in_time = time.monotonic() + _SECONDS_BETWEEN_LOOKS <= deadline
        if looks_without == 2 or not in_time:
            return found
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _marked(mark: str) -> set[int]:
    """Processes with this value of `_MARK` in their environment."""
    entry = f"{_MARK}={mark}".encode()
    found = set()
    for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # It has ended, or is another user's.
            if entry in path.read_bytes().split(b"\0"):
                found.add(int(path.parent.name))
    return found


def _is_alive(pid: int) -> bool:
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    # The state follows the program's name, which may contain anything.
    return text.rpartition(")")[2].split()[0] not in ("Z", "X")


@contextlib.contextmanager
def _exit_on_signals() -> Iterator[None]:
    """Makes signals that would end this process at once raise SystemExit.

    Signals that are ignored, as SIGHUP under nohup, remain so.
    """

    def leave(number: int, frame: object) -> NoReturn:
        sys.exit(128 + number)

    numbers = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) == signal.SIG_DFL
    ]
    for number in numbers:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
