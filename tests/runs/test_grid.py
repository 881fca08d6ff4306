"""Many trainings in processes of their own, here with stand-ins that train nothing."""

import os
import re
import shlex
import signal
import stat
import sys

import pytest

from capsjax.errors import UserError
from capsjax.runs import grid
from capsjax.runs.executors import local
from capsjax.runs.grid import FAILED, FINISHED, SKIPPED, Run
from tests.launching import finish, start, wait_until
from tests.runs.grid_child import SCRIPT, starts


def runs_of(**what: str) -> list[Run]:
    return [Run(name, [f"--what={kind}"]) for name, kind in what.items()]


def quiet(line: str) -> None:
    pass


def statuses(outcomes) -> list[str]:
    return [outcome.status for outcome in outcomes]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for_start(folder) -> None:
    while not (folder / "starts").exists() or not starts(folder):
        pass


@pytest.fixture(autouse=True)
def no_gpus(monkeypatch):
    for name in ("CUDA_VISIBLE_DEVICES", "XLA_PYTHON_CLIENT_PREALLOCATE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")


def test_a_run_that_fails_takes_none_along_and_is_started_again(tmp_path):
    runs = runs_of(a="fast", b="fail", c="die", d="fast")
    lines: list[str] = []
    outcomes = grid.run_all(
        runs, tmp_path / "new", jobs=4, report=lines.append, command=SCRIPT
    )
    assert [outcome.name for outcome in outcomes] == ["a", "b", "c", "d"]
    assert statuses(outcomes) == [FINISHED, FAILED, FAILED, FINISHED]
    assert outcomes[1].error == "error: there is no data"
    assert outcomes[2].error == "ended by signal 9 (Killed)"
    said = "\n".join(lines)
    assert "a: started, log in" in said
    assert re.search(r"a: 1\.50 % test error after \d+ s", said)
    assert re.search(r"b: failed after \d+ s: error: there is no data", said)
    with pytest.raises(UserError, match=r"^2 of 4 runs failed: b, c; .*NAME\.log") as e:
        grid.refuse_failures(outcomes, tmp_path / "new")
    assert "\n" not in str(e.value)

    again = grid.run_all(runs, tmp_path / "new", report=lines.append, command=SCRIPT)
    assert statuses(again) == [SKIPPED, FINISHED, FAILED, SKIPPED]
    times = [len(starts(tmp_path / "new" / run.name)) for run in runs]
    assert times == [1, 2, 2, 1]
    # The log has both.
    assert (tmp_path / "new" / "b.log").read_text().count("training:") == 2
    grid.refuse_failures(again[:2], tmp_path)


def test_of_many_failures_some_are_named():
    failed = [grid.Outcome(f"r{n}", FAILED) for n in range(100)]
    with pytest.raises(UserError, match=r"^100 of .*: r0, .* and 90 more;"):
        grid.refuse_failures(failed, "runs")


def test_other_flags_for_the_same_name_are_refused_before_anything_runs(tmp_path):
    first = [Run("a", ["--what=fast", "--config.seed=1", "--data_dir=/here"])]
    grid.run_all(first, tmp_path, report=quiet, command=SCRIPT)
    moved = [Run("a", ["--config.seed=1", "--data_dir=/there", "--what=fast"])]
    outcomes = grid.run_all(moved, tmp_path, report=quiet, command=SCRIPT)
    assert statuses(outcomes) == [SKIPPED]
    for flags, words in {
        ("--what=fast", "--config.seed=2"): (
            r"run a in .* with --config\.seed=1 in place of --config\.seed=2; give"
        ),
        ("--what=fast",): r"with --config\.seed=1 in place of nothing; give",
        (
            "--what=fast",
            "--config.seed=1",
            "--x=1",
        ): r"with nothing in place of --x=1; give",
    }.items():
        with pytest.raises(UserError, match=words):
            grid.run_all([*runs_of(b="fast"), Run("a", flags)], tmp_path)
    assert not (tmp_path / "b").exists()


