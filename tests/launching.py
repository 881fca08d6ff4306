"""Launchers in separate processes, for the tests that need them there."""

import contextlib
import multiprocessing
import os
import pathlib
import random
import runpy
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from capsjax.runs.folder import RunFolder
from capsjax.runs.metrics import read_metrics

# No test fails because the machine is slow: this only ends those that hang.
PATIENCE_S = 900

ROOT = pathlib.Path(__file__).parents[1]
DIGITS = "--config=experiments/configs/digits.py:quick"
# The smallest CapsNet: what takes time is to start a process and to compile.
TINY = (
    DIGITS,
    "--config.batch_size=16",
    "--config.max_steps=12",
    "--config.log_every_steps=2",
    "--config.checkpoint_every_steps=4",
    "--config.model.conv1_channels=4",
    "--config.model.primary_types=2",
    "--config.model.decoder_units=(8,)",
)
# Sums in another order change its parameters little.
SGD = ("--config.optimizer.name=sgd", "--config.optimizer.learning_rate=0.1")
TRAIN = ("-m", "experiments.train")


def start(
    *arguments: str, env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Starts Python with these arguments, its output kept."""
    return start_command([sys.executable, *arguments], env)


def start_command(
    command: Sequence[str], env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Starts a command in the checkout, on the CPU, its output kept."""
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(
    process: subprocess.Popen[str], timeout_s: float = PATIENCE_S
) -> subprocess.CompletedProcess[str]:
    """Waits for its end; kills a process that hangs and fails the test."""
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"hangs after {timeout_s} s: {out} {err}") from None
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def run(launcher: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """Runs a launcher to its end, in a process that has imported the libraries."""
    command = ["python", "-m", f"experiments.{launcher}", *flags]
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["tests.launching_preload"])
    with tempfile.TemporaryDirectory() as folder:
        out, err = (pathlib.Path(folder, name) for name in ("out", "err"))
        process = server.Process(target=_launch, args=(command, str(out), str(err)))
        process.start()
        process.join(PATIENCE_S)
        if process.exitcode is None:
            process.kill()
            raise AssertionError(f"hangs: {out.read_text()} {err.read_text()}")
        status = process.exitcode
        return subprocess.CompletedProcess(
            command, status, out.read_text(), err.read_text()
        )


def _launch(command: list[str], out: str, err: str) -> None:
    """Becomes the process of a command of Python."""
    os.chdir(ROOT)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    sys.orig_argv = command
    sys.argv = command[2:]
    runpy.run_module(command[2], run_name="__main__", alter_sys=True)


def train_to_end(folder: RunFolder, *flags: str) -> str:
    """Trains the smallest CapsNet in a folder; returns what it printed."""
    done = run("train", *TINY, *flags, f"--workdir={folder.path}")
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_one_line(process: subprocess.CompletedProcess[str], *words: str) -> None:
    """The process failed with one line on standard error that has all the words."""
    assert process.returncode == 1, (process.stdout, process.stderr)
    assert len(process.stderr.strip().splitlines()) == 1, process.stderr
    assert process.stderr.startswith("error: ")
    for word in words:
        assert word in process.stderr


def wait_until(
    condition: Callable[[], bool],
    process: subprocess.Popen[str],
    timeout_s: float = PATIENCE_S,
) -> None:
    """Waits for something that a process does; fails if it ends before that."""
    give_up = time.monotonic() + timeout_s
    while not condition():
        if process.poll() is not None or time.monotonic() > give_up:
            process.kill()
            raise AssertionError(process.communicate())
        time.sleep(0.02)


def rows_written(folder: RunFolder) -> int:
    """The number of rows of metrics that a run has written so far."""
    return len(read_metrics(folder.metrics))


def free_port() -> int:
    """A port of this machine that nothing uses.

    Below those that the system gives to outgoing connections, one of which could take
    it before the process that it is meant for.
    """
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("localhost", port))
            return port


def comparable(folder: RunFolder) -> dict[str, Any]:
    """A result without its times."""
    result = folder.load_result()
    return {key: result[key] for key in result if not key.startswith("seconds")}


def losses(folder: RunFolder) -> list[tuple[int, str, float]]:
    """Step, split and loss of each row of metrics."""
    rows = read_metrics(folder.metrics)
    return [(row["step"], row["split"], row["loss"]) for row in rows]


def assert_same_run(found: RunFolder, expected: RunFolder) -> None:
    """Every loss, training, validation and test, and what the parameters end as."""
    for a, b in zip(losses(found), losses(expected), strict=True):
        assert a == (b[0], b[1], pytest.approx(b[2], rel=1e-5))
    results = comparable(found), comparable(expected)
    assert results[0]["test_accuracy"] == results[1]["test_accuracy"]
    assert results[0]["test_examples"] == 360
    assert results[0]["params_l2"] == pytest.approx(results[1]["params_l2"], rel=1e-7)
