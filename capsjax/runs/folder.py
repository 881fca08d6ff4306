"""A run's folder: its layout, and how its files are written.

::

    config.json       every setting of the run
    data.json         classes, shape and content of the data
    env.json          versions, device, commit, command, data; one entry per resume
    metrics.jsonl     one row per log interval and evaluation
    tensorboard/      the same numbers as TensorBoard events
    checkpoints/      last/ and best/ (by validation), see capsjax.training.checkpoint
    plots/            PNG figures
    inspection/       what experiments.inspect_network has found
    profile/          with --profile_steps, a trace for TensorBoard or Perfetto
    result.json       written when the run has ended
    .lock             held by the process that trains
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from filelock import FileLock, Timeout

from capsjax import fields
from capsjax.config import Config
from capsjax.errors import UserError

_LOCK = ".lock"


class RunFolder:
    """The paths in a run's folder, and its JSON files."""

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path).expanduser().absolute()
        self.config = self.path / "config.json"
        self.env = self.path / "env.json"
        self.data = self.path / "data.json"
        self.metrics = self.path / "metrics.jsonl"
        self.tensorboard = self.path / "tensorboard"
        self.checkpoints = self.path / "checkpoints"
        self.plots = self.path / "plots"
        self.inspection = self.path / "inspection"
        self.profile = self.path / "profile"
        self.result = self.path / "result.json"

    @contextlib.contextmanager
    def open(self, config: Config, *, resume: bool) -> Iterator[None]:
        """Creates a folder for a new run, or checks the folder of a run to continue.

        Within the context no other process can open it.

        Raises:
            UserError: the folder is not empty and ``resume`` is off; or it does not
                hold a run, or holds a run with another config; or another process
                trains in it; or it cannot be written.
        """
        with contextlib.ExitStack() as stack:
            try:
                # What a run leaves that is killed at its very beginning does not count.
                ignored = {_LOCK, _temporary(self.config).name}
                self.path.mkdir(parents=True, exist_ok=True)
                occupied = {entry.name for entry in self.path.iterdir()} - ignored
                if occupied and not resume:
                    raise UserError(
                        f"{self.path} is not empty; continue the run in it with "
                        "--resume, or choose another --workdir"
                    )
                if occupied:
                    self._check_same_config(config)
                stack.enter_context(locked(self.path, "trains"))
                if not occupied:
                    self.record_config(config)
            except OSError as error:
                raise UserError(
                    f"cannot write to the run folder {self.path}: {error.strerror}"
                ) from error
            yield

    def record_config(self, config: Config) -> None:
        """Writes ``config.json``."""
        write_json(self.config, fields.to_json(config))

    def load_config(self) -> Config:
        """Reads ``config.json``, also one that an earlier version wrote.

        Raises:
            UserError: the folder does not hold a run, or its config has other fields.
        """
        return fields.from_json(Config, self._read(self.config))

    def record_env(self, env: dict[str, Any], *, resumed_at: int | None) -> None:
        """Writes ``env.json``, or appends to its list of resumes."""
        if resumed_at is not None and self.env.exists():
            recorded = self._read(self.env)
            recorded.setdefault("resumes", []).append({"step": resumed_at, **env})
            env = recorded
        write_json(self.env, env)

    def load_result(self) -> dict[str, Any]:
        """Reads ``result.json``; raises UserError if the run has not ended."""
        return self._read(self.result)

    def load_env(self) -> dict[str, Any]:
        """Reads ``env.json``; raises UserError if the folder does not hold a run."""
        return self._read(self.env)

    def _read(self, path: pathlib.Path) -> dict[str, Any]:
        try:
            return json.loads(path.read_text())
        except FileNotFoundError as error:
            raise UserError(
                f"{self.path} does not hold {path.name}; is it the --workdir of a run"
                f"{' that has ended' if path == self.result else ''}?"
            ) from error
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {path}: {error}") from error

    def _check_same_config(self, config: Config) -> None:
        old, new = fields.flatten(self.load_config()), fields.flatten(config)
        facts = fields.facts(config)
        unused = {f"data.{name}" for name in config.data.unused()}
        # Moved images are compared with the record of the run's, if there is one.
        fixed = set() if self.data.exists() else {"data.path"}
        differing = [
            f"{path} was {old.get(path)!r} and is now {new.get(path)!r}"
            for path in sorted(old.keys() | new.keys())
            if old.get(path) != new.get(path)
            and path not in unused
            and not (path in facts and facts[path].may_change and path not in fixed)
        ]
        if differing:
            raise UserError(
                f"the run in {self.path} has another config: {'; '.join(differing)}; "
                "resume with the same config, or choose another --workdir"
            )


@contextlib.contextmanager
def locked(folder: pathlib.Path, doing: str) -> Iterator[None]:
    """Keeps other processes out of a folder until this one ends, however it ends.

    Args:
        folder: folder to lock.
        doing: verb that says what this process does there, for the others' error.

    Raises:
        UserError: another process has locked the folder.
    """
    path = folder / _LOCK
    try:
        # filelock's soft lock would remain when the process is killed.
        held = FileLock(path, timeout=0, fallback_to_soft=False).acquire()
    except Timeout as error:
        raise UserError(
            f"another process ({path.read_text().strip()}) {doing} in {folder}; wait "
            "for it to end, stop it, or choose another --workdir"
        ) from error
    with held:
        path.write_text(f"pid {os.getpid()} on {os.uname().nodename}\n")
        yield


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes a JSON file completely or not at all."""
    write_whole(path, json.dumps(content, indent=2, sort_keys=True).encode() + b"\n")


def write_whole(path: pathlib.Path, content: bytes | bytearray) -> None:
    """Writes a file completely or not at all."""
    temporary = _temporary(path)
    temporary.write_bytes(content)
    temporary.replace(path)


def _temporary(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(path.name + ".tmp")


@contextlib.contextmanager
def writing_to(folder: RunFolder) -> Iterator[None]:
    """Turns errors of the operating system, such as a full disk, into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write to {error.filename or folder.path}: {error.strerror}; "
            "earlier checkpoints are unchanged: fix it and continue with --resume"
        ) from error
