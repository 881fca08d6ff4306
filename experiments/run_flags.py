"""The flags of launchers that take a trained network: a run, or a file of one."""

import atexit
import functools
import pathlib
import shutil
import tempfile
from typing import Literal

from absl import flags

from capsjax.errors import UserError
from capsjax.inference import pretrained
from capsjax.runs.folder import RunFolder
from experiments import launch


class RunFlags:
    """``--workdir`` or ``--pretrained`` of a trained network, and ``--checkpoint``."""

    def __init__(self) -> None:
        self._workdir = flags.DEFINE_string(
            "workdir", None, "Folder of the run, as given to experiments.train."
        )
        self._pretrained = flags.DEFINE_string(
            "pretrained",
            None,
            "In place of a run: a trained network that comes with capsjax "
            f"({', '.join(pretrained.names()) or 'none yet'}), or the path of a file "
            "that experiments.publish wrote.",
        )
        self._checkpoint = flags.DEFINE_enum(
            "checkpoint",
            "last",
            ["last", "best"],
            "Which parameters: those of the last step, as in result.json, or the best "
            "by validation accuracy.",
        )
        launch.group("Run", "workdir", "pretrained", "checkpoint")

    @property
    def checkpoint(self) -> Literal["last", "best"]:
        """Value of ``--checkpoint``."""
        return "best" if self._checkpoint.value == "best" else "last"

    @functools.cached_property
    def folder(self) -> RunFolder:
        """The run's folder; of a pretrained network, one that ends with this process.

        Raises:
            UserError: neither flag or both are given, or there is no such network.
        """
        workdir, name = self._workdir.value, self._pretrained.value
        if workdir is not None and name is not None:
            raise UserError(
                "give --workdir=DIR of a run or --pretrained=NAME, not both"
            )
        if workdir is not None:
            return RunFolder(workdir)
        if name is None:
            raise UserError(
                "give --workdir=DIR of a run, or --pretrained=NAME; --help explains "
                "the flags"
            )
        temporary = tempfile.mkdtemp(prefix="capsjax-")
        atexit.register(shutil.rmtree, temporary, ignore_errors=True)
        folder = RunFolder(pathlib.Path(temporary, pathlib.Path(name).stem))
        pretrained.unpack(name, folder)
        return folder

    def output(self, subfolder: str) -> pathlib.Path:
        """A folder for results: in the run's, or for a pretrained network here."""
        base = self.folder.path if self._workdir.value else pathlib.Path()
        return base / subfolder
