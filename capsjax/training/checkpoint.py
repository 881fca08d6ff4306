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

_KEPT: dict[Which, int] = {"last": 2, "best": 1}


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
        self._damaged: dict[Which, set[int]] = {which: set() for which in _KEPT}
        if not parallel.is_primary():
            return
        for which in _KEPT:
            path = self.path / which
            options = ocp.CheckpointManagerOptions(
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
        """Step of the newest checkpoint that is not known to be damaged, or None.

        Always None in other processes than the primary one.
        """
        manager = self._managers.get(which)
        steps = set(manager.all_steps()) if manager else set()
        return max(steps - self._damaged[which], default=None)

    def save(self, which: Which, state: TrainState, record: Record) -> None:
        """Saves a state, unless its step is saved already, and removes older ones.

        Newer ones are removed too: they are damaged, or come from lost steps that a run
        repeats. Nothing is removed before the state is saved, except a damaged
        checkpoint of the same step.

        Raises:
            UserError: it could not be written; earlier checkpoints are unchanged.
        """
        if not parallel.is_primary():
            return
        host_state = jax.device_get(state)
        step, manager, path = int(host_state.step), self._managers[which], self.path
        steps, damaged = set(manager.all_steps()), self._damaged[which]
        before = self.latest_step(which)
        if step in steps - damaged:
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
            if step in damaged:
                manager.delete(step)
            manager.save(
                step,
                force=True,  # Otherwise Orbax skips steps before its newest one.
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
        kept_steps = sorted({s for s in steps - damaged if s < step} | {step})
        for old in steps - set(kept_steps[-_KEPT[which] :]) - {step}:
            manager.delete(old)
        damaged.clear()

    def restore(
        self, template: TrainState, which: Which = "last"
    ) -> tuple[TrainState, Record]:
        """Reads the newest undamaged state, as NumPy arrays, and its record.

        Prints a warning on standard error for each newer one that is damaged.

        Args:
            template: state with the expected structure, shapes and dtypes.
            which: kind of checkpoint, the last state or the best by validation.

        Raises:
            UserError: there is no checkpoint; or all are damaged or belong to another
                model.
        """
        manager, path = self._managers[which], self.path / which
        damaged: dict[int, Exception] = {}
        self._damaged[which] = set()
        for step in sorted(manager.all_steps(), reverse=True):
            try:
                state, record = self._read(which, step, template)
            except Exception as error:  # Orbax and its storage raise many kinds.
                damaged[step] = error
                self._damaged[which].add(step)
                continue
            for newer in damaged:
                print(
                    f"warning: checkpoint {path / str(newer)} is damaged "
                    f"({_in_short(damaged[newer])}); the one of step {step} is used "
                    "instead",
                    file=sys.stderr,
                    flush=True,
                )
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

        Works like `restore`. Other processes than the primary one get only the record's
        ``reached``.
        """
        found = None
        if self.latest_step() is not None:
            found = self.restore(template)
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
        for found, wanted in zip(
            jax.tree.leaves(restored.state),
            jax.tree.leaves(_stored(template)),
            strict=True,
        ):
            # Orbax returns other shapes than it was asked for.
            if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
                raise ValueError(
                    f"it has an array {found.dtype}{[*found.shape]} in place of "
                    f"{wanted.dtype}{[*wanted.shape]}"
                )
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
