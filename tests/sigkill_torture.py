"""Kills a run with SIGKILL at random times, and compares it with an undisturbed one.

python -m tests.sigkill_torture --kills=25

Trains on the digits once without interruption, then once more with a kill at a random
moment and ``--resume`` after each. Both must end with the same parameters, bit by bit,
and the same metrics. The kills fall anywhere between the start of the process and its
last step; checkpoints come so often that some of them fall inside a save.
"""

import argparse
import pathlib
import random
import tempfile
import time

from capsjax.runs.folder import RunFolder
from tests.launching import TRAIN, comparable, finish, losses, rows_written, start

_FLAGS = (
    "--config=experiments/configs/digits.py:quick",
    "--config.batch_size=32",
    "--config.log_every_steps=5",
    "--config.checkpoint_every_steps=5",
)


def torture(folder: pathlib.Path, *, kills: int, steps: int, seed: int = 0) -> str:
    """Compares a run that was killed again and again with one that was not.

    Args:
        folder: empty folder for both runs.
        kills: number of kills.
        steps: number of training steps.
        seed: seed of the moments of the kills.

    Returns:
        A line with the result.

    Raises:
        AssertionError: the runs differ, or the killed one ended too early.
    """
    flags = (*_FLAGS, f"--config.max_steps={steps}", f"--config.num_epochs={steps}")
    # Otherwise each start would compile again, and most kills would fall there.
    env = {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    whole, killed = RunFolder(folder / "whole"), RunFolder(folder / "killed")

    _train(whole, flags, env)
    num_rows = len(losses(whole))

    rng = random.Random(seed)
    inside_a_save = 0
    for number in range(kills):
        # Each kill has its part of the run to fall in, however fast the machine is; a
        # quarter of them come while the process starts.
        last_row = int(num_rows * (number + rng.random()) / (kills + 1))
        seconds = 6 * rng.random() if rng.random() < 0.25 else float("inf")
        before = set(killed.checkpoints.glob("*/*tmp*"))
        started = time.monotonic()
        process = start(*TRAIN, *flags, f"--workdir={killed.path}", "--resume", env=env)
        while (
            process.poll() is None
            and rows_written(killed) <= last_row
            and time.monotonic() < started + seconds
        ):
            time.sleep(0.01)
        time.sleep(0.1 * rng.random())
        process.kill()
        out, err = process.communicate()
        assert process.returncode == -9, f"ended before kill {number + 1}: {out} {err}"
        cut = [p.name for p in killed.checkpoints.glob("*/*tmp*") if p not in before]
        inside_a_save += bool(cut)
        saved = [
            int(path.name)
            for path in killed.checkpoints.glob("last/*")
            if path.name.isdigit()
        ]
        print(
            f"kill {number + 1} after {time.monotonic() - started:.1f} s: "
            f"{rows_written(killed)} rows, newest checkpoint {max(saved, default=None)}"
            + (f", inside the save of {', '.join(cut)}" if cut else ""),
            flush=True,
        )
    _train(killed, (*flags, "--resume"), env)

    assert comparable(killed) == comparable(whole), (
        f"{comparable(killed)} is not {comparable(whole)}"
    )
    assert losses(killed) == losses(whole)
    sha256 = comparable(killed)["params_sha256"]
    return (
        f"{kills} kills, {inside_a_save} of them inside a save: the parameters after "
        f"{steps} steps are bit-identical (sha256 {sha256[:16]}), and so are all "
        "losses and the result"
    )


def _train(folder: RunFolder, flags: tuple[str, ...], env: dict[str, str]) -> None:
    process = start(*TRAIN, *flags, f"--workdir={folder.path}", env=env)
    done = finish(process)
    assert done.returncode == 0, done.stderr


def main() -> None:
    """Reads the flags and prints the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(torture(pathlib.Path(folder), **vars(flags)))


if __name__ == "__main__":
    main()
