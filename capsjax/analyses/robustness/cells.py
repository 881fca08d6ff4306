"""Results of single tests, kept as files until what they depend on changes.

A cell holds arrays: what one network did under one kind of change. A test that was
stopped goes on from the cells that are finished.
"""

import hashlib
import io
import json
import pathlib
import sys
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from capsjax import fields
from capsjax.runs import provenance
from capsjax.runs.folder import write_whole
from capsjax.training.trained import TrainedModel

Arrays = dict[str, np.ndarray]


class Cells:
    """The cells in a folder: ``RUN/PART.npz``."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder

    def read(self, run: str, part: str, key: Mapping[str, Any]) -> Arrays | None:
        """The arrays of a cell, or None if it must be computed.

        If something that the cell depends on has changed, a line on standard error says
        so.

        Args:
            run: name of the run.
            part: what it was tested on.
            key: all that the arrays depend on, as JSON.
        """
        try:
            # Of a damaged file, NumPy would leave the path open.
            content = io.BytesIO(self._path(run, part).read_bytes())
            with np.load(content, allow_pickle=False) as file:
                arrays = dict(file)
            before = json.loads(str(arrays.pop("key")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            _say(run, part, "its file is damaged")
            return None
        now = json.loads(json.dumps(key))
        changed = [name for name in now if before.get(name) != now[name]]
        if changed or before.keys() != now.keys():
            _say(run, part, f"changed is its {', '.join(changed) or 'version'}")
            return None
        return arrays

    def write(
        self, run: str, part: str, key: Mapping[str, Any], arrays: Arrays
    ) -> Arrays:
        """Writes a cell, and returns its arrays with the commit that computed them."""
        found = {**arrays, "commit": np.array(provenance.commit())}
        file = io.BytesIO()
        np.savez_compressed(
            file, allow_pickle=False, key=np.array(json.dumps(key)), **found
        )
        path = self._path(run, part)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, file.getvalue())
        return found

    def _path(self, run: str, part: str) -> pathlib.Path:
        return self.folder / run / f"{part}.npz"


def identity(model: TrainedModel) -> dict[str, Any]:
    """What tells a network from every other one: parameters, state and settings."""
    config = json.dumps(fields.to_json(model.config), sort_keys=True)
    return {
        "checkpoint": provenance.fingerprint(model.variables.params),
        "state": provenance.sha256(model.variables.model_state),
        "step": model.step,
        "config": hashlib.sha256(config.encode()).hexdigest(),
    }


def _say(run: str, part: str, why: str) -> None:
    print(f"note: {part} of {run} is computed again: {why}", file=sys.stderr)
