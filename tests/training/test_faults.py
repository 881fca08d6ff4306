"""What goes wrong in long runs: nothing is lost, and one line says what to do.

Several processes that train together are in test_processes.py.
"""

import dataclasses
import re
import shlex
import shutil
import signal
import subprocess
import sys
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from capsjax import data
from capsjax.data import Dataset, ImageSet, TrainBatches
from capsjax.errors import UserError
from capsjax.runs.folder import RunFolder
from capsjax.runs.metrics import read_metrics
from capsjax.runs.stop import StopRequests
from capsjax.training import augment
from capsjax.training.checkpoint import Checkpoints
from capsjax.training.step import TrainState, create
from capsjax.training.train import train
from experiments.configs import digits
from tests.launching import (
    TINY,
    TRAIN,
    assert_one_line,
    comparable,
    finish,
    losses,
    rows_written,
    run,
    start,
    start_command,
    train_to_end,
    wait_until,
)
from tests.sigkill_torture import torture


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> RunFolder:
    """A run that nothing happened to; its last checkpoints are of steps 8 and 12."""
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "whole")
    train_to_end(folder)
    return folder


@pytest.fixture(scope="module")
def whole_here(tmp_path_factory, whole, digits_data) -> RunFolder:
    """The same in this process, whose devices make other sums."""
    config = whole.load_config()
    config.num_devices = 1
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "whole")
    train(config, digits_data, folder)
    return folder


@pytest.fixture
def copied(tmp_path, whole) -> RunFolder:
    """A copy of it, to damage."""
    shutil.copytree(whole.path, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def template(folder: RunFolder) -> TrainState:
    """A state as a run on the digits saves it."""
    return create(folder.load_config(), (8, 8, 1), 10)[1]


def saved(folder: RunFolder) -> list[str]:
    return sorted(path.name for path in (folder.checkpoints / "last").iterdir())


# Killed.


def test_killed_again_and_again_at_each_moment_of_a_save(tmp_path, whole):
    """Before a checkpoint has a folder, before it gets its name, as old ones go.

    With each resume the run gets one checkpoint further.
    """
    folder = RunFolder(tmp_path / "run")
    flags = (*TINY, f"--workdir={folder.path}", "--resume")
    moments = [
        ("os.mkdir", "last/4.orbax-checkpoint-tmp", []),
        ("os.rename", "last/4.orbax-checkpoint-tmp", []),
        ("os.rename", "last/8.orbax-checkpoint-tmp", ["4"]),
        ("shutil.rmtree", "last/4", ["12", "4", "8"]),  # Three: one more than kept.
    ]
    for event, name, kept in moments:
        done = finish(start("-m", "tests.training.fault_child", event, name, *flags))
        assert done.returncode == -signal.SIGKILL, (event, done.stdout, done.stderr)
        found = [step for step in saved(folder) if step.isdigit()]
        assert found == kept, (event, name)
    train_to_end(folder, "--resume")
    assert comparable(folder) == comparable(whole)
    assert losses(folder) == losses(whole)


def test_killed_at_random_times(tmp_path):
    """A short form of ``python -m tests.sigkill_torture``."""
    said = torture(tmp_path, kills=2, steps=60)
    assert "bit-identical" in said


# Asked to stop.


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)]
)
def test_a_signal_saves_and_says_how_to_go_on(number, status, tmp_path, whole):
    """The printed command, as it stands, ends the run as if nothing had been."""
    folder = RunFolder(tmp_path / "run")
    long = ("--config.max_steps=100000", "--config.num_epochs=10000")
    process = start(*TRAIN, *TINY, *long, f"--workdir={folder.path}")
    wait_until(lambda: rows_written(folder) > 0, process)
    process.send_signal(number)
    done = finish(process)
    assert done.returncode == status, done.stderr
    name = signal.Signals(number).name
    assert done.stderr.startswith(f"{name}: will stop once the state is saved")
    assert len(done.stderr.splitlines()) == 1
    line = done.stdout.strip().splitlines()[-1]
    match = re.fullmatch(
        rf"stopped by {name} after step (\d+), which is saved; go on with: (.*)", line
    )
    assert match, line
    stopped_at = int(match[1])
    assert (folder.checkpoints / "last" / str(stopped_at)).is_dir()

    if number == signal.SIGINT:
        return  # From there on it is as after SIGTERM.
    _, *words = shlex.split(match[2])
    more = f"--config.max_steps={stopped_at + 2}"
    done = finish(start(*words, more))
    assert done.returncode == 0, done.stderr
    assert f"resumed at step {stopped_at}" in done.stdout
    expected = RunFolder(tmp_path / "expected")
    train_to_end(expected, more, "--config.num_epochs=10000")
    sha256 = comparable(expected)["params_sha256"]
    assert comparable(folder)["params_sha256"] == sha256


