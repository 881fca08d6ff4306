"""A trained model as one file that runs without this project: a `jax.export` artefact.

Beside the artefact, ``NAME.jaxexport``, lies its description, ``NAME.json``.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.export import Exported, default_export_platform, deserialize
from jax.export import export as export_jitted

from capsjax import models
from capsjax.config import Config
from capsjax.data import Dataset
from capsjax.errors import UserError
from capsjax.inference.predict import make_predict
from capsjax.runs import provenance
from capsjax.runs.folder import RunFolder, write_json
from capsjax.training import augment
from capsjax.training.trained import TrainedModel

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
SUFFIX = ".jaxexport"
# How far an artefact's results may be from the model's own.
TOLERANCE = 1e-4


def export(
    model: TrainedModel,
    data: Dataset,
    *,
    batch_size: int = 1,
    platforms: Sequence[str] = ("cpu", "cuda"),
    reconstruct: bool = False,
) -> Exported:
    """The function from images to results, with the parameters in it as constants.

    It takes uint8 [batch_size, H, W, C], images as the data set has them, and returns
    what `predict.make_predict` says. The batch size is fixed: convolutions
    and routing choose by it how they compute. Routing is that of plain XLA operations
    whatever the run's is, since a fused kernel is bound to one kind of GPU and to the
    version of JAX; its chunks suit the machine that exports.

    Args:
        model: the trained model.
        data: the run's data set, or another one of the same shape and classes.
        batch_size: images in each call.
        platforms: where it is to run, of `PLATFORMS`; it holds a program for each.
        reconstruct: whether reconstructions are among the results.

    Raises:
        UserError: an argument is out of range, or there is no decoder to reconstruct.
    """
    if batch_size < 1:
        raise UserError(f"the batch size is {batch_size}; choose at least 1")
    unknown = [name for name in platforms if name not in PLATFORMS]
    if unknown or not platforms:
        given = (
            f"unknown platform {unknown[0]!r}" if unknown else "no platform is given"
        )
        raise UserError(f"{given}; choose some of {', '.join(PLATFORMS)}")
    if reconstruct and not model.config.model.has_decoder:
        raise UserError(
            f"this run's {model.config.model.name} has no decoder to reconstruct with; "
            "export it without reconstructions"
        )
    config = _portable(model.config)
    graphdef = _structure(config, data)
    predict = make_predict(graphdef, config, reconstruct=reconstruct)
    variables = jax.device_put(jax.device_get(model.variables))

    @jax.jit
    def predict_images(images: jax.Array) -> dict[str, jax.Array]:
        return predict(variables, images)

    images = jax.ShapeDtypeStruct((batch_size, *data.image_shape), jnp.uint8)
    # A platform named twice would be one program too many.
    return export_jitted(predict_images, platforms=tuple(dict.fromkeys(platforms)))(
        images
    )


def _portable(config: Config) -> Config:
    """The config with routing that runs everywhere; the one passed in stays."""
    return config.replace(model=config.model.portable())


def _structure(config: Config, data: Dataset) -> nnx.GraphDef:
    """The structure of a config's model, without numbers in it."""
    shape = augment.output_shape(data.image_shape, config)
    model = nnx.eval_shape(
        lambda: models.build(config.model, shape, data.num_classes, nnx.Rngs(params=0))
    )
    return models.split(model)[0]


def outputs(exported: Exported) -> dict[str, jax.core.ShapedArray]:
    """Shape and dtype of each result, by its name."""
    return jax.tree.unflatten(exported.out_tree, exported.out_avals)


def describe(exported: Exported, model: TrainedModel, data: Dataset) -> dict[str, Any]:
    """What an artefact is: the part of its description that does not lie in files."""
    (images,) = exported.in_avals
    return {
        "batch_size": images.shape[0],
        "class_names": list(data.class_names),
        "commit": provenance.commit(),
        "data": data.name,
        "input": _as_json(images),
        "jax": jax.__version__,
        "model": model.config.model.name,
        "outputs": {name: _as_json(aval) for name, aval in outputs(exported).items()},
        "platforms": list(exported.platforms),
        "step": model.step,
    }


def _as_json(aval: jax.core.ShapedArray) -> dict[str, Any]:
    return {"shape": list(aval.shape), "dtype": aval.dtype.name}


def save(
    exported: Exported,
    description: dict[str, Any],
    path: pathlib.Path,
    folder: RunFolder,
) -> None:
    """Writes an artefact and its description, each as a whole or not at all.

    Args:
        exported: from `export`.
        description: from `describe`; the run's folder, as seen from the artefact's, and
            the artefact's hash are added.
        path: of the artefact, with `SUFFIX`. An earlier export of the run is replaced.
        folder: the run's.

    Raises:
        UserError: another suffix; or there is a file that is no export of this run; or
            it cannot be written.
    """
    check_path(path, folder)
    content = exported.serialize()
    description = description | {
        "run": folder.path.name,
        "run_folder": os.path.relpath(folder.path, path.absolute().parent),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # First, so that no artefact is left that nobody knows the run of.
        write_json(description_of(path), description)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def description_of(path: pathlib.Path) -> pathlib.Path:
    """Where the description of an artefact lies."""
    return path.with_suffix(".json")


def check_path(path: pathlib.Path, folder: RunFolder) -> None:
    """Checks that an artefact of a run may be written to a path.

    Raises:
        UserError: another suffix, or there is a file that is no export of this run.
    """
    if path.suffix != SUFFIX:
        raise UserError(f"{path} does not end in {SUFFIX}; choose a name that does")
    for file in (path, description_of(path)):
        if file.exists() and not _is_export_of(folder, path):
            raise UserError(
                f"{file} exists and is no export of {folder.path}; remove it, or "
                "choose another name"
            )


def _is_export_of(folder: RunFolder, path: pathlib.Path) -> bool:
    try:
        run_folder = json.loads(description_of(path).read_text())["run_folder"]
        return (path.parent / run_folder).resolve() == folder.path.resolve()
    except (OSError, ValueError, TypeError, KeyError):
        return False


def runs_here(exported: Exported) -> bool:
    """Whether an artefact has a program for this process's devices."""
    return default_export_platform() in exported.platforms


def check(
    path: pathlib.Path, model: TrainedModel, data: Dataset, images: np.ndarray
) -> float:
    """Loads an artefact and compares its results with those of the model itself.

    Both route with plain XLA operations: the fused kernels round more coarsely than
    `TOLERANCE`.

    Args:
        path: of the artefact.
        model: what it was made of.
        data: the data set that it was made with.
        images: uint8 [N, H, W, C], at least one; as many are taken as it has room for,
            and again from the first if they are too few.

    Returns:
        The largest difference over all results.

    Raises:
        RuntimeError: it is above `TOLERANCE`; the artefact and its description are
            removed.
    """
    exported = deserialize(bytearray(path.read_bytes()))
    (aval,) = exported.in_avals
    images = images[np.arange(aval.shape[0]) % len(images)]
    found = jax.device_get(exported.call(images))
    config = _portable(model.config)
    predict = make_predict(
        _structure(config, data), config, reconstruct="reconstructions" in found
    )
    expected = jax.device_get(jax.jit(predict)(model.variables, images))
    differences = jax.tree.map(lambda a, b: np.max(np.abs(a - b)), found, expected)
    largest = float(np.max(list(differences.values())))
    if not largest <= TOLERANCE:  # Nor is NaN.
        path.unlink()
        description_of(path).unlink()
        raise RuntimeError(
            f"the exported model's results differ from the model's own by "
            f"{largest:.2g}, more than {TOLERANCE:g}; {path} is removed"
        )
    return largest
