"""Trains, and is killed at a given moment of a save.

python -m tests.training.fault_child EVENT NAME FLAGS...

EVENT is an audit event of Python (``os.mkdir``, ``os.rename``, ``shutil.rmtree``), NAME
a part of the path that it is about: the process gets SIGKILL before that happens.
"""

import os
import signal
import sys

from experiments import launch, train


def kill_before(event: str, name: str) -> None:
    """Has the process killed before something happens to a path."""

    def audit(happening: str, arguments: tuple) -> None:
        if happening == event and name in str(arguments[0]):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)


if __name__ == "__main__":
    kill_before(sys.argv[1], sys.argv[2])
    del sys.argv[1:3]
    launch.run(train.main)