def test_a_second_ctrl_c_interrupts_at_once():
    with StopRequests() as stop:
        assert stop.received(1) is None
        signal.raise_signal(signal.SIGINT)
        assert stop.received(2) == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):  # As before, once training is over.
        signal.raise_signal(signal.SIGINT)


def test_a_signal_is_acknowledged_while_the_main_thread_is_busy():
    """As in a compilation, where Python calls no signal handler for many seconds."""
    busy = (
        "import hashlib; from capsjax.runs.stop import StopRequests\n"
        "with StopRequests():\n"
        "    print('ready', flush=True)\n"
        "    hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)"
    )
    process = start("-c", busy)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert "SIGINT: will stop" in process.stderr.readline()
    process.kill()
    finish(process)


def test_a_second_ctrl_c_says_how_to_go_on(tmp_path):
    folder = RunFolder(tmp_path / "run")
    program = tmp_path / "interrupted.py"
    program.write_text(
        "from capsjax.training import train\n"
        "def interrupted(*arguments, **options): raise KeyboardInterrupt\n"
        "train.train = interrupted\n"
        "import runpy; runpy.run_module('experiments.train', run_name='__main__')"
    )
    folder.path.mkdir()
    done = finish(start(str(program), *TINY, f"--workdir={folder.path}"))
    assert done.returncode == 130
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("interrupted; go on from the last checkpoint with: ")
    assert line.endswith(f"--workdir={folder.path} --resume")


# Damaged checkpoints.


def cut_short(step_folder) -> None:
    """All large files lose their second half."""
    for path in step_folder.rglob("*"):
        if path.is_file() and path.stat().st_size > 50_000:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(step_folder) -> None:
    """In the midst of the largest file."""
    path = max(
        (p for p in step_folder.rglob("*") if p.is_file()),
        key=lambda p: p.stat().st_size,
    )
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def lose_the_record(step_folder) -> None:
    shutil.rmtree(step_folder / "record")


def lose_everything(step_folder) -> None:
    """As where a deletion was cut short."""
    for path in step_folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


# Orbax's unfinished reads, which launchers silence.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "damage", [cut_short, flip_a_bit, lose_the_record, lose_everything]
)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    damage, whole_here, digits_data, tmp_path, capsys
):
    copied = RunFolder(tmp_path / "run")
    shutil.copytree(whole_here.path, copied.path)
    damage(copied.checkpoints / "last" / "12")
    train(copied.load_config(), digits_data, copied, resume=True)
    said = capsys.readouterr()
    assert "resumed at step 8" in said.out
    (line,) = [line for line in said.err.splitlines() if "warning" in line]
    assert re.search(r"warning: .*last/12 is damaged .* step 8 is used instead", line)
    assert comparable(copied) == comparable(whole_here)
    assert losses(copied) == losses(whole_here)
    with Checkpoints(copied) as checkpoints:  # The damaged one was replaced.
        checkpoints.restore(template(copied))
        assert checkpoints.latest_step() == 12


def test_a_run_goes_on_with_another_number_of_devices(copied, whole):
    """And says so; the parameters are those of one device up to rounding."""
    shutil.rmtree(copied.checkpoints / "last" / "12")
    said = train_to_end(copied, "--resume", "--cpu_devices=4")
    assert "resumed at step 8, on 4 devices instead of 1: the result" in said
    found, expected = comparable(copied), comparable(whole)
    assert found["params_sha256"] != expected["params_sha256"]
    assert found["params_l2"] == pytest.approx(expected["params_l2"], rel=1e-6)
    for a, b in zip(losses(copied), losses(whole), strict=True):
        assert a == (b[0], b[1], pytest.approx(b[2], rel=1e-4))


def test_where_all_checkpoints_are_damaged_nothing_is_touched(copied):
    for step in ("8", "12"):
        cut_short(copied.checkpoints / "last" / step)
    flags = (*TINY, f"--workdir={copied.path}", "--resume")
    done = run("train", *flags)
    assert_one_line(done, "last/12", "damaged", "remove")
    assert saved(copied) == ["12", "8"]


