"""An evaluation of several networks under attack, which can be stopped and goes on."""

import dataclasses
import hashlib
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from capsjax.analyses.robustness import attack_cells, attack_runs, detection, trust
from capsjax.analyses.robustness.attack_cells import ATTACKS, Cell
from capsjax.analyses.robustness.attack_runs import Images, Outcome
from capsjax.analyses.robustness.cells import Cells
from capsjax.analyses.robustness.detection import Detected
from capsjax.analyses.robustness.trust import Evidence
from capsjax.analyses.robustness.victims import Victim
from capsjax.attacks import objectives
from capsjax.attacks.balls import Norm
from capsjax.errors import NotApplicableError
from capsjax.models.base import Gradient
from capsjax.runs.progress import Progress

# A gradient with its forward pass, in forward passes; and seconds of a compilation.
_GRADIENT_COSTS, _COMPILATION = 4, 3.0

_GRADIENTS: tuple[Gradient, ...] = ("held", "votes")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is attacked with, besides the images.

    Attributes:
        attacks: names of attacks.
        radii: radii of the balls in each norm.
        focus: the radius in each norm at which attacks are compared.
        steps: steps of BIM and PGD.
        restarts: random starts of PGD.
        pixel_images: images on which few pixels are changed.
        batch_size: images of a batch.
    """

    attacks: tuple[str, ...]
    radii: Mapping[Norm, tuple[float, ...]]
    focus: Mapping[Norm, float]
    steps: int
    restarts: int
    pixel_images: int
    batch_size: int


def planned(victim: Victim, settings: Settings) -> tuple[list[Cell], list[str]]:
    """The attacks on a network, and what is left out, a sentence each."""
    names, gradients, left_out = [], [], []
    channels = victim.image_shape[2]
    for name in settings.attacks:
        wanted = ATTACKS[name].channels
        if wanted in (None, channels):
            names.append(name)
        else:
            left_out.append(
                f"{victim.name}, {ATTACKS[name].title}: made for images of {wanted} "
                f"channel, not of {channels}"
            )
    for gradient in _GRADIENTS:
        try:
            victim.graphdef(gradient)
            gradients.append(gradient)
        except NotApplicableError as error:
            if victim.model.config.model.routing is not None:
                left_out.append(f"{victim.name}, gradient of {gradient}: {error}")
    config = victim.model.config
    planned = attack_cells.plan(
        names,
        settings.radii,
        settings.focus,
        objectives.for_gradients(config.model.scores, config.loss),
        gradients,
        steps=settings.steps,
        restarts=settings.restarts,
        pixel_images=settings.pixel_images,
    )
    if victim.threshold is None and config.model.has_decoder:
        left_out.append(
            f"{victim.name}, reconstruction as a detector: not asked for, or there are "
            "no validation images that this network was not trained on"
        )
    if victim.threshold is not None and "pgd" in settings.attacks:
        for norm, radius in settings.focus.items():
            base = next(
                cell
                for cell in planned
                if (cell.attack, cell.norm, cell.radius) == ("pgd", norm, radius)
            )
            planned += detection.knowing(base)
    return planned, left_out


def _key(victim: Victim, images: Images, cell: Cell) -> dict[str, Any]:
    """All that the outcome of a cell depends on, besides the program."""
    return {
        **victim.identity,
        "images": hashlib.sha256(images.pixels.tobytes()).hexdigest(),
        "labels": hashlib.sha256(images.labels.tobytes()).hexdigest(),
        "num_classes": images.num_classes,
        "numbers": hashlib.sha256(images.numbers.tobytes()).hexdigest(),
        "seed": images.seed,
        # Batches of other sizes are summed up in another order.
        "threshold": f"{victim.threshold:.5g}" if cell.evades else None,
        "attack": dataclasses.asdict(cell),
    }


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluated:
    """A network and all that was found about it.

    Attributes:
        victim: the network.
        evidence: outcomes of the attacks, and what they are compared with.
        detected: what the detector says, see `detection.detected`; empty without one.
        left_out: what could not be attacked, a sentence each.
    """

    victim: Victim
    evidence: Evidence
    detected: Mapping[Cell | None, Detected]
    left_out: list[str]


def seconds_per_image(victim: Victim, images: Images, batch_size: int) -> float:
    """Times a forward pass, in seconds for an image."""
    batch = images.values[:batch_size]
    victim.predictions(batch, len(batch))
    began = time.monotonic()
    victim.predictions(batch, len(batch))
    return (time.monotonic() - began) / len(batch)


def evaluate(
    victims: Sequence[Victim],
    images: Images,
    settings: Settings,
    folder: pathlib.Path,
    say: Callable[[str], None] = print,
) -> list[Evaluated]:
    """Makes all attacks that are not in the folder yet.

    Args:
        victims: the networks.
        images: the images, the same for all.
        settings: the attacks.
        folder: folder of the results; outcomes are kept in its ``cells``.
        say: function that is told the costs beforehand.
    """
    kept = Cells(folder / "cells")
    plans, left_out = {}, {}
    outcomes: dict[str, dict[Cell, Outcome]] = {}
    todo: list[tuple[Victim, Cell]] = []
    for victim in victims:
        plans[victim.name], left_out[victim.name] = planned(victim, settings)
        outcomes[victim.name] = {}
        for cell in plans[victim.name]:
            key = _key(victim, images, cell)
            if (arrays := kept.read(victim.name, cell.name, key)) is None:
                todo.append((victim, cell))
            else:
                outcomes[victim.name][cell] = Outcome.of(arrays)
    costs = _costs(todo, images, settings.batch_size)
    done = sum(map(len, outcomes.values()))
    say(
        f"{len(todo)} attacks on {len(victims)} networks, {len(images)} images"
        + (f"; {done} were made before" if done else "")
        + f"; about {sum(costs) / 60:.0f} minutes at most"
    )
    with Progress("attacking", max(round(sum(costs)), 1), unit="s") as progress:
        for (victim, cell), cost in zip(todo, costs, strict=True):
            progress.show(attack=f"{victim.name} {cell.name}")
            outcome = attack_runs.run(victim, cell, images, settings.batch_size)
            key = _key(victim, images, cell)
            arrays = kept.write(victim.name, cell.name, key, outcome.arrays)
            outcomes[victim.name][cell] = Outcome.of(arrays)
            progress.advance(round(cost))
    found = []
    for victim in victims:
        # In the order of the plan, whatever was made before.
        own = {cell: outcomes[victim.name][cell] for cell in plans[victim.name]}
        evidence = _evidence(victim, own, outcomes, victims, images, settings)
        detected: Mapping[Cell | None, Detected] = {}
        if victim.threshold is not None:
            detected = detection.detected(
                victim, own, images, evidence.wrong, settings.batch_size
            )
        found.append(Evaluated(victim, evidence, detected, left_out[victim.name]))
    return found


def _costs(
    todo: Sequence[tuple[Victim, Cell]], images: Images, batch_size: int
) -> list[float]:
    """Seconds that each attack takes at most, by timing passes."""
    times = {
        victim.name: seconds_per_image(victim, images, batch_size)
        for victim in {id(one): one for one, _ in todo}.values()
    }
    found = []
    for victim, cell in todo:
        passes = cell.passes
        if cell.attack == "every_pixel":
            passes *= images.pixels.shape[1] * images.pixels.shape[2]
        each = times[victim.name]
        if ATTACKS[cell.attack].gradients:
            each *= _GRADIENT_COSTS
        found.append(_COMPILATION + passes * each * (cell.count or len(images)))
    return found


def _evidence(
    victim: Victim,
    own: Mapping[Cell, Outcome],
    outcomes: Mapping[str, Mapping[Cell, Outcome]],
    victims: Sequence[Victim],
    images: Images,
    settings: Settings,
) -> Evidence:
    config = victim.model.config
    clean = victim.predictions(images.values, settings.batch_size)
    transferred = {}
    for other in victims:
        if other.name == victim.name:
            continue
        for cell, outcome in outcomes[other.name].items():
            if cell.keep and cell.attack == "mi_fgsm":
                found = victim.predictions(outcome.images, settings.batch_size)
                name = f"{other.name} by {ATTACKS[cell.attack].title}"
                transferred[cell.norm, name] = found != images.labels
    return Evidence(
        own,
        clean != images.labels,
        settings.focus,
        transferred,
        trust.gradients(
            victim,
            images,
            objectives.for_gradients(config.model.scores, config.loss),
            settings.batch_size,
        ),
    )


def drawn(
    pixels: np.ndarray, labels: np.ndarray, num_classes: int, count: int, seed: int
) -> Images:
    """The images of an evaluation, drawn from a test set.

    Args:
        pixels: uint8 [M, H, W, C] of the test set.
        labels: int32 [M].
        num_classes: number of classes.
        count: number of images; 0 for all, in their order.
        seed: seed of the choice and of all attacks.
    """
    numbers = np.arange(len(labels))
    if 0 < count < len(labels):
        numbers = np.random.default_rng(seed).permutation(len(labels))[:count]
    return Images(pixels[numbers], labels[numbers], numbers, num_classes, seed)
