"""Parameters to start from that another training has found."""

import dataclasses
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from capsjax import models
from capsjax.config import Config
from capsjax.errors import UserError
from capsjax.models import pytorch_weights
from capsjax.runs import data_record, provenance
from capsjax.runs.folder import RunFolder
from capsjax.training import parallel, parameter_names
from capsjax.training import step as train_step
from capsjax.training.checkpoint import Checkpoints
from capsjax.training.step import TrainState

# Arrays by the dotted path of the parameter or running average that they are.
Arrays = dict[str, np.ndarray]


class Source(NamedTuple):
    """Where parameters were taken from.

    Attributes:
        path: absolute path.
        sha256: hash of the arrays that were taken.
        in_words: a sentence that says what was taken and what was not.
    """

    path: str
    sha256: str
    in_words: str


def taken(
    config: Config, state: TrainState, image_shape: models.ImageShape
) -> tuple[TrainState, Source]:
    """Puts the parameters of ``config.init_from`` into an initial state.

    A run's are those of its last step, or their averages if it has them. If several
    processes train together, each must call this; the primary one reads.

    Args:
        config: the run's config.
        state: the initial state, from `capsjax.training.step.create`.
        image_shape: shape (H, W, C) of the images that the model sees.

    Returns:
        The state, and where it is from.

    Raises:
        UserError: ``config.init_from`` cannot be read, or has none of the layers;
            ``config.init_layers`` names a layer that one of the two networks lacks, or
            that has another shape.
    """
    source = Source("", "", "")
    if parallel.is_primary():
        state, source = _taken(config, state, image_shape)
    if jax.process_count() > 1:
        state = parallel.from_primary(state)
    return state, source


def _taken(
    config: Config, state: TrainState, image_shape: models.ImageShape
) -> tuple[TrainState, Source]:
    given = config.init_from
    found = _found(config, image_shape)
    own = parameter_names.by_path(state.params)
    own += parameter_names.by_path(state.model_state)
    shapes = {path: tuple(leaf.shape) for path, leaf in own}
    if config.init_layers:
        chosen = _chosen(config, shapes, found)
    else:
        chosen = {path for path in shapes if _suits(path, shapes, found)}
    if not chosen:
        raise UserError(
            f"config.init_from={given} has no layer with a name and shapes of this "
            f"network; it has {', '.join(parameter_names.layers(found))}"
        )

    def filled(part: nnx.State) -> nnx.State:
        leaves = [
            jnp.asarray(found[path], leaf.dtype) if path in chosen else leaf
            for path, leaf in parameter_names.by_path(part)
        ]
        return jax.tree.unflatten(jax.tree.structure(part), leaves)

    params = filled(state.params)
    state = dataclasses.replace(
        state, params=params, model_state=filled(state.model_state)
    )
    if jax.tree.leaves(state.averages):
        state = dataclasses.replace(state, averages=jax.tree.map(jnp.copy, params))
    new = parameter_names.layers(path for path in shapes if path not in chosen)
    return state, Source(
        str(pathlib.Path(given).expanduser().absolute()),
        provenance.sha256({path: found[path] for path in chosen}),
        f"starts from {given}: {len(chosen)} of {len(shapes)} arrays; new are "
        f"{', '.join(new) or 'none'}",
    )


def _suits(path: str, shapes: dict[str, tuple[int, ...]], found: Arrays) -> bool:
    return path in found and found[path].shape == shapes[path]


def _chosen(
    config: Config, shapes: dict[str, tuple[int, ...]], found: Arrays
) -> set[str]:
    """The paths that ``config.init_layers`` names."""
    chosen: set[str] = set()
    for pattern in config.init_layers:
        paths = {path for path in shapes if parameter_names.matches(path, pattern)}
        if not paths:
            raise UserError(
                f"config.init_layers has {pattern!r}, which is no layer of this "
                f"network; it has {', '.join(parameter_names.layers(shapes))}"
            )
        for path in sorted(paths):
            if not _suits(path, shapes, found):
                has = f"has {found[path].shape}" if path in found else "lacks it"
                raise UserError(
                    f"config.init_layers names {path}, which is {shapes[path]} here; "
                    f"{config.init_from} {has}"
                )
        chosen |= paths
    return chosen


def _found(config: Config, image_shape: models.ImageShape) -> Arrays:
    path = pathlib.Path(config.init_from).expanduser()
    if path.is_dir():
        return _of_run(RunFolder(path))
    arrays = pytorch_weights.read(path)
    if all(name.startswith(("params/", "state/")) for name in arrays):
        # As capsjax.inference.pretrained writes them.
        return {
            name.partition("/")[2].replace("/", "."): array
            for name, array in arrays.items()
        }
    model = pytorch_weights.build(config.model, image_shape, path)
    _, params, model_state = models.split(model)
    return _by_path(params) | _by_path(model_state)


def _of_run(folder: RunFolder) -> Arrays:
    config = folder.load_config()
    shape, num_classes = data_record.recorded_sizes(folder)
    _, state = train_step.create(config, shape, num_classes)
    with Checkpoints(folder, read_only=True) as checkpoints:
        state, _ = checkpoints.restore(state)
    variables = state.variables
    return _by_path(variables.params) | _by_path(variables.model_state)


def _by_path(state: nnx.State) -> Arrays:
    return {path: np.asarray(x) for path, x in parameter_names.by_path(state)}
