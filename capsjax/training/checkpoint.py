"""Checkpoints of a run: the last two states, and the best by validation.

The one file that knows Orbax. ``checkpoints/last/<step>`` and
``checkpoints/best/<step>`` each hold the whole training state and a small JSON record;
Orbax writes a checkpoint under a temporary name and renames it when it is complete, so
one that was cut short is never taken for whole. What storage damages later shows in
the state's hash, which stands in the record.

Every device holds the whole state, so where several processes train together, one
writes and reads, and the others are told what it read. A state does not depend on
the devices: it can be restored on any number of them.
"""

import dataclasses
import errno
import pathlib
import shutil
import sys
from typing import Any, Literal

import jax
import orbax.checkpoint as ocp

from capsjax.errors import UserError
from capsjax.runs.folder import RunFolder
from capsjax.runs.provenance import sha256
from capsjax.training import parallel
from capsjax.training.step import TrainState

Which = Literal["last", "best"]


@dataclasses.dataclass
class Record:
    """What a checkpoint keeps besides the state.

    Attributes:
        seconds: spent in training so far, over all resumes.
        num_devices: that the state was computed on.
        best_accuracy: on the validation images, of the best checkpoint so far; or None.
        best_step: of that checkpoint; or None.
        reached: whether the validation accuracy has been reached at which the run ends.
    """

    seconds: float = 0.0
    num_devices: int = 1
    best_accuracy: float | None = None
    best_step: int | None = None
    reached: bool = False


