"""An evaluation of several networks under attack, which can be stopped and goes on."""

import dataclasses
import hashlib
import json
import math
import pathlib
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from capsjax.analyses.robustness import attack_cells, detection, trust
from capsjax.analyses.robustness.attack_cells import ATTACKS, Cell, Images, Outcome
from capsjax.analyses.robustness.detection import Detected
from capsjax.analyses.robustness.trust import Evidence
from capsjax.analyses.robustness.victims import Victim
from capsjax.attacks import objectives
from capsjax.attacks.balls import Norm
from capsjax.errors import NotApplicableError, UserError
from capsjax.models.base import Gradient
from capsjax.runs import provenance
from capsjax.runs.folder import write_json
from capsjax.runs.progress import Progress

# What NumPy raises for files that are damaged, and `Outcome` for others than its own.
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile)

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
    kind = victim.model.config.model.scores
    planned = attack_cells.plan(
        names,
        settings.radii,
        settings.focus,
        objectives.for_gradients(kind),
        gradients,
        steps=settings.steps,
        restarts=settings.restarts,
        pixel_images=settings.pixel_images,
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


class Store:
    """The outcomes of an evaluation in a folder, one file each.

    Attributes:
        folder: the folder.
    """

    def __init__(self, folder: pathlib.Path, victim: Victim, images: Images):
        """Opens the folder of a network, or makes it.

        Raises:
            UserError: it holds outcomes of other parameters, images, seeds or
                thresholds.
        """
        self.folder = folder / victim.name
        about = {
            "parameters": provenance.sha256(victim.model.variables.params),
            "state": provenance.sha256(victim.model.variables.model_state),
            "images": hashlib.sha256(images.pixels.tobytes()).hexdigest(),
            "numbers": hashlib.sha256(images.numbers.tobytes()).hexdigest(),
            "seed": images.seed,
            "threshold": victim.threshold,
        }
        path = self.folder / "about.json"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(path, about)
            return
        before = json.loads(path.read_text())
        changed = [name for name in about if not _same(before.get(name), about[name])]
        if changed:
            raise UserError(
                f"{self.folder} holds attacks with other {', '.join(changed)}; choose "
                "another --output, or remove that folder"
            )

    def path(self, cell: Cell) -> pathlib.Path:
        """The file of a cell's outcome."""
        kept = "-all_images" if cell.keep else ""
        return self.folder / f"{cell.name}-{cell.count}{kept}.npz"

    def load(self, cell: Cell) -> Outcome:
        """The outcome of a cell.

        Raises:
            UserError: its file cannot be read.
        """
        path = self.path(cell)
        try:
            return Outcome.load(path)
        except _UNREADABLE as error:
            raise UserError(f"cannot read {path}: {error}; remove it") from error


def _same(before: object, now: object) -> bool:
    """Equal, or as thresholds that were computed in batches of different sizes."""
    if isinstance(before, float) and isinstance(now, float):
        return math.isclose(before, now, rel_tol=1e-5)
    return before == now


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


def seconds_per_image(
    victim: Victim, images: Images, batch_size: int
) -> tuple[float, float]:
    """Times a gradient and a forward pass, in seconds for an image."""
    clean = images.values[: min(len(images), batch_size)]
    some = dataclasses.replace(
        images,
        pixels=images.pixels[: len(clean)],
        labels=images.labels[: len(clean)],
        numbers=images.numbers[: len(clean)],
    )
    found = []
    for attack in ("bim", "noise"):
        cell = Cell(attack, "linf", 0.1, steps=4)
        attack_cells.run(victim, cell, some, batch_size)
        began = time.monotonic()
        attack_cells.run(victim, cell, some, batch_size)
        found.append((time.monotonic() - began) / len(clean) / cell.passes)
    return found[0], found[1]


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
        folder: folder of the outcomes.
        say: function that is told the costs beforehand.

    Raises:
        UserError: the folder holds other outcomes.
    """
    todo: list[tuple[Victim, Store, Cell]] = []
    plans, left_out = {}, {}
    for victim in victims:
        store = Store(folder, victim, images)
        plans[victim.name], left_out[victim.name] = planned(victim, settings)
        todo += [
            (victim, store, cell)
            for cell in plans[victim.name]
            if not store.path(cell).exists()
        ]
    costs = _costs(todo, images, settings.batch_size)
    done = sum(map(len, plans.values())) - len(todo)
    say(
        f"{len(todo)} attacks on {len(victims)} networks, {len(images)} images"
        + (f"; {done} were made before" if done else "")
        + f"; about {sum(costs) / 60:.0f} minutes at most"
    )
    outcomes: dict[str, dict[Cell, Outcome]] = {victim.name: {} for victim in victims}
    with Progress("attacking", max(round(sum(costs)), 1), unit="s") as progress:
        for (victim, store, cell), cost in zip(todo, costs, strict=True):
            progress.show(attack=f"{victim.name} {cell.name}")
            outcome = attack_cells.run(victim, cell, images, settings.batch_size)
            outcome.save(store.path(cell))
            progress.advance(round(cost))
    for victim in victims:
        store = Store(folder, victim, images)
        for cell in plans[victim.name]:
            outcomes[victim.name][cell] = store.load(cell)
    found = []
    for victim in victims:
        own = outcomes[victim.name]
        evidence = _evidence(victim, victims, outcomes, images, settings)
        detected: Mapping[Cell | None, Detected] = {}
        if victim.threshold is not None:
            detected = detection.detected(
                victim, own, images, evidence.wrong, settings.batch_size
            )
        found.append(Evaluated(victim, evidence, detected, left_out[victim.name]))
    return found


def _costs(
    todo: Sequence[tuple[Victim, Store, Cell]], images: Images, batch_size: int
) -> list[float]:
    """Seconds that each attack takes at most, by timing passes."""
    times = {
        victim.name: seconds_per_image(victim, images, batch_size)
        for victim in {id(one): one for one, *_ in todo}.values()
    }
    found = []
    for victim, _, cell in todo:
        gradient, forward = times[victim.name]
        passes = cell.passes
        if cell.attack == "every_pixel":
            passes *= images.pixels.shape[1] * images.pixels.shape[2]
        each = gradient if ATTACKS[cell.attack].gradients else forward
        found.append(passes * each * (cell.count or len(images)))
    return found


def _evidence(
    victim: Victim,
    victims: Sequence[Victim],
    outcomes: Mapping[str, Mapping[Cell, Outcome]],
    images: Images,
    settings: Settings,
) -> Evidence:
    clean = victim.predictions(images.values, settings.batch_size)
    transferred = {}
    for other in victims:
        if other.name == victim.name:
            continue
        for cell, outcome in outcomes[other.name].items():
            # An attack that evades a detector has another goal, by the same name.
            if cell.evades or not (cell.keep and cell.radius):
                continue
            if cell.attack in ("pgd", "mi_fgsm"):
                found = victim.predictions(outcome.images, settings.batch_size)
                name = f"{other.name} by {ATTACKS[cell.attack].title}"
                transferred[cell.norm, name] = found != images.labels
    return Evidence(
        outcomes[victim.name],
        clean != images.labels,
        settings.focus,
        transferred,
        trust.gradients(
            victim,
            images,
            objectives.for_gradients(victim.model.config.model.scores),
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
