"""Two processes that a cluster's program starts train as one with two devices does."""

import sys

import pytest

from capsjax.runs.folder import RunFolder
from tests.clusters import one_node
from tests.launching import (
    SGD,
    TINY,
    TRAIN,
    assert_same_run,
    finish,
    start_command,
    train_to_end,
)

# As root, on one core, where other processes run: what a test may be, a cluster is not.
MPIRUN = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
}


@pytest.fixture(scope="module")
def on_two_devices(tmp_path_factory) -> RunFolder:
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "two")
    train_to_end(folder, *SGD, "--cpu_devices=2")
    return folder


def assert_trains(
    starter: list[str], folder: RunFolder, expected: RunFolder, **environment: str
) -> None:
    """A program starts two processes, which find each other and train."""
    words = [*TRAIN, *TINY, *SGD, f"--workdir={folder.path}", "--distributed"]
    done = finish(start_command([*starter, sys.executable, *words], environment))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 x cpu in 2 processes" in done.stdout
    assert_same_run(folder, expected)


@pytest.mark.usefixtures("slurm")
def test_srun(tmp_path, on_two_devices):
    """Without an interface of MPI, which training does not need."""
    assert_trains(["srun", "--ntasks=2"], RunFolder(tmp_path / "run"), on_two_devices)


def test_mpirun(tmp_path, on_two_devices):
    if missing := one_node.missing_packages(one_node.OPEN_MPI):
        pytest.skip(f"no Open MPI; apt-get install {missing[0]} to run this")
    starter = ["mpirun", "-n", "2"]
    assert_trains(starter, RunFolder(tmp_path / "mpi"), on_two_devices, **MPIRUN)
