"""Trained networks to take away: parameters, config and data's description in one file.

The file, ``NAME.safetensors``, holds the parameters and running averages; its metadata
are the run's config, the description of its data, and what is known about the result.
`unpack` makes a run's folder of it, with which everything works that takes a trained
run. The networks that come with capsjax are in `FOLDER`, each with a card beside it.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from capsjax import fields, models
from capsjax.config import Config
from capsjax.data import Dataset
from capsjax.errors import UserError
from capsjax.runs.folder import RunFolder, write_json, write_whole
from capsjax.training import augment
from capsjax.training import step as train_step
from capsjax.training.checkpoint import Checkpoints, Record, Which
from capsjax.training.trained import restore

FOLDER = pathlib.Path(__file__).parent / "networks"
SUFFIX = ".safetensors"


def names() -> list[str]:
    """The networks that come with capsjax."""
    return sorted(path.stem for path in FOLDER.glob(f"*{SUFFIX}"))


def pack(
    folder: RunFolder,
    data: Dataset,
    path: pathlib.Path,
    facts: Mapping[str, Any],
    *,
    which: Which = "best",
    with_decoder: bool = False,
) -> int:
    """Writes the network of a run as one file.

    Args:
        folder: the run's folder.
        data: the run's data.
        path: the file, which is replaced.
        facts: facts about the network, such as its error and the command, for JSON.
        which: the run's last parameters, or the best by validation accuracy.
        with_decoder: whether the decoder goes along, if there is one.

    Returns:
        The number of parameters in the file.

    Raises:
        UserError: see `capsjax.training.trained.restore`; or the file cannot be
            written.
    """
    trained = restore(folder, data, which)
    config = trained.config
    if not with_decoder:
        config = config.replace(model=config.model.without_decoder())
    shape = augment.output_shape(data.image_shape, config)
    kept = nnx.eval_shape(
        lambda: models.build(config.model, shape, data.num_classes, nnx.Rngs(params=0))
    )
    _, params, model_state = models.split(kept)
    tensors = {
        **_named("params", trained.variables.params, params),
        **_named("state", trained.variables.model_state, model_state),
    }
    description = json.loads(folder.data.read_text())
    description.pop("data_dir", None)
    metadata = {
        "config": fields.to_json(config),
        "data": description,
        "about": {
            "step": trained.step,
            "best_validation_accuracy": trained.best_accuracy,
            **facts,
        },
    }
    text = {name: json.dumps(value) for name, value in metadata.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, to_bytes(tensors, text))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    return sum(x.size for name, x in tensors.items() if name.startswith("params"))


def about(name: str) -> dict[str, Any]:
    """What is known about a network; see `unpack`."""
    return _metadata(_find(name))["about"]


def unpack(name: str, folder: RunFolder) -> None:
    """Makes a run's folder of a network in one file.

    Args:
        name: a name from `names`, or the path of a file.
        folder: a new or empty folder.

    Raises:
        UserError: there is no such network, or the file does not hold one.
    """
    path = _find(name)
    metadata = _metadata(path)
    folder.path.mkdir(parents=True, exist_ok=True)
    config = fields.from_json(Config, metadata["config"])
    described, facts = metadata["data"], metadata["about"]
    _, state = train_step.create(
        config, tuple(described["image_shape"]), len(described["class_names"])
    )
    with safe_open(path, framework="numpy") as file:
        found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    state = dataclasses.replace(
        state,
        step=jnp.int32(facts["step"]),
        params=_filled("params", state.params, found, path),
        model_state=_filled("state", state.model_state, found, path),
    )
    folder.record_config(config)
    write_json(folder.data, described)
    write_json(folder.result, facts)
    record = Record(
        best_accuracy=facts["best_validation_accuracy"], best_step=facts["step"]
    )
    with Checkpoints(folder) as checkpoints:
        checkpoints.save("last", state, record)
        checkpoints.save("best", state, record)


def _named(prefix: str, state: nnx.State, wanted: nnx.State) -> dict[str, np.ndarray]:
    """The arrays of a state by name, as far as another state has them."""
    names = {name for name, _ in _leaves(prefix, wanted)}
    return {
        name: np.ascontiguousarray(leaf)
        for name, leaf in _leaves(prefix, state)
        if name in names
    }


def _filled(
    prefix: str, state: nnx.State, found: Mapping[str, np.ndarray], path: pathlib.Path
) -> nnx.State:
    """A state with the arrays of a file."""
    leaves = []
    for name, leaf in _leaves(prefix, state):
        if name not in found or found[name].shape != leaf.shape:
            has = found[name].shape if name in found else "no such array"
            raise UserError(
                f"{path} does not suit its own config: {name} should be {leaf.shape}, "
                f"and is {has}"
            )
        leaves.append(found[name])
    return jax.tree.unflatten(jax.tree.structure(state), leaves)


def _leaves(prefix: str, state: nnx.State) -> list[tuple[str, Any]]:
    leaves, _ = jax.tree.flatten_with_path(nnx.to_pure_dict(state))
    return [
        (f"{prefix}/{jax.tree_util.keystr(key, simple=True, separator='/')}", leaf)
        for key, leaf in leaves
    ]


def _find(name: str) -> pathlib.Path:
    path = FOLDER / f"{name}{SUFFIX}" if name in names() else pathlib.Path(name)
    if not path.is_file():
        raise UserError(
            f"there is no pretrained network {name!r}; choose "
            f"{', '.join(names()) or 'a file'}, or give the path of a {SUFFIX} file"
        )
    return path


def _metadata(path: pathlib.Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="numpy") as file:
            text = file.metadata() or {}
        return {name: json.loads(text[name]) for name in ("config", "data", "about")}
    except (KeyError, ValueError, OSError, SafetensorError) as error:
        raise UserError(
            f"{path} does not hold a network of capsjax ({error})"
        ) from error
