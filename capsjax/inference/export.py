"""A trained model as one file that runs without this project: a `jax.export` artefact.

The artefact, ``NAME.jaxexport``, has a description beside it, ``NAME.json``.
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
from capsjax.data import Dataset
from capsjax.errors import UserError
from capsjax.inference.predict import Predict, make_predict
from capsjax.runs import provenance
from capsjax.runs.folder import RunFolder, write_json, write_whole
from capsjax.training import augment
from capsjax.training.trained import TrainedModel

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
SUFFIX = ".jaxexport"
# Largest difference between an artefact's results and the model's own.
TOLERANCE = 1e-4


def export(
    model: TrainedModel,
    data: Dataset,
    *,
    batch_size: int = 1,
    platforms: Sequence[str] = ("cpu", "cuda"),
    reconstruct: bool = False,
) -> Exported:
    """Exports the function from images to results, with the parameters as constants.

    It takes uint8 [batch_size, H, W, C], images as the data set has them, and returns
    the results of `predict.make_predict`. The batch size is fixed, because convolutions
    and routing choose their implementation by it. Routing uses plain XLA operations
    whatever the run used, since a fused kernel is bound to one kind of GPU and to the
    version of JAX; its chunks suit the machine that exports.

    Args:
        model: the trained model.
        data: the run's data set, or another one of the same shape and classes.
        batch_size: number of images in each call.
        platforms: platforms to run on, from `PLATFORMS`; each gets a program.
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
    predict = _portable_predict(model, data, reconstruct=reconstruct)
    variables = jax.device_put(jax.device_get(model.variables))

    @jax.jit
    def predict_images(images: jax.Array) -> dict[str, jax.Array]:
        return predict(variables, images)

    images = jax.ShapeDtypeStruct((batch_size, *data.image_shape), jnp.uint8)
    once_each = tuple(dict.fromkeys(platforms))
    return export_jitted(predict_images, platforms=once_each)(images)


def _portable_predict(
    model: TrainedModel, data: Dataset, *, reconstruct: bool
) -> Predict:
    """The inference function of the model with routing that runs everywhere."""
    config = model.config.replace(model=model.config.model.portable())
    shape = augment.output_shape(data.image_shape, config)
    structure = nnx.eval_shape(
        lambda: models.build(config.model, shape, data.num_classes, nnx.Rngs(params=0))
    )
    return make_predict(models.split(structure)[0], config, reconstruct=reconstruct)


def outputs(exported: Exported) -> dict[str, jax.core.ShapedArray]:
    """Returns the shape and dtype of each result, by its name."""
    return jax.tree.unflatten(exported.out_tree, exported.out_avals)


def describe(exported: Exported, model: TrainedModel, data: Dataset) -> dict[str, Any]:
    """Returns the part of an artefact's description that does not depend on files."""

    def as_json(aval: jax.core.ShapedArray) -> dict[str, Any]:
        return {"shape": list(aval.shape), "dtype": aval.dtype.name}

    (images,) = exported.in_avals
    return {
        "batch_size": images.shape[0],
        "class_names": list(data.class_names),
        "commit": provenance.commit(),
        "data": data.name,
        "input": as_json(images),
        "jax": jax.__version__,
        "model": model.config.model.name,
        "outputs": {name: as_json(aval) for name, aval in outputs(exported).items()},
        "platforms": list(exported.platforms),
        "step": model.step,
    }


def save(
    exported: Exported,
    description: dict[str, Any],
    path: pathlib.Path,
    folder: RunFolder,
) -> None:
    """Writes an artefact and its description, each completely or not at all.

    Args:
        exported: the artefact, from `export`.
        description: its description, from `describe`; the artefact's hash and the
            path from it to the run's folder are added.
        path: the artefact's path, with `SUFFIX`. An earlier export of the run is
            replaced.
        folder: the run's folder.

    Raises:
        UserError: the path is not valid, see `check_path`, or cannot be written.
    """
    check_path(path, folder)
    content = exported.serialize()
    description = description | {
        "run": folder.path.name,
        "run_folder": os.path.relpath(folder.path, path.absolute().parent),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # First, so that every artefact has a description.
        write_json(path.with_suffix(".json"), description)
        write_whole(path, content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def check_path(path: pathlib.Path, folder: RunFolder) -> None:
    """Checks that an artefact of a run may be written to a path.

    Raises:
        UserError: wrong suffix, or there is a file that is not an export of this run.
    """
    if path.suffix != SUFFIX:
        raise UserError(f"{path} does not end in {SUFFIX}; choose a name that does")
    description = path.with_suffix(".json")
    try:
        run_folder = path.parent / json.loads(description.read_text())["run_folder"]
        is_own = run_folder.resolve() == folder.path.resolve()
    except (OSError, ValueError, TypeError, KeyError):
        is_own = False
    for file in (path, description):
        if file.exists() and not is_own:
            raise UserError(
                f"{file} exists and is not an export of {folder.path}; remove it, or "
                "choose another name"
            )


def runs_here(exported: Exported) -> bool:
    """Returns whether an artefact has a program for this process's devices."""
    return default_export_platform() in exported.platforms


def check(
    path: pathlib.Path, model: TrainedModel, data: Dataset, images: np.ndarray
) -> float:
    """Loads an artefact and compares its results with those of the model itself.

    Both route with plain XLA operations: the fused kernels round more coarsely than
    `TOLERANCE`.

    Args:
        path: the artefact's path.
        model: the exported model.
        data: the data set that it was exported with.
        images: uint8 [N, H, W, C], at least one; the artefact's batch is filled with
            the first ones, repeated if there are too few.

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
    predict = _portable_predict(model, data, reconstruct="reconstructions" in found)
    expected = jax.device_get(jax.jit(predict)(model.variables, images))
    differences = jax.tree.map(lambda a, b: np.max(np.abs(a - b)), found, expected)
    largest = float(np.max(list(differences.values())))
    if not largest <= TOLERANCE:  # NaN fails too.
        path.unlink()
        path.with_suffix(".json").unlink()
        raise RuntimeError(
            f"the exported model's results differ from the model's own by "
            f"{largest:.2g}, more than {TOLERANCE:g}; {path} is removed"
        )
    return largest
