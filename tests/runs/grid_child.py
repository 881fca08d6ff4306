"""A stand-in for experiments.train, and a launcher of a grid of them.

python -m tests.runs.grid_child --workdir=DIR --slow=NAME,NAME --fast=NAME

Runs the grid. As a script with the flags of a run, ``--what`` says what that run does:
``slow`` waits for SIGTERM the first time that it is started, ``fail`` and ``die`` fail.
"""

import json
import os
import pathlib
import signal
import sys
import time
from types import FrameType

from capsjax.runs.progress import Progress

SCRIPT = (sys.executable, "-u", __file__)
SECONDS_OF_SLOW = 900


def starts(folder: pathlib.Path) -> list[dict]:
    """What was noted each time that a run was started."""
    noted = folder / "starts"
    return [json.loads(line) for line in noted.read_text().splitlines()]


def stand_in(words: list[str]) -> None:
    """What a run does instead of training."""
    signal.signal(signal.SIGTERM, _stop)
    flags = dict(word.removeprefix("--").split("=", 1) for word in words if "=" in word)
    folder = pathlib.Path(flags["workdir"])
    folder.mkdir(exist_ok=True)
    noted = {
        "pid": os.getpid(),
        "session": os.getsid(0),
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "preallocate": os.environ.get("XLA_PYTHON_CLIENT_PREALLOCATE"),
    }
    earlier = len(starts(folder)) if (folder / "starts").exists() else 0
    # Before it is noted: who waits for the note may send a signal at once.
    Progress("training", 10, unit="images", done=earlier + 1).line()
    with (folder / "starts").open("a") as file:
        file.write(json.dumps(noted) + "\n")
    if flags["what"] == "fail" and len(starts(folder)) == 1:
        sys.exit("error: there is no data")
    if flags["what"] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if flags["what"] == "slow" and len(starts(folder)) == 1:
        time.sleep(SECONDS_OF_SLOW)
    time.sleep(0.3)
    (folder / "result.json").write_text('{"test_error_percent": 1.5}')


def _stop(number: int, frame: FrameType | None) -> None:
    print("stopped")
    sys.exit(0)


if __name__ == "__main__" and __spec__ is None:
    stand_in(sys.argv[1:])
elif __name__ == "__main__":
    from absl import flags

    from capsjax.runs import grid
    from experiments import launch

    workdir = flags.DEFINE_string("workdir", "", "The grid's folder.")
    by_kind = {
        what: flags.DEFINE_list(what, [], "Names of runs.") for what in ("slow", "fast")
    }

    def main() -> None:
        """Runs the grid, two at a time."""
        runs = [
            grid.Run(name, [f"--what={what}"])
            for what, names in by_kind.items()
            for name in names.value
        ]
        outcomes = grid.run_all(runs, workdir.value, jobs=2, command=SCRIPT)
        grid.refuse_failures(outcomes, workdir.value)

    launch.run(main)