# Disks.


class _Usage(NamedTuple):
    """What is read of `shutil.disk_usage`."""

    free: int


def on_a_disk_of_its_own(script: str, tmp_path) -> subprocess.CompletedProcess:
    """Runs a script of the shell in which ``$disk`` can be mounted.

    It may use ``train WORDS...``, which trains in ``$disk/run``.
    """
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare, to mount a disk of its own")
    allowed = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*allowed, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a disk in a namespace of its own")
    disk = tmp_path / "disk"
    disk.mkdir()
    head = f"disk={shlex.quote(str(disk))}; python={shlex.quote(sys.executable)}\n"
    head += 'train() { "$python" -m experiments.train "$@" --workdir=$disk/run; }\n'
    command = [*allowed, "sh", "-c", head + script, "sh", *TINY]
    return finish(start_command(command))


def test_a_full_disk_stops_the_run_and_leaves_what_was_saved(tmp_path, whole):
    """Filled up after step 4; once there is room again, the run goes on."""
    results = tmp_path / "results"
    results.mkdir()
    script = f"""
        mount -t tmpfs -o size=4m tmpfs $disk
        train "$@" --config.max_steps=4 || exit 10
        free=$(df --output=avail -k $disk | tail -1)
        dd if=/dev/zero of=$disk/filler bs=1k count=$((free - 300)) status=none
        echo "the disk is full" >&2
        train "$@" --resume
        [ $? = 1 ] || exit 11
        ls $disk/run/checkpoints/last
        rm $disk/filler
        train "$@" --resume || exit 12
        cp $disk/run/result.json {results}
    """
    done = on_a_disk_of_its_own(script, tmp_path)
    assert done.returncode == 0, (done.stdout, done.stderr)
    before, after = done.stderr.split("the disk is full\n")
    assert before == ""
    (line,) = after.strip().splitlines()
    assert re.match(r"error: cannot save the checkpoint of step 8 .*MB left", line)
    assert "the one of step 4 is unchanged" in line
    assert "\n4\n" in done.stdout
    assert done.stdout.count("resumed at step 4") == 2
    assert comparable(RunFolder(results)) == comparable(whole)


def test_a_read_only_disk_is_one_clear_line(tmp_path):
    script = 'mount -t tmpfs -o ro tmpfs $disk; train "$@"'
    done = on_a_disk_of_its_own(script, tmp_path)
    assert_one_line(done, "cannot write", "Read-only file system")


def test_a_checkpoint_that_cannot_be_written_is_one_error(copied, monkeypatch):
    """For whatever reason; and the state before is where it was."""
    state = template(copied)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: _Usage(free=200_000))
    with Checkpoints(copied) as checkpoints:
        _, record = checkpoints.restore(state)
        later = dataclasses.replace(state, step=jnp.int32(14))
        words = r"step 14 .* takes 0\.6 MB .* has 0\.2 MB left.* step 12 is unchanged"
        with pytest.raises(UserError, match=words):
            checkpoints.save("last", later, record)
    with Checkpoints(copied) as checkpoints:
        restored, _ = checkpoints.restore(state)
        assert restored.step == 12


# Two runs in one folder.


def test_a_second_process_is_kept_out_of_the_folder(copied, whole):
    config = copied.load_config()
    dataset = data.load("digits", validation_examples=180)
    with (
        copied.open(config, resume=True),
        pytest.raises(UserError, match=r"another process \(pid \d+ on .*--workdir"),
    ):
        train(config, dataset, RunFolder(copied.path), resume=True)
    assert comparable(copied) == comparable(whole)


def test_evaluation_beside_training_touches_no_unfinished_checkpoint(copied):
    unfinished = copied.checkpoints / "last" / "16.orbax-checkpoint-tmp"
    unfinished.mkdir()
    with Checkpoints(copied, read_only=True) as checkpoints:
        restored, _ = checkpoints.restore(template(copied))
    assert restored.step == 12
    assert unfinished.is_dir()


# Data.


@pytest.fixture
def run_on(tmp_path, tiny_config):
    """Trains on given images; returns the folder."""

    def run(dataset: Dataset, name: str = "run", **changes) -> RunFolder:
        options = {"max_steps": 12, "checkpoint_every_steps": 2, **changes}
        config = tiny_config.replace(**options)
        folder = RunFolder(tmp_path / name)
        train(config, dataset, folder)
        return folder

    return run


