"""The script for machines with a GPU, with steps that need none."""

import contextlib
import importlib.util
import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Iterator
from unittest.mock import Mock

import pytest

from capsjax.benchmarks import gpu_session as gpu_run
from kernels import gpu
from tests.launching import assert_one_line, run

OK = ["-c", "print('fine')"]


def test_every_step_runs_and_leaves_its_log(tmp_path):
    fails = ["-c", "print('so far'); raise SystemExit(3)"]
    commands = {"first": OK, "second": fails, "third": OK}
    steps = [gpu_run.Step(*item, 0.33) for item in commands.items()]
    lines: list[str] = []
    statuses = gpu_run.run(steps, tmp_path / "new", 60, lines.append)
    assert statuses == {"first": "ok", "second": "failed", "third": "ok"}
    assert (tmp_path / "new" / "second.log").read_text() == "so far\n"
    assert (tmp_path / "new" / "third.log").read_text() == "fine\n"
    assert len(lines) == 6


def run_until_it_prints(step, output, monkeypatch, end):
    """Runs a step, and calls a function in place of waiting once it has printed."""
    log, lines = output / f"{step.name}.log", 0

    class Popen(subprocess.Popen):
        def wait(self, timeout=None):
            nonlocal lines
            if lines:
                return super().wait(60)  # As long as a slow machine takes.
            while not (lines := log.read_text().count("\n")):
                assert self.poll() is None
                time.sleep(0.02)
            return end(self)

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", Popen)
        return gpu_run.run([step], output, 600, lambda line: None)


def out_of_time(process):
    raise subprocess.TimeoutExpired("step", 0)


def interrupt(process):
    raise KeyboardInterrupt


def terminate(process):
    os.kill(os.getpid(), signal.SIGTERM)


def hang_up(process):
    os.kill(os.getpid(), signal.SIGHUP)


def kill(process):
    process.kill()
    return process.wait()


def test_a_step_is_asked_to_stop_before_it_is_killed(tmp_path, monkeypatch):
    """So it keeps what it has printed, and what its trainings save."""
    program = (
        "import signal, sys, time\n"
        "stop = lambda *_: sys.exit(print('saved'))\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "print('found')\n"
        "time.sleep(600)"
    )
    step = gpu_run.Step("slow", ["-c", program], 1)
    statuses = run_until_it_prints(step, tmp_path, monkeypatch, out_of_time)
    assert statuses == {"slow": "out of time"}
    assert (tmp_path / "slow.log").read_text() == "found\nsaved\n"


@pytest.fixture
def hang_ups_end_it() -> Iterator[None]:
    """Also where nohup ignores them."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hang_ups_end_it")
@pytest.mark.parametrize(
    ("end", "ended"),
    [
        (out_of_time, "out of time"),
        (kill, "failed"),
        (interrupt, KeyboardInterrupt),
        (terminate, SystemExit),
        (hang_up, SystemExit),
    ],
)
def test_no_process_of_a_step_outlives_it(tmp_path, monkeypatch, end, ended):
    """Neither one in a session of its own that ignores requests to stop."""
    deaf = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(600)"
    )
    program = (
        "import subprocess, sys, time\n"
        f"command = [sys.executable, '-c', {deaf!r}]\n"
        "subprocess.Popen(command, start_new_session=True)\n"
        "time.sleep(600)"
    )
    step = gpu_run.Step("step", ["-c", program], 1)
    handlers = [signal.getsignal(x) for x in (signal.SIGTERM, signal.SIGHUP)]
    if isinstance(ended, str):
        statuses = run_until_it_prints(step, tmp_path, monkeypatch, end)
        assert statuses == {"step": ended}
    else:
        with pytest.raises(ended):
            run_until_it_prints(step, tmp_path, monkeypatch, end)
    deaf_pid = int((tmp_path / "step.log").read_text())
    try:
        # Whoever inherits it from the step may not have reaped it yet.
        assert not gpu_run._is_alive(deaf_pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(deaf_pid, signal.SIGKILL)
    assert [signal.getsignal(x) for x in (signal.SIGTERM, signal.SIGHUP)] == handlers


@pytest.mark.parametrize("seconds", [600.0, 7.0])
def test_steps_that_nothing_stops_keep_the_time(tmp_path, monkeypatch, seconds):
    """By a clock that only runs while something is waited for."""
    now = 0.0
    limits: list[list[float]] = []

    def sleep(seconds):
        nonlocal now
        now += seconds

    class Popen:
        def __init__(self, command, **options):
            limits.append([])

        def wait(self, timeout):
            limits[-1].append(timeout)
            sleep(timeout)
            raise subprocess.TimeoutExpired("step", timeout)

        terminate = poll = Mock()

    monkeypatch.setattr(gpu_run, "time", Mock(monotonic=lambda: now, sleep=sleep))
    monkeypatch.setattr(gpu_run, "_marked", lambda mark: {1})
    monkeypatch.setattr(gpu_run, "_is_alive", lambda pid: True)
    shares = [step.share for step in gpu_run.steps(tmp_path, None, tmp_path)]
    steps = [gpu_run.Step(str(i), [], share) for i, share in enumerate(shares)]
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", Popen)
        patch.setattr(os, "kill", Mock())
        statuses = gpu_run.run(steps, tmp_path, seconds, lambda line: None)
    assert set(statuses.values()) == {"cannot be killed"}
    assert now <= seconds
    for (alone, stopping), share in zip(limits, shares, strict=True):
        assert alone >= 0.7 * share * seconds  # For its work.
        assert 0 < stopping <= 24


@pytest.mark.parametrize("data_dir", [None, "/data"])
def test_the_steps_share_the_time_and_their_modules_are_there(data_dir):
    steps = gpu_run.steps(pathlib.Path("/results"), data_dir, pathlib.Path("/run"))
    assert sum(step.share for step in steps) == pytest.approx(1)
    for step in steps:
        module = step.command[1]
        assert importlib.util.find_spec(module)
        needs_data = data_dir is not None and step.name == "table1"
        assert (f"--data_dir={data_dir}" in step.command) == needs_data


def test_the_folder_is_named_after_the_device():
    assert gpu_run.folder_name("NVIDIA H200") == "nvidia_h200"
    assert gpu_run.folder_name("NVIDIA H100 80GB HBM3") == "nvidia_h100_80gb_hbm3"


def test_without_a_gpu_it_says_so():
    if not gpu.interpreted():
        pytest.skip("there is a GPU")
    assert_one_line(run("run_on_gpu"), "Hopper GPU", "only a CPU")
