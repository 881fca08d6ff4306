"""Checkpoints of a run: the last two states, and the best by validation.

This is the only file that uses Orbax. ``checkpoints/last/<step>`` and
``checkpoints/best/<step>`` each hold the whole training state and a small JSON record.
Orbax writes a checkpoint under a temporary name and renames it when it is complete, so
a truncated one is never read. Later damage shows in the state's hash, which is part of
the record.

Every device holds the whole state, so if several processes train together, one writes
and reads, and sends the others what it has read. A state can be restored on any number
of devices.
"""

import dataclasses
import errno
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
    """The part of a checkpoint besides the state.

    Attributes:
        seconds: duration of training so far, over all resumes.
        num_devices: number of devices that computed the state.
        best_accuracy: validation accuracy of the best checkpoint so far, or None.
        best_step: step of that checkpoint, or None.
        reached: whether the validation accuracy that ends the run has been reached.
    """

    seconds: float = 0.0
    num_devices: int = 1
    best_accuracy: float | None = None
    best_step: int | None = None
    reached: bool = False


class Checkpoints:
    """The checkpoints of one run; use it as a context manager.

    All processes call its methods, but only the primary one accesses files.

    Attributes:
        path: folder of the checkpoints.
    """

    def __init__(self, folder: RunFolder, *, read_only: bool = False):
        """Opens the run's checkpoints.

        Args:
            folder: the run's folder.
            read_only: whether nothing is created or removed, for a process beside the
                one that trains.

        Raises:
            UserError: the checkpoints' folder cannot be read or written.
        """
        self.path = folder.checkpoints
        self._managers: dict[Which, ocp.CheckpointManager] = {}
        if not parallel.is_primary():
            return
        keep: dict[Which, int] = {"last": 2, "best": 1}
        for which, count in keep.items():
            path = self.path / which
            options = ocp.CheckpointManagerOptions(
                max_to_keep=count,
                read_only=read_only,
                create=False,  # Orbax cannot if only some processes call it.
                enable_async_checkpointing=False,
                cleanup_tmp_directories=not read_only,
                multiprocessing_options=ocp.options.MultiprocessingOptions(
                    primary_host=0, active_processes={0}, barrier_sync_key_prefix=which
                ),
            )
            try:
                if not read_only:
                    path.mkdir(parents=True, exist_ok=True)
                self._managers[which] = ocp.CheckpointManager(path, options=options)
            except OSError as error:
                raise UserError(f"cannot open {path}: {error.strerror}") from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception) -> None:
        for manager in self._managers.values():
            manager.close()

    def latest_step(self, which: Which = "last") -> int | None:
        """Step of the newest checkpoint, or None; always None in other processes."""
        manager = self._managers.get(which)
        return None if manager is None else manager.latest_step()

    def save(self, which: Which, state: TrainState, record: Record) -> None:
        """Saves a state, unless its step is saved already, and removes older ones.

        Newer ones are removed too: they come from lost steps that a run repeats.

        Raises:
            UserError: it could not be written; earlier checkpoints are unchanged.
        """
        if not parallel.is_primary():
            return
        host_state = jax.device_get(state)
        step, manager, path = int(host_state.step), self._managers[which], self.path
        before = manager.latest_step()
        if step == before:
            return
        content = dataclasses.asdict(record) | {"sha256": sha256(host_state)}
        try:
            # Checked first, so that a write does not fill up the disk and then fail.
            needed = 1.1 * sum(x.nbytes for x in jax.tree.leaves(host_state)) + 2**16
            free = shutil.disk_usage(path).free
            if free < needed:
                raise OSError(
                    errno.ENOSPC,
                    f"it takes {needed / 1e6:.1f} MB and the disk has "
                    f"{free / 1e6:.1f} MB left",
                )
            for newer in manager.all_steps():
                if newer > step:
                    manager.delete(newer)
            manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(_stored(host_state)),
                    record=ocp.args.JsonSave(content),
                ),
            )
        except Exception as error:  # Orbax and its storage raise many kinds.
            kept = "there is no earlier one"
            if before is not None:
                kept = f"the one of step {before} is unchanged"
            raise UserError(
                f"cannot save the checkpoint of step {step} in {path / which} "
                f"({_in_short(error)}); {kept}; fix it and continue with --resume"
            ) from error

    def restore(
        self, template: TrainState, which: Which = "last", *, discard: bool = False
    ) -> tuple[TrainState, Record]:
        """Reads the newest undamaged state, as NumPy arrays, and its record.

        Prints a warning on standard error for each newer one that is damaged.

        Args:
            template: state with the expected structure, shapes and dtypes.
            which: kind of checkpoint, the last state or the best by validation.
            discard: whether to remove newer, damaged checkpoints, so that their steps
                can be saved again.

        Raises:
            UserError: there is no checkpoint; or all are damaged or belong to another
                model.
        """
        manager, path = self._managers[which], self.path / which
        damaged: dict[int, Exception] = {}
        for step in sorted(manager.all_steps(), reverse=True):
            try:
                state, record = self._read(which, step, template)
            except Exception as error:  # Orbax and its storage raise many kinds.
                damaged[step] = error
                continue
            for newer in damaged:
                print(
                    f"warning: checkpoint {path / str(newer)} is damaged "
                    f"({_in_short(damaged[newer])}); the one of step {step} is used "
                    "instead" + (" and the damaged one removed" if discard else ""),
                    file=sys.stderr,
                    flush=True,
                )
                if discard:
                    manager.delete(newer)
            return state, record
        if not damaged:
            raise UserError(f"there is no checkpoint in {path}")
        newest = max(damaged)
        raise UserError(
            f"cannot restore checkpoint {path / str(newest)}: it is damaged or belongs "
            f"to another model ({_in_short(damaged[newest])}), and there is no other; "
            f"remove {path} to start over"
        ) from damaged[newest]

    def resume(self, template: TrainState) -> tuple[TrainState, Record] | None:
        """Reads the newest state in all processes; None without a checkpoint.

        Works like `restore` with ``discard``. Other processes than the primary one get
        only the record's ``reached``.
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
            raise ValueError("the state does not have the recorded hash")
        return state, Record(**content)


def _stored(state: TrainState) -> dict[str, Any]:
    """The parts of a state that hold arrays, as they are stored.

    A state without model state is stored as in versions that did not have any.
    """
    parts = {each.name: getattr(state, each.name) for each in dataclasses.fields(state)}
    return {name: part for name, part in parts.items() if jax.tree.leaves(part)}


def _in_short(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:80]}" if lines else repr(error)