@pytest.fixture
def poisoned(monkeypatch, digits_data) -> Dataset:
    """Digits with one image that decodes to NaN."""
    train, validation, test = (
        ImageSet(np.minimum(part.images, 254), part.labels)
        for part in (digits_data.train, digits_data.validation, digits_data.test)
    )
    train.images[700, 4, 4] = 255
    unit_range = augment.to_unit_range

    def decode(images):
        return jnp.where(images == 255, jnp.nan, unit_range(images))

    monkeypatch.setattr(augment, "to_unit_range", decode)
    return dataclasses.replace(
        digits_data, train=train, validation=validation, test=test
    )


def first_step_with_nan(dataset: Dataset, batch_size: int, seed: int) -> int:
    """Counted from 1, found without any training."""
    batches = TrainBatches(dataset.train, batch_size, seed)
    return next(
        step + 1
        for step in range(batches.steps_per_epoch)
        if np.any(batches.batch(step)["image"] == 255)
    )


@pytest.mark.parametrize("debug", [False, True])
def test_nan_in_the_data_stops_at_its_step(
    debug, poisoned, run_on, tiny_config, tmp_path
):
    """And names the last checkpoint before; with debug_nans, also the line of code."""
    seed = 0
    while not 5 <= (step := first_step_with_nan(poisoned, 16, seed)) <= 12:
        seed += 1
    good = (step - 1) // 2 * 2
    words = rf"of step {step} is nan; .* step {good} in .* is good"
    if debug:
        place = r"tests/training/test_faults\.py, line \d+, decode: return jnp\.where"
        words = rf"step {step} makes a NaN; .* from {place}.* step {good} in .* is good"
    with pytest.raises(UserError, match=words):
        run_on(poisoned, seed=seed, debug_nans=debug)
    folder = RunFolder(tmp_path / "run")
    assert all(np.isfinite(row["loss"]) for row in read_metrics(folder.metrics))
    with Checkpoints(folder, read_only=True) as checkpoints:
        restored, _ = checkpoints.restore(template(folder))
    assert restored.step == good


def test_debug_nans_changes_nothing_where_there_is_none(run_on, digits_data):
    plain, debugged = (
        comparable(run_on(digits_data, f"run{debug}", debug_nans=debug))
        for debug in (False, True)
    )
    assert plain == debugged


def test_bad_npz_files_are_one_clear_line(tmp_path):
    """Floats, so that NaN cannot come in by files; and a truncated file."""
    floats, truncated = tmp_path / "floats.npz", tmp_path / "truncated.npz"
    labels = np.arange(400) % 10
    images = np.random.default_rng(0).integers(0, 256, (400, 8, 8), np.uint8)
    np.savez(floats, images=np.full((400, 8, 8), np.nan, np.float32), labels=labels)
    np.savez(truncated, images=images, labels=labels)
    truncated.write_bytes(truncated.read_bytes()[:9000])
    for path, words in ((floats, ("float32", "uint8")), (truncated, (str(truncated),))):
        flags = ("--config.data.name=npz", f"--config.data.path={path}")
        done = run("train", *TINY, *flags, f"--workdir={tmp_path / 'run'}")
        assert_one_line(done, *words)


def test_a_truncated_tfds_file_is_one_clear_line(tmp_path, tfds_data_dir):
    shutil.copytree(f"{tfds_data_dir}/mnist", tmp_path / "tfds" / "mnist")
    (records,) = (tmp_path / "tfds").rglob("*train*array_record*")
    records.write_bytes(records.read_bytes()[:500_000])
    flags = ("--config=experiments/configs/mnist.py:paper,quick",)
    where = (f"--data_dir={tmp_path / 'tfds'}", f"--workdir={tmp_path / 'run'}")
    done = run("train", *flags, *where)
    assert_one_line(done, "mnist", "prepare_data")


def test_the_lock_is_no_run(tmp_path, tiny_config):
    """What a process leaves that was killed before it wrote its config."""
    (tmp_path / ".lock").write_text("pid 1\n")
    (tmp_path / "config.json.tmp").write_text('{"se')
    folder = RunFolder(tmp_path)
    for resume in (False, True):
        with folder.open(digits.get_config("quick"), resume=resume):
            assert folder.load_config().batch_size == 64
        folder.config.unlink()
