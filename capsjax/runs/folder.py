"""A run's folder: what lies where, and how its files are written.

::

    config.json       every setting of the run
    env.json          versions, device, commit, command, data; one entry per resume
    metrics.jsonl     one row per log interval and evaluation
    tensorboard/      the same numbers as TensorBoard events
    checkpoints/      last/ and best/ (by validation), see capsjax.training.checkpoint
    plots/            PNG figures
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
from ml_collections import ConfigDict

from capsjax.config import with_defaults
from capsjax.errors import UserError

# What may differ between a run and its continuation: how long it goes on, where, and
# how it reports. Anything else would make it another experiment.
_MAY_CHANGE = (
    "num_epochs",
    "max_steps",
    "log_every_steps",
    "checkpoint_every_steps",
    "parallelism",
    "num_devices",
    "debug_nans",
    "diagnose_routing",
)

_LOCK = ".lock"


class RunFolder:
    """Paths in a run's folder, and its JSON files."""

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path).expanduser().absolute()
        self.config = self.path / "config.json"
        self.env = self.path / "env.json"
        self.metrics = self.path / "metrics.jsonl"
        self.tensorboard = self.path / "tensorboard"
        self.checkpoints = self.path / "checkpoints"
        self.plots = self.path / "plots"
        self.profile = self.path / "profile"
        self.result = self.path / "result.json"

    @contextlib.contextmanager
    def open(self, config: ConfigDict, *, resume: bool) -> Iterator[None]:
        """Makes a folder for a new run, or checks the one of a run to continue.

        Within the context no other process can open it.

        Raises:
            UserError: the folder holds something and ``resume`` is off; or what it
                holds is no run, or a run with another config; or another process
                trains in it; or it cannot be written.
        """
        with contextlib.ExitStack() as stack:
            try:
                occupied = self._is_occupied()
                if occupied and not resume:
                    raise UserError(
                        f"{self.path} is not empty; continue the run in it with "
                        "--resume, or choose another --workdir"
                    )
                if occupied:
                    self._check_same_config(config)
                self.path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(self.path, "trains"))
                if not occupied:
                    self.record_config(config)
            except OSError as error:
                raise UserError(
                    f"cannot write to the run folder {self.path}: {error.strerror}"
                ) from error
            yield

    def _is_occupied(self) -> bool:
        """Whether there is more than a run leaves that was killed as it began."""
        if not self.path.exists():
            return False
        entries = {entry.name for entry in self.path.iterdir()}
        return bool(entries - {_LOCK, _temporary(self.config).name})

    def record_config(self, config: ConfigDict) -> None:
        """Writes ``config.json``."""
        write_json(self.config, json.loads(config.to_json_best_effort()))

    def load_config(self) -> ConfigDict:
        """The config of the run in this folder.

        Raises:
            UserError: there is no run in it.
        """
        return with_defaults(ConfigDict(_tuples(self._read(self.config))))

    def record_env(self, env: dict[str, Any], *, resumed_at: int | None) -> None:
        """Writes ``env.json``, or appends to its list of resumes."""
        if resumed_at is not None and self.env.exists():
            recorded = self._read(self.env)
            recorded.setdefault("resumes", []).append({"step": resumed_at, **env})
            env = recorded
        write_json(self.env, env)

    def load_result(self) -> dict[str, Any]:
        """The result of the run in this folder.

        Raises:
            UserError: it has not ended.
        """
        return self._read(self.result)

    def load_env(self) -> dict[str, Any]:
        """Where the run in this folder was started.

        Raises:
            UserError: there is no run in it.
        """
        return self._read(self.env)

    def _read(self, path: pathlib.Path) -> dict[str, Any]:
        try:
            return json.loads(path.read_text())
        except FileNotFoundError as error:
            raise UserError(
                f"{self.path} holds no {path.name}; is it the --workdir of a run"
                f"{' that has ended' if path == self.result else ''}?"
            ) from error
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {path}: {error}") from error

    def _check_same_config(self, config: ConfigDict) -> None:
        old, new = (
            _flatten(json.loads(some.to_json_best_effort()))
            for some in (self.load_config(), config)
        )
        differing = [
            f"{key} was {old.get(key)!r} and is now {new.get(key)!r}"
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key) and key not in _MAY_CHANGE
        ]
        if differing:
            raise UserError(
                f"the run in {self.path} has another config: {'; '.join(differing)}; "
                "resume with the same config, or choose another --workdir"
            )


@contextlib.contextmanager
def locked(folder: pathlib.Path, doing: str) -> Iterator[None]:
    """Keeps other processes out of a folder, until this one ends, however it ends.

    Args:
        folder: folder to lock.
        doing: verb of what this process does there, for the others' message.

    Raises:
        UserError: another process does it already.
    """
    path = folder / _LOCK
    try:
        # What filelock falls back to would outlast a process that is killed.
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
    """Writes a JSON file whole or not at all."""
    temporary = _temporary(path)
    temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    temporary.replace(path)


def _temporary(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(path.name + ".tmp")


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _tuples(tree: Any) -> Any:
    """JSON's lists as the tuples that a config holds."""
    if isinstance(tree, dict):
        return {key: _tuples(value) for key, value in tree.items()}
    return tuple(tree) if isinstance(tree, list) else tree
