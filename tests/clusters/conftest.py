"""A real Slurm for the tests that need one, one at a time on this machine."""

import os
import pathlib
import tempfile
from collections.abc import Iterator

import pytest
from filelock import FileLock

from tests.clusters import one_node


@pytest.fixture
def slurm(tmp_path_factory, monkeypatch) -> Iterator[None]:
    """Slurm's commands find a cluster of one idle node; or the test is skipped."""
    if missing := one_node.missing_packages(one_node.SLURM):
        pytest.skip(f"no Slurm; apt-get install {' '.join(missing)} to run this")
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    # A short path: sockets have at most 108 characters.
    with (
        FileLock(shared / "slurm.lock"),
        tempfile.TemporaryDirectory(prefix="slurm") as folder,
        one_node.running(pathlib.Path(folder)) as environment,
    ):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield
