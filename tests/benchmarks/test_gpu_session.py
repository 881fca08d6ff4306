"""The script for machines with a GPU, with steps that need none."""

import importlib.util
import pathlib
import time

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


def test_a_step_out_of_time_keeps_what_it_printed(tmp_path):
    slow = ["-c", "import time\nprint('found', flush=True)\ntime.sleep(60)"]
    steps = [gpu_run.Step("slow", slow, 0.5), gpu_run.Step("next", OK, 0.5)]
    started = time.monotonic()
    statuses = gpu_run.run(steps, tmp_path, 6, lambda line: None)
    assert time.monotonic() - started < 30
    assert statuses == {"slow": "out of time", "next": "ok"}
    assert (tmp_path / "slow.log").read_text() == "found\n"


def test_a_step_is_asked_to_stop_before_it_is_killed(tmp_path):
    """So trainings that it has started do not outlive it."""
    program = (
        "import signal, sys, time\n"
        "stop = lambda *_: sys.exit(print('saved', flush=True))\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "time.sleep(60)"
    )
    steps = [gpu_run.Step("slow", ["-c", program], 1)]
    gpu_run.run(steps, tmp_path, 3, lambda line: None)
    assert (tmp_path / "slow.log").read_text() == "saved\n"


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
