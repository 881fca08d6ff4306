"""What a trained network has learned, and what it costs, in files of its run's folder.

Each part writes figures and rows into the folder ``inspection`` of the run, from where
its report takes them.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from capsjax import figures
from capsjax.analyses import (
    couplings,
    filters,
    layer_graph,
    layer_times,
    precision,
    receptive_field,
)
from capsjax.analyses.figures import inspection as plots
from capsjax.config import Config
from capsjax.data import Dataset
from capsjax.errors import NotApplicableError, UserError
from capsjax.models import Variables
from capsjax.runs import provenance, results
from capsjax.runs.folder import write_json
from capsjax.runs.progress import Progress
from capsjax.training import augment, initial
from capsjax.training import step as train_step
from capsjax.training.trained import TrainedModel

_UNIT_LAYERS, _UNITS = 4, 8
_MAX_CLASSES = 20


@dataclasses.dataclass(frozen=True, eq=False)
class Inspected:
    """A trained network, and what of it is looked at.

    Attributes:
        name: name of the run.
        model: the network.
        data: data set of the run; images with one label each.
        examples: numbers of test images.
        steps: steps of gradient ascent.
        batch_size: images of a timed batch.
        repeats: timed calls of each layer.
        output: folder of the files.
    """

    name: str
    model: TrainedModel
    data: Dataset
    examples: Sequence[int]
    steps: int
    batch_size: int
    repeats: int
    output: pathlib.Path

    @property
    def config(self) -> Config:
        """The run's config."""
        return self.model.config

    @functools.cached_property
    def variables(self) -> Variables:
        """The network's variables on the device, in the dtype of training."""
        return jax.device_put(self.model.variables)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape of the images that the network sees."""
        return augment.output_shape(self.data.image_shape, self.config)

    def seen(self, numbers: Sequence[int]) -> jax.Array:
        """Test images as the network sees them, [n, H, W, C]."""
        images = jnp.asarray(self.data.test.images[np.asarray(numbers)])
        return augment.for_evaluation(images, self.config)

    def title(self, what: str) -> str:
        """A title of a figure."""
        return f"{what}\n{self.config.model.name}, {self.data.title}, run {self.name}"


Captions = dict[str, str]


def inspect(inspected: Inspected, parts: Sequence[str]) -> list[str]:
    """Makes the files of some of `PARTS`; those of others stay as they are.

    Returns:
        What could not be shown, a sentence each.

    Raises:
        UserError: images show several classes each, or there is no such test image.
    """
    test = inspected.data.test
    if test.labels.ndim != 1:
        raise UserError(
            f"images of {inspected.data.name} have several labels each; choose a "
            "run on images with one"
        )
    for number in inspected.examples:
        if not 0 <= number < len(test):
            raise UserError(
                f"there is no test image {number}; {inspected.data.name} has "
                f"{len(test)}, counted from 0"
            )
    inspected.output.mkdir(parents=True, exist_ok=True)
    captions_file = inspected.output / "captions.json"
    captions = dict(_read_json(captions_file))
    left_out = []
    for part in parts:
        try:
            captions |= PARTS[part](inspected)
        except NotApplicableError as error:
            left_out.append(f"{part}: {error}")
    write_json(captions_file, captions)
    env = provenance.environment()
    measured = {"step": inspected.model.step, "parts": list(parts)}
    write_json(inspected.output / "provenance.json", env | measured)
    return left_out


def _filters(of: Inspected) -> Captions:
    graphdef, start = train_step.create(
        of.config, of.data.image_shape, of.data.num_classes
    )
    if of.config.init_from:
        try:
            start, _ = initial.taken(of.config, start, of.image_shape)
        except UserError as error:
            raise NotApplicableError(f"where training started: {error}") from error
    name, before, groups = filters.first_filters(
        graphdef, start.variables, of.image_shape
    )
    _, after, _ = filters.first_filters(of.model.graphdef, of.variables, of.image_shape)
    figure = plots.filters(
        of.title(f"Filters of the first layer, {name}"),
        {"before training": before, "trained": after},
    )
    figures.save(figure, of.output / "filters.png")
    norms = [np.linalg.norm(x.reshape(-1, x.shape[3]), axis=0) for x in (before, after)]
    moved = np.linalg.norm((after - before).reshape(-1, after.shape[3]), axis=0)
    found: dict[str, Any] = {
        "layer": name,
        "filters": after.shape[3],
        "norm_before": norms[0].tolist(),
        "norm_after": norms[1].tolist(),
        "distance_moved": moved.tolist(),
    }
    caption = (
        f"Filters of {name}, each scaled to its own range, as initialised and trained; "
        f"the median filter moved by {np.median(moved / norms[0]):.2g} of its first "
        "norm."
    )
    if groups > 1 and after.shape[2] == 3:
        colors = filters.saturation(filters.unit_range(np.moveaxis(after, 3, 0)))
        difference, share = filters.group_difference(colors, groups)
        found["saturation_difference_of_groups"] = difference
        found["share_of_random_groups_as_different"] = share
        caption += (
            f" The {groups} groups that the next convolution makes of them differ by "
            f"{difference:.3f} in mean saturation; of random groups, "
            f"{100 * share:.1f} % differ as much."
        )
    write_json(of.output / "filters.json", found)
    return {"filters.png": caption}


def _features(of: Inspected) -> Captions:
    captions = {}
    for number in of.examples:
        image = of.seen([number])[0]
        found = filters.features(of.model.graphdef, of.variables, image)
        if not found:
            raise NotApplicableError("no layer receives features at places")
        name = f"features_{number}.png"
        label = of.data.class_names[int(of.data.test.labels[number])]
        figure = plots.feature_maps(
            of.title(f"Features by depth, test image {number} ({label})"),
            filters.unit_range(np.asarray(image)[None])[0],
            found,
        )
        figures.save(figure, of.output / name)
        captions[name] = (
            f"What each layer receives for test image {number}, after the activations "
            "below it: the maps that vary most, each in its own range."
        )
    return captions


def _maximization(of: Inspected) -> Captions:
    graphdef, variables = of.model.graphdef, of.variables
    classes = list(range(of.data.num_classes))[:_MAX_CLASSES]
    units = filters.units(
        graphdef, variables, of.image_shape, layers=_UNIT_LAYERS, channels=_UNITS
    )
    with Progress("maximising activations", of.steps, unit="steps") as progress:
        images = filters.preferred(
            graphdef,
            variables,
            of.config,
            of.image_shape,
            classes=classes,
            units=units,
            steps=of.steps,
            seed=of.config.seed,
            on_step=lambda: progress.advance(1),
        )
    of_classes, of_units = images[: len(classes)], images[len(classes) :]
    scores = filters.scores_of(graphdef, variables, of.config, of_classes)
    own = scores[np.arange(len(classes)), classes]
    np.savez_compressed(
        of.output / "preferred_images.npz", classes=of_classes, units=of_units
    )
    figure = plots.preferred_of_classes(
        of.title(
            f"Images that the classes prefer, with their {of.config.model.scores}"
        ),
        of_classes,
        of.data.class_names,
        own,
    )
    figures.save(figure, of.output / "preferred_by_classes.png")
    won = int(np.sum(np.argmax(scores, axis=1) == classes))
    captions = {
        "preferred_by_classes.png": (
            f"For each class the image in [0, 1] that {of.steps} steps of gradient "
            "ascent make of grey, and its score. The network takes "
            f"{won} of {len(classes)} for that class."
        )
    }
    if units:
        figure = plots.preferred_of_units(
            of.title("Images that the units in the middle of some layers prefer"),
            of_units,
            units,
        )
        figures.save(figure, of.output / "preferred_by_units.png")
        captions["preferred_by_units.png"] = (
            "The same for the middle unit of some maps, by the depth of their layer."
        )
    return captions


def _couplings(of: Inspected) -> Captions:
    if not couplings.are_known(of.config):
        routing = of.config.model.routing
        raise NotApplicableError(
            f"{routing.name} routing does not tell its coupling coefficients"
            if routing
            else f"{of.config.model.name} has no routing"
        )
    images = of.seen(of.examples)
    found = couplings.couplings(of.model.graphdef, of.variables, images)
    labels = [int(of.data.test.labels[number]) for number in of.examples]
    figure = plots.couplings(
        of.title("Which primary capsules feed which class"),
        np.stack([filters.unit_range(x[None])[0] for x in np.asarray(images)]),
        found,
        of.data.class_names,
        labels,
    )
    figures.save(figure, of.output / "couplings.png")
    rows = []
    for number, label, by_type in zip(of.examples, labels, found.by_type, strict=True):
        for j, name in enumerate(of.data.class_names):
            columns = {
                "test image": number,
                "label": of.data.class_names[label],
                "class": name,
                "mean coupling": float(by_type[:, j].mean()),
                "of the type that sends it most": float(by_type[:, j].max()),
                "uniform": found.start,
            }
            rows.append(results.as_row(columns))
    results.write(of.output / "couplings.csv", rows)
    return {
        "couplings.png": (
            "Coupling coefficients of the last routing iteration: the mean over the "
            "types of capsules at each place, weighted by their lengths. White is the "
            "coefficient before routing; green the image's label."
        ),
        "couplings.csv": "Mean coupling coefficients, weighted by activity",
    }


def _receptive_field(of: Inspected) -> Captions:
    nodes = layer_graph.trace(of.model.graphdef, of.variables, of.image_shape)
    found = receptive_field.fields(nodes)
    results.write(of.output / "layers.csv", receptive_field.rows(nodes))
    results.write(of.output / "small_filters.csv", receptive_field.stacks())
    figure = plots.receptive_fields(
        of.title("What each layer sees, and its parameters"),
        nodes,
        found,
        of.image_shape,
    )
    figures.save(figure, of.output / "receptive_field.png")
    return {
        "receptive_field.png": (
            "Side of the square of pixels that one place of each layer sees, and the "
            "learned parameters of the layer; normalisations, which see no more, are "
            "left out."
        ),
        "layers.csv": "Layers in the order of their calls",
        "small_filters.csv": (
            "Stacks of 3x3 kernels and the one kernel that sees as much: weights of "
            "one channel without bias"
        ),
    }


def _times(of: Inspected) -> Captions:
    count = min(of.batch_size, len(of.data.test))
    images = of.seen(range(count))
    graphdef = of.model.graphdef
    calls = layer_times.count_calls(graphdef, of.variables, of.image_shape)
    total = calls * (of.repeats + 1)
    with Progress("timing layers", total, unit="calls") as progress:
        found, whole = layer_times.measure(
            graphdef,
            of.variables,
            images,
            of.config.dtype,
            repeats=of.repeats,
            on_call=lambda: progress.advance(1),
        )
    results.write(of.output / "layer_times.csv", layer_times.rows(found, whole))
    device = results.device_name(
        {k: str(v) for k, v in provenance.environment().items()}
    )
    figure = plots.times(
        of.title(f"Time of each layer, {count} images on {device}"), found, whole
    )
    figures.save(figure, of.output / "layer_times.png")
    return {
        "layer_times.png": (
            f"Median of {of.repeats} calls of each layer by itself, with {count} real "
            f"images, on {device}. The whole network has the functions between the "
            "layers, too, and gains by being compiled as one."
        ),
        "layer_times.csv": f"Time of each layer for {count} images",
    }


def _precision(of: Inspected) -> Captions:
    total = len(precision.FORMATS) * len(of.data.test)
    with Progress("testing rounded weights", total, unit="images") as progress:
        found = precision.measure(of.model, of.data, progress.advance)
    rows = []
    for one in found:
        columns = {
            "weights": one.format,
            "MB": one.weights_mb,
            "test error, %": one.error.value,
            "low": one.error.low,
            "high": one.error.high,
            "predictions changed, %": one.changed,
        }
        rows.append(results.as_row(columns))
    results.write(of.output / "precision.csv", rows)
    figure = plots.precision(of.title("Test error with rounded weights"), found)
    figures.save(figure, of.output / "precision.png")
    return {
        "precision.png": (
            f"Test error on {len(of.data.test):,} images with weights rounded after "
            "training, and its 95 % interval over images. Biases and normalisations "
            "stay float32, and the arithmetic is that of the run."
        ),
        "precision.csv": "Test error with rounded weights",
    }


PARTS: Mapping[str, Callable[[Inspected], Captions]] = MappingProxyType(
    {
        "filters": _filters,
        "features": _features,
        "maximization": _maximization,
        "couplings": _couplings,
        "receptive_field": _receptive_field,
        "times": _times,
        "precision": _precision,
    }
)
"""Questions by name; each function writes its files and returns their captions."""


def _read_json(path: pathlib.Path) -> dict[str, str]:
    return json.loads(path.read_text()) if path.exists() else {}