class Checkpoints:
    """The checkpoints of one run; use it as a context manager.

    All processes call its methods alike; only the primary one touches files.
    """

    def __init__(self, folder: RunFolder, *, read_only: bool = False):
        """Opens the run's checkpoints.

        Args:
            folder: the run's.
            read_only: makes and removes nothing, as suits another process than the one
                that trains.

        Raises:
            UserError: their folder cannot be read or written.
        """
        self._folder = folder
        self._managers: dict[Which, ocp.CheckpointManager] = {}
        if not parallel.is_primary():
            return
        keep: dict[Which, int] = {"last": 2, "best": 1}
        for which, count in keep.items():
            path = self._path(which)
            try:
                if not read_only:
                    path.mkdir(parents=True, exist_ok=True)
                self._managers[which] = _manager(path, count, read_only)
            except OSError as error:
                raise UserError(f"cannot open {path}: {error.strerror}") from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception) -> None:
        for manager in self._managers.values():
            manager.close()

    def latest_step(self, which: Which = "last") -> int | None:
        """Step of the newest checkpoint, or None where there is none.

        Other processes than the primary one know of none.
        """
        manager = self._managers.get(which)
        return None if manager is None else manager.latest_step()

    def save(self, which: Which, state: TrainState, record: Record) -> None:
        """Saves a state, unless its step is saved already, and drops older ones.

        Also newer ones: they come from steps that a run has lost and takes again.

        Raises:
            UserError: it could not be written; the checkpoints before are as they were.
        """
        if not parallel.is_primary():
            return
        host_state = jax.device_get(state)
        step = int(host_state.step)
        before = self.latest_step(which)
        if step == before:
            return
        content = dataclasses.asdict(record) | {"sha256": sha256(host_state)}
        try:
            # A disk that is too full now need not be filled up first.
            _check_room(self._path(which), host_state)
            for newer in self._managers[which].all_steps():
                if newer > step:
                    self._managers[which].delete(newer)
            self._managers[which].save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(_stored(host_state)),
                    record=ocp.args.JsonSave(content),
                ),
            )
        except Exception as error:  # Orbax and its storage raise many kinds.
            kept = "there is none before it"
            if before is not None:
                kept = f"the one of step {before} is as it was"
            raise UserError(
                f"cannot save the checkpoint of step {step} in {self._path(which)} "
                f"({_in_short(error)}); {kept}; put it right and go on with --resume"
            ) from error

    def restore(
        self, template: TrainState, which: Which = "last", *, discard: bool = False
    ) -> tuple[TrainState, Record]:
        """The newest state that is whole, as NumPy arrays, and its record.

        Says so on standard error where a newer one is damaged.

        Args:
            template: a state with the structure, shapes and dtypes to expect.
            which: the last state or the best by validation.
            discard: removes checkpoints that are newer and damaged, so that their steps
                can be saved again.

        Raises:
            UserError: there is no checkpoint; or all are damaged or belong to another
                model.
        """
        manager = self._managers[which]
        damaged: dict[int, Exception] = {}
        for step in sorted(manager.all_steps(), reverse=True):
            try:
                state, record = self._read(which, step, template)
            except Exception as error:  # Orbax and its storage raise many kinds.
                damaged[step] = error
                continue
            for newer in damaged:
                print(
                    f"warning: checkpoint {self._path(which) / str(newer)} is damaged "
                    f"({_in_short(damaged[newer])}); the one of step {step} is taken "
                    "instead" + (" and the damaged one removed" if discard else ""),
                    file=sys.stderr,
                    flush=True,
                )
                if discard:
                    manager.delete(newer)
            return state, record
        if not damaged:
            raise UserError(f"there is no checkpoint in {self._path(which)}")
        newest = max(damaged)
        raise UserError(
            f"cannot restore checkpoint {self._path(which) / str(newest)}: it is "
            f"damaged or belongs to another model ({_in_short(damaged[newest])}), and "
            f"there is no other; remove {self._path(which)} to start anew"
        ) from damaged[newest]

    def resume(self, template: TrainState) -> tuple[TrainState, Record] | None:
        """The newest state to go on from, in all processes, or None: there is none.

        As `restore` with ``discard``; the record is the primary process's, in others
        only its ``reached``.
        """
        found = None
        if self.latest_step() is not None:
            found = self.restore(template, discard=True)
        if jax.process_count() == 1:
            return found
        if not parallel.from_primary(found is not None):
            return None
        state, record = found or (template, Record())
        record.reached = bool(parallel.from_primary(record.reached))
        return parallel.from_primary(state), record

    def _path(self, which: Which) -> pathlib.Path:
        return self._folder.checkpoints / which

    def _read(
        self, which: Which, step: int, template: TrainState
    ) -> tuple[TrainState, Record]:
        restored = self._managers[which].restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(_stored(jax.device_get(template))),
                record=ocp.args.JsonRestore(),
            ),
        )
        content = dict(restored.record)
        state = dataclasses.replace(template, **restored.state)
        if content.pop("sha256") != sha256(state):
            raise ValueError("the state does not have the hash that was recorded")
        return state, Record(**content)


def _manager(path: pathlib.Path, keep: int, read_only: bool) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        read_only=read_only,
        create=False,  # Orbax makes no folders where only some processes take part.
        enable_async_checkpointing=False,
        cleanup_tmp_directories=not read_only,
        multiprocessing_options=ocp.options.MultiprocessingOptions(
            primary_host=0, active_processes={0}, barrier_sync_key_prefix=path.name
        ),
    )
    return ocp.CheckpointManager(path, options=options)


def _stored(state: TrainState) -> dict[str, Any]:
    """The parts of a state that hold arrays, as they are stored.

    So a state without model state is stored as it was before there was any.
    """
    parts = {each.name: getattr(state, each.name) for each in dataclasses.fields(state)}
    return {name: part for name, part in parts.items() if jax.tree.leaves(part)}


def _check_room(path: pathlib.Path, state: TrainState) -> None:
    needed = 1.1 * sum(x.nbytes for x in jax.tree.leaves(state)) + 2**16
    free = shutil.disk_usage(path).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"it takes {needed / 1e6:.1f} MB and the disk has {free / 1e6:.1f} MB left",
        )


def _in_short(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:80]}" if lines else repr(error)