def test_a_grid_of_an_earlier_version_goes_on(tmp_path):
    """Its flags have the names that fields had then."""
    old = [Run("a", ["--what=fast", "--config.model.routing_iterations=1"])]
    grid.run_all(old, tmp_path, report=quiet, command=SCRIPT)
    new = [Run("a", ["--what=fast", "--config.model.routing.iterations=1"])]
    outcomes = grid.run_all(new, tmp_path, report=quiet, command=SCRIPT)
    assert statuses(outcomes) == [SKIPPED]


def test_the_flags_of_a_run_that_never_began_may_change(tmp_path):
    fails = (sys.executable, "-c", "raise SystemExit(7)")
    runs = runs_of(a="fail")
    (outcome,) = grid.run_all(runs, tmp_path, report=quiet, command=fails)
    assert outcome.error == "it ended with status 7"
    (outcome,) = grid.run_all(runs_of(a="fast"), tmp_path, report=quiet, command=SCRIPT)
    assert outcome.status == FINISHED


def test_a_run_that_another_command_made_is_checked_by_its_training(tmp_path):
    runs = runs_of(a="fast", b="die")
    for run in runs:
        (tmp_path / run.name).mkdir()
        (tmp_path / run.name / "result.json").write_text('{"test_error_percent": 9}')
    for _ in range(2):
        found = grid.run_all(runs, tmp_path, report=quiet, command=SCRIPT)
    # The one that was refused is not taken for finished the second time.
    assert statuses(found) == [SKIPPED, FAILED]


def test_commands_are_lines_for_a_shell(tmp_path):
    flags = ["--config=a.py:x,y", "--config.model.decoder_units=()"]
    (line,) = grid.commands([Run("a b", flags)], tmp_path)
    assert shlex.split(line) == [
        *("python", "-m", "experiments.train", *flags),
        f"--workdir={tmp_path / 'a b'}",
        "--resume",
    ]


