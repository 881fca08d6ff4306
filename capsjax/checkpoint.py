"""Checkpoints of a run: the last two states, and the best by validation.

The one file that knows Orbax. ``checkpoints/last/<step>`` and
``checkpoints/best/<step>`` each hold the whole training state and a small JSON record;
Orbax writes a checkpoint under a temporary name and renames it when it is complete, so
one that was cut short is never taken for whole.
"""

import dataclasses
from typing import Any, Literal

import jax
import orbax.checkpoint as ocp

from capsjax.errors import UserError
from capsjax.run_folder import RunFolder
from capsjax.train_step import TrainState

Which = Literal["last", "best"]


@dataclasses.dataclass
class Record:
    """What a checkpoint keeps besides the state.

    Attributes:
        seconds: spent in training so far, over all resumes.
        best_accuracy: on the validation images, of the best checkpoint so far; or None.
        best_step: of that checkpoint; or None.
    """

    seconds: float = 0.0
    best_accuracy: float | None = None
    best_step: int | None = None


class Checkpoints:
    """The checkpoints of one run; use it as a context manager."""

    def __init__(self, folder: RunFolder):
        self._folder = folder
        self._managers = {
            which: ocp.CheckpointManager(
                folder.checkpoints / which,
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=keep,
                    enable_async_checkpointing=False,
                    cleanup_tmp_directories=True,
                ),
            )
            for which, keep in {"last": 2, "best": 1}.items()
        }

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception) -> None:
        for manager in self._managers.values():
            manager.close()

    def latest_step(self, which: Which = "last") -> int | None:
        """Step of the newest checkpoint, or None where there is none."""
        return self._managers[which].latest_step()

    def save(self, which: Which, state: TrainState, record: Record) -> None:
        """Saves a state, unless its step is saved already, and drops older ones."""
        step = int(state.step)
        if step == self.latest_step(which):
            return
        self._managers[which].save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                record=ocp.args.JsonSave(dataclasses.asdict(record)),
            ),
        )

    def restore(
        self, template: TrainState, which: Which = "last"
    ) -> tuple[TrainState, Record]:
        """The newest state and its record.

        Args:
            template: a state with the structure, shapes and dtypes to expect.
            which: the last state or the best by validation.

        Raises:
            UserError: there is no checkpoint; it is damaged; or it belongs to another
                model.
        """
        step = self.latest_step(which)
        where = self._folder.checkpoints / which
        if step is None:
            raise UserError(f"there is no checkpoint in {where}")
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, template)
        try:
            restored = self._managers[which].restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(abstract),
                    record=ocp.args.JsonRestore(),
                ),
            )
            record: dict[str, Any] = restored.record
            return restored.state, Record(**record)
        except Exception as error:  # Orbax and its storage raise many kinds.
            raise UserError(
                f"cannot restore checkpoint {where / str(step)}: it is damaged or "
                f"belongs to another model ({_first_line(error)}); remove it to go on "
                "from an older one, if there is one"
            ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:80]}" if lines else repr(error)
