"""The flags of launchers that take trained networks: runs, or a file of one."""

import atexit
import functools
import pathlib
import shutil
import tempfile
from typing import Literal

import numpy as np
from absl import flags

from capsjax.data import Dataset
from capsjax.errors import UserError
from capsjax.inference import pretrained
from capsjax.reports import runs
from capsjax.runs import data_record
from capsjax.runs.folder import RunFolder
from capsjax.training.trained import TrainedModel, restore
from experiments import launch


def _define_checkpoint() -> flags.FlagHolder[str]:
    return flags.DEFINE_enum(
        "checkpoint",
        "last",
        ["last", "best"],
        "Which parameters: those of the last step, as in result.json, or the best "
        "by validation accuracy.",
    )


def _checkpoint_of(flag: flags.FlagHolder[str]) -> Literal["last", "best"]:
    return "best" if flag.value == "best" else "last"


def define_data_path() -> flags.FlagHolder[str | None]:
    """Defines ``--data_path``, where a run's own images are now."""
    launch.group("Data", "data_path")
    return flags.DEFINE_string(
        "data_path",
        None,
        "Where the run's own images are now, if they have been moved; others are "
        "refused.",
    )


class RunFlags:
    """``--workdir`` or ``--pretrained`` of a trained network, and ``--checkpoint``.

    And ``--data_path``, unless the launcher defines it for other images than the run's.
    """

    def __init__(self, *, other_images: bool = False) -> None:
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
        self._checkpoint = _define_checkpoint()
        launch.group("Run", "workdir", "pretrained", "checkpoint")
        self._data_path = None if other_images else define_data_path()

    @property
    def checkpoint(self) -> Literal["last", "best"]:
        """Value of ``--checkpoint``."""
        return _checkpoint_of(self._checkpoint)

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

    def load_data(self, data_dir: str | None) -> Dataset:
        """Loads the run's data.

        Args:
            data_dir: value of ``--data_dir``.

        Raises:
            UserError: they are missing, or not the run's; see `launch.load_run_data`.
        """
        moved_to = self._data_path.value if self._data_path is not None else None
        return launch.load_run_data(self.folder, data_dir, moved_to=moved_to)

    def output(self, subfolder: str) -> pathlib.Path:
        """A folder for results: in the run's, or for a pretrained network here."""
        base = self.folder.path if self._workdir.value else pathlib.Path()
        return base / subfolder


class RunsFlags:
    """``--workdirs`` of runs to compare, ``--checkpoint`` and ``--data_path``."""

    def __init__(self) -> None:
        self._workdirs = flags.DEFINE_list(
            "workdirs",
            None,
            "Folders of the runs to compare, with commas between, as given to "
            "experiments.train; the others are compared with the first.",
            required=True,
        )
        self._checkpoint = _define_checkpoint()
        self._data_path = define_data_path()
        launch.group("Runs", "workdirs", "checkpoint")

    @property
    def checkpoint(self) -> Literal["last", "best"]:
        """Value of ``--checkpoint``."""
        return _checkpoint_of(self._checkpoint)

    @functools.cached_property
    def folders(self) -> dict[str, RunFolder]:
        """The runs' folders by their names, which are made unique.

        Raises:
            UserError: there is none, or one is given twice.
        """
        found: dict[str, RunFolder] = {}
        for word in self._workdirs.value:
            folder = RunFolder(word)
            if folder.path in {other.path for other in found.values()}:
                raise UserError(f"{word} is twice in --workdirs; give each run once")
            found[runs.unique(folder.path.name, found)] = folder
        if not found:
            raise UserError("--workdirs is empty; give folders of runs with commas")
        return found

    def restored(self, data_dir: str | None) -> tuple[Dataset, dict[str, TrainedModel]]:
        """The first run's data, and the networks by the names of their folders.

        Args:
            data_dir: value of ``--data_dir``.

        Raises:
            UserError: a run cannot be restored; or one was trained on other classes,
                images of another shape, or is tested on other images than the first.
        """
        names, folders = [*self.folders], [*self.folders.values()]
        moved_to = self._data_path.value
        data = launch.load_run_data(folders[0], data_dir, moved_to=moved_to)
        for folder in folders[1:]:
            data_record.check_fits(folder, data)
            if not data_record.is_same(folder, folders[0]):
                other = launch.load_run_data(folder, data_dir, moved_to=moved_to)
                _check_same_test_images(folders[0], data, folder, other)
        models = [restore(folder, data, self.checkpoint) for folder in folders]
        return data, dict(zip(names, models, strict=True))


def _check_same_test_images(
    folder: RunFolder, data: Dataset, other_folder: RunFolder, other: Dataset
) -> None:
    same = all(
        np.array_equal(first, second)
        for first, second in (
            (data.test.images, other.test.images),
            (data.test.labels, other.test.labels),
        )
    )
    if not same:
        raise UserError(
            f"the runs in {folder.path} and {other_folder.path} have other test images "
            f"({data.provenance}; {other.provenance}); compare runs on the same data"
        )
