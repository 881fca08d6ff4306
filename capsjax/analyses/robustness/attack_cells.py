"""The attacks of an evaluation, each with its settings, and what each found.

A cell is one attack on one network at one radius. Its outcome is a file, so that an
evaluation that was stopped goes on, and depends on the cell, the images, the seed and
the network alone.
"""

import dataclasses
import io
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from capsjax import attacks
from capsjax.analyses.robustness.victims import Victim, batches
from capsjax.attacks import Found, objectives
from capsjax.attacks.balls import Norm
from capsjax.models.base import Gradient

# Images of a cell that are kept for pictures; of some cells all are kept.
SHOWN = 24


@dataclasses.dataclass(frozen=True)
class Cell:
    """An attack and its settings.

    Attributes:
        attack: name from `ATTACKS`.
        norm: norm in which it is bounded, or in which changes are measured.
        radius: radius of the ball; 0 for an attack without a bound.
        steps: steps, queries, draws or generations, whatever the attack has.
        restarts: random starts; images that are broken do not start again.
        objective: what it raises.
        gradient: what its gradient goes through.
        targeted: whether it wants a certain class, drawn for each image.
        evades: whether it counts only where the detector lets the image pass.
        distance_weight: weight of the squared distance to the reconstruction, which it
            keeps small.
        count: number of images, the first ones of the evaluation.
        keep: whether all its images are kept, not only `SHOWN`.
    """

    attack: str
    norm: Norm = "linf"
    radius: float = 0.0
    steps: int = 0
    restarts: int = 1
    objective: objectives.Name = "cross_entropy"
    gradient: Gradient = "routing"
    targeted: bool = False
    evades: bool = False
    distance_weight: float = 0.0
    count: int = 0
    keep: bool = False

    @property
    def name(self) -> str:
        """A name that no other cell has, for files and tables."""
        words = [self.attack]
        if self.radius:
            words += [self.norm, f"{self.radius:g}"]
        words += [f"{self.steps}x{self.restarts}", self.objective]
        words += [] if self.gradient == "routing" else [self.gradient]
        words += ["targeted"] * self.targeted
        words += [f"evades_{self.distance_weight:g}"] * self.evades
        return "-".join(words)

    @property
    def passes(self) -> int:
        """Gradients, or forward passes of attacks without, that an image may cost."""
        return ATTACKS[self.attack].make(self).passes * self.restarts


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of attack.

    Attributes:
        title: name in tables.
        make: function from a cell's settings to the attack.
        steps: number of steps by default.
        bounded: whether it searches in a ball.
        norms: norms that it is made for.
        gradients: whether it uses gradients.
        channels: number of channels that images must have; None for any.
    """

    title: str
    make: Callable[[Cell], Any]
    steps: int
    bounded: bool = True
    norms: tuple[Norm, ...] = ("linf", "l2")
    gradients: bool = True
    channels: int | None = None


def _few_pixels(count: int) -> Kind:
    return Kind(
        f"{count} pixel{'s' * (count > 1)}, evolution",
        lambda cell: attacks.FewPixels(count, generations=cell.steps),
        100,
        bounded=False,
        norms=("l2",),
        gradients=False,
    )


ATTACKS: Mapping[str, Kind] = MappingProxyType(
    {
        "noise": Kind(
            "random noise",
            lambda cell: attacks.Noise(cell.norm, cell.steps),
            50,
            gradients=False,
        ),
        "fgsm": Kind("FGSM", lambda cell: attacks.fgsm(cell.norm), 1),
        "bim": Kind("BIM", lambda cell: attacks.bim(cell.norm, cell.steps), 40),
        "pgd": Kind("PGD", lambda cell: attacks.pgd(cell.norm, cell.steps), 40),
        "mi_fgsm": Kind(
            "MI-FGSM", lambda cell: attacks.mi_fgsm(cell.norm, cell.steps), 10
        ),
        "square": Kind(
            "square",
            lambda cell: attacks.Square(cell.steps),
            500,
            norms=("linf",),
            gradients=False,
        ),
        "deepfool": Kind(
            "DeepFool",
            lambda cell: attacks.DeepFool(cell.steps),
            50,
            bounded=False,
            norms=("l2",),
        ),
        "carlini_wagner": Kind(
            "Carlini-Wagner",
            lambda cell: attacks.CarliniWagner(
                cell.steps, searches=5, learning_rate=0.1, first=0.1
            ),
            200,
            bounded=False,
            norms=("l2",),
        ),
        "every_pixel": Kind(
            "one pixel, all tried",
            lambda cell: attacks.EveryPixel((0.0, 0.5, 1.0)),
            0,
            bounded=False,
            norms=("l2",),
            gradients=False,
            channels=1,
        ),
        **{f"pixels_{count}": _few_pixels(count) for count in (1, 3, 5)},
    }
)
"""Kinds of attacks by name."""


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """The images of an evaluation, the same for all networks.

    Attributes:
        pixels: uint8 [N, H, W, C].
        labels: int32 [N].
        numbers: int [N], places in the test set, which determine random numbers.
        num_classes: number of classes.
        seed: seed of all draws.
    """

    pixels: np.ndarray
    labels: np.ndarray
    numbers: np.ndarray
    num_classes: int
    seed: int

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def values(self) -> np.ndarray:
        """The pixels as float32 in [0, 1]."""
        return self.pixels.astype(np.float32) / np.float32(255)

    @property
    def targets(self) -> np.ndarray:
        """A class for each image that is not its own, int32 [N]."""
        drawn = [
            np.random.default_rng((self.seed, int(number))).integers(
                1, self.num_classes
            )
            for number in self.numbers
        ]
        return ((self.labels + np.array(drawn)) % self.num_classes).astype(np.int32)

    def keys(self, restart: int) -> jax.Array:
        """Random keys of the images, [N]."""
        key = jax.random.fold_in(jax.random.key(self.seed), restart)
        return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(self.numbers))


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What an attack found.

    Attributes:
        success: bool [n], images on which the network errs as the attack wants.
        success_8_bits: the same after rounding to 8 bits, towards the image.
        distances: float32 [n], sizes of the changes in the cell's norm.
        predictions: int [n], what the network sees in the found images.
        trace: float32 [T], mean objective before each step of the first start.
        images: float32 [k, H, W, C], found images, all or the first.
        seconds: time that it took, with compilation.
    """

    success: np.ndarray
    success_8_bits: np.ndarray
    distances: np.ndarray
    predictions: np.ndarray
    trace: np.ndarray
    images: np.ndarray
    seconds: float

    def save(self, path: pathlib.Path) -> None:
        """Writes the outcome completely or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".tmp")
        with temporary.open("wb") as file:
            np.savez_compressed(file, **dataclasses.asdict(self))
        temporary.replace(path)

    @classmethod
    def load(cls, path: pathlib.Path) -> "Outcome":
        """Reads an outcome that `save` wrote."""
        # Of a damaged file, NumPy would leave the path open.
        with np.load(io.BytesIO(path.read_bytes())) as file:
            found = dict(file)
        return cls(**found | {"seconds": float(found["seconds"])})


def run(
    victim: Victim,
    cell: Cell,
    images: Images,
    batch_size: int,
    on_batch: Callable[[int], None] = lambda images: None,
) -> Outcome:
    """Attacks a network.

    Args:
        victim: the network.
        cell: the attack.
        images: images of the evaluation.
        batch_size: images of a batch.
        on_batch: function that is called after each batch with its number of images.

    Raises:
        NotApplicableError: the network has nothing for this attack.
    """
    began = time.monotonic()
    count = min(cell.count or len(images), len(images))
    batch_size = min(batch_size, count)
    clean = images.values[:count]
    labels = (images.targets if cell.targeted else images.labels)[:count]
    attack = _compiled(victim, cell)
    found, success = clean.copy(), np.zeros(count, bool)
    trace: list[np.ndarray] = []
    for restart in range(cell.restarts):
        rest = np.flatnonzero(~success)
        keys = np.asarray(jax.random.key_data(images.keys(restart)))[:count][rest]
        parts = zip(
            batches(clean[rest], batch_size),
            batches(labels[rest], batch_size),
            batches(keys, batch_size),
            strict=True,
        )
        for start, ((some, real), (own, _), (key, _)) in enumerate(parts):
            got = attack(some, own, jax.random.wrap_key_data(jnp.asarray(key)))
            places = rest[start * batch_size :][:real]
            found[places] = np.asarray(got.images)[:real]
            success[places] = np.asarray(got.success)[:real]
            if not restart:
                trace.append(np.asarray(got.trace)[:, :real])
            on_batch(real)
    # The image itself is in every ball.
    already = ~success & _succeeds(victim, cell, clean, labels, batch_size)
    found[already], success = clean[already], success | already
    rounded = in_8_bits(found, clean)
    change = (found - clean).reshape(count, -1)
    return Outcome(
        success=success,
        success_8_bits=_succeeds(victim, cell, rounded, labels, batch_size),
        distances=np.linalg.norm(change, np.inf if cell.norm == "linf" else 2, axis=1),
        predictions=victim.predictions(found, batch_size),
        trace=np.concatenate(trace, axis=1).mean(axis=1) if trace else np.zeros(0),
        images=found if cell.keep else found[:SHOWN],
        seconds=time.monotonic() - began,
    )


def _succeeds(
    victim: Victim,
    cell: Cell,
    images: np.ndarray,
    labels: np.ndarray,
    batch_size: int,
) -> np.ndarray:
    """Whether the network errs on images as the attack wants, bool [n]."""
    wanted = np.equal if cell.targeted else np.not_equal
    success = wanted(victim.predictions(images, batch_size), labels)
    if cell.evades:
        success &= victim.distances(images, batch_size) <= victim.threshold
    return success


def in_8_bits(images: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """Found images with 256 values for each pixel, rounded towards the clean ones."""
    bits = images.astype(np.float64) * 255
    # A pixel of 8 bits times 255 is a whole number but for float32's error.
    down, up = np.floor(bits + 1e-4), np.ceil(bits - 1e-4)
    return (np.where(images > clean, down, up) / 255).astype(np.float32)


def _compiled(victim: Victim, cell: Cell) -> Callable[..., Found]:
    """The compiled attack, from images, labels and keys; one for all radii."""
    settings = dataclasses.replace(cell, radius=0.0, count=0, keep=False, restarts=1)
    compiled = victim.programs.get(settings)
    if compiled is None:
        kind, attack = ATTACKS[cell.attack], ATTACKS[cell.attack].make(cell)

        def call(variables, images, labels, keys, radius):
            attacked = victim.attacked(
                variables,
                cell.objective,
                cell.gradient,
                targeted=cell.targeted,
                evades=cell.evades,
                distance_weight=cell.distance_weight,
            )
            bound = (radius,) if kind.bounded else ()
            return attack(attacked, images, labels, keys, *bound)

        compiled = victim.programs[settings] = jax.jit(call)
    radius = jnp.float32(cell.radius)
    return lambda *batch: compiled(victim.variables, *map(jnp.asarray, batch), radius)


def plan(
    names: Sequence[str],
    radii: Mapping[Norm, Sequence[float]],
    focus: Mapping[Norm, float],
    objectives_of: Sequence[objectives.Name],
    gradients: Sequence[Gradient],
    *,
    steps: int,
    restarts: int,
    pixel_images: int,
) -> list[Cell]:
    """The attacks of an evaluation of one network.

    Each bounded attack at each radius; at the ``focus`` also PGD with other objectives,
    gradients and targets, with twice the steps and twice the starts.

    Args:
        names: names of attacks.
        radii: radii of the balls in each norm.
        focus: the radius in each norm at which attacks are compared.
        objectives_of: objectives for this network, the first for all attacks.
        gradients: gradients that it has besides the one through its routing.
        steps: steps of BIM and PGD.
        restarts: random starts of PGD.
        pixel_images: images on which few pixels are changed.
    """
    found: list[Cell] = []
    first = objectives_of[0]
    for name in names:
        kind = ATTACKS[name]
        number = steps if name in ("bim", "pgd") else kind.steps
        starts = restarts if name == "pgd" else 1
        if not kind.bounded:
            pixels = "pixel" in name
            found.append(
                Cell(
                    name,
                    kind.norms[0],
                    steps=number,
                    objective="probability" if pixels else first,
                    count=pixel_images if pixels else 0,
                    keep=True,
                )
            )
            continue
        for norm in kind.norms:
            for radius in radii.get(norm, ()):
                at_focus = radius == focus[norm]
                if name in ("mi_fgsm", "square") and not at_focus:
                    continue
                objective = "logit_margin" if name == "square" else first
                found.append(
                    Cell(
                        name,
                        norm,
                        radius,
                        number,
                        starts,
                        objective,
                        keep=at_focus,
                    )
                )
    if "pgd" not in names:
        return found
    for norm in radii:
        base = Cell("pgd", norm, focus[norm], steps, restarts, first)
        found += [dataclasses.replace(base, objective=o) for o in objectives_of[1:]]
        found += [dataclasses.replace(base, gradient=g) for g in gradients]
        found += [
            dataclasses.replace(base, targeted=True),
            dataclasses.replace(base, steps=2 * steps),
            dataclasses.replace(base, restarts=2 * restarts),
        ]
    return found