def nvidia_smi(tmp_path, monkeypatch) -> None:
    """Says as NVIDIA's that there are two GPUs, the first one divided."""
    script = tmp_path / "bin" / "nvidia-smi"
    script.parent.mkdir()
    script.write_text(
        "#!/bin/sh\n"
        'echo "GPU 0: NVIDIA H200 (UUID: GPU-1)"\n'
        'echo "  MIG 1g.18gb Device 0: (UUID: MIG-1)"\n'
        'echo "GPU 1: NVIDIA H200 (UUID: GPU-2)"\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")


def test_gpus_are_found_without_jax(tmp_path, monkeypatch):
    nvidia_smi(tmp_path, monkeypatch)
    assert local.visible_gpus() == []  # JAX_PLATFORMS=cpu.
    for platforms in ("", "cuda,cpu"):
        monkeypatch.setenv("JAX_PLATFORMS", platforms)
        assert local.visible_gpus() == ["0", "1"]
    for value, expected in {"1": ["1"], "": [], "-1": [], "3, 5": ["3", "5"]}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert local.visible_gpus() == expected
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", "")
    assert local.visible_gpus() == []


def test_each_run_has_a_gpu_to_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    lines: list[str] = []
    runs = runs_of(a="fast", b="fast", c="fast")
    grid.run_all(runs, tmp_path, report=lines.append, command=SCRIPT)
    seen = [starts(tmp_path / run.name)[0] for run in runs]
    assert [one["gpus"] for one in seen[:2]] == ["3", "5"]
    assert seen[2]["gpus"] in ("3", "5")
    assert {one["preallocate"] for one in seen} == {None}
    assert lines[0].startswith("a: started on GPU 3, log")
    assert lines[1].startswith("b: started on GPU 5, log")
    assert not lines[2].startswith("c: started")  # Two at a time.

    runs = runs_of(d="fast", e="fast", f="fast")
    grid.run_all(runs, tmp_path, jobs=3, report=quiet, command=SCRIPT)
    seen = [starts(tmp_path / run.name)[0] for run in runs]
    assert [one["gpus"] for one in seen] == ["3", "5", "3"]
    assert {one["preallocate"] for one in seen} == {"false"}


def test_on_a_cpu_runs_come_one_after_another(tmp_path):
    lines: list[str] = []
    runs = runs_of(a="fast", b="fast")
    grid.run_all(runs, tmp_path, report=lines.append, command=SCRIPT)
    assert [line.split()[0] for line in lines] == ["a:", "a:", "b:", "b:"]
    (seen,) = starts(tmp_path / "a")
    assert seen["gpus"] is None
    assert seen["session"] == seen["pid"]


def test_an_error_leaves_no_run_behind(tmp_path):
    folder = tmp_path / "a"

    def report(line: str) -> None:
        wait_for_start(folder)
        raise RuntimeError("the pipe is closed")

    runs = runs_of(a="slow", b="slow")
    with pytest.raises(RuntimeError, match="pipe"):
        grid.run_all(runs, tmp_path, report=report, command=SCRIPT)
    assert not alive(starts(folder)[0]["pid"])
    assert not (tmp_path / "b").exists()


def test_a_run_that_cannot_be_started_ends_the_grid(tmp_path):
    runs = runs_of(a="slow", b="fast")
    (tmp_path / "b.log").mkdir()
    with pytest.raises(UserError, match=r"cannot write to .*b\.log: Is a directory"):
        grid.run_all(
            runs,
            tmp_path,
            jobs=2,
            report=lambda _: wait_for_start(tmp_path / "a"),
            command=SCRIPT,
        )
    assert not alive(starts(tmp_path / "a")[0]["pid"])


def test_a_second_process_is_kept_out(tmp_path):
    runs, refused = runs_of(a="fast"), []

    def report(line: str) -> None:
        with pytest.raises(
            UserError, match=r"another process \(pid \d+ on .*runs trainings"
        ):
            grid.run_all(runs, tmp_path, command=SCRIPT)
        refused.append(line)

    grid.run_all(runs, tmp_path, report=report, command=SCRIPT)
    assert len(refused) == 2


def test_bad_folders_are_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        grid.run_all(runs_of(a="fast"), tmp_path / "file" / "grid", command=SCRIPT)
    (tmp_path / "grid.json").write_text('{"a": [')
    with pytest.raises(UserError, match=r"cannot read .*grid\.json.*--workdir"):
        grid.run_all(runs_of(a="fast"), tmp_path, command=SCRIPT)
    with pytest.raises(ValueError, match="same name"):
        grid.run_all([*runs_of(a="fast"), *runs_of(a="fast")], tmp_path)


def test_sigterm_stops_the_runs_and_the_same_command_goes_on(tmp_path):
    """In a process that would fail if it looked for JAX's devices."""
    flags = ("--slow=a,b", "--fast=c", f"--workdir={tmp_path}")
    process = start(
        "-m", "tests.runs.grid_child", *flags, env={"JAX_PLATFORMS": "cuda"}
    )
    noted = [tmp_path / name / "starts" for name in "ab"]
    wait_until(
        lambda: all(path.exists() and path.read_text() for path in noted), process
    )
    process.send_signal(signal.SIGTERM)
    done = finish(process)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    *_, line = done.stdout.strip().splitlines()
    words = r"stopped by SIGTERM after 0 of 3 runs .*saved; go on with: python\S* (.*)"
    match = re.fullmatch(words, line)
    assert match, done.stdout
    assert shlex.split(match[1]) == ["-m", "tests.runs.grid_child", *flags]
    for run in "ab":
        (seen,) = starts(tmp_path / run)
        assert not alive(seen["pid"])
        # Asked, not killed.
        assert (tmp_path / f"{run}.log").read_text().endswith("\nstopped\n")
    assert not (tmp_path / "c").exists()

    runs = runs_of(a="slow", b="slow", c="fast")
    outcomes = grid.run_all(runs, tmp_path, jobs=3, report=quiet, command=SCRIPT)
    assert statuses(outcomes) == [FINISHED] * 3
