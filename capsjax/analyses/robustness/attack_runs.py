"""Attacks on images of an evaluation, and what each found.

An outcome depends on the attack, the images, the seed and the network alone.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from capsjax.analyses.robustness.attack_cells import ATTACKS, Cell
from capsjax.analyses.robustness.cells import Arrays
from capsjax.analyses.robustness.victims import Victim, batches
from capsjax.attacks import Found

# Images of a cell that are kept for pictures, where not all are.
_SHOWN = 24


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
        commit: the commit that found it, once it is kept.
    """

    success: np.ndarray
    success_8_bits: np.ndarray
    distances: np.ndarray
    predictions: np.ndarray
    trace: np.ndarray
    images: np.ndarray
    seconds: float
    commit: str = ""

    @property
    def arrays(self) -> Arrays:
        """The outcome as `cells.Cells` keeps it."""
        return {name: np.asarray(x) for name, x in dataclasses.asdict(self).items()}

    @classmethod
    def of(cls, arrays: Arrays) -> "Outcome":
        """The outcome of what `cells.Cells` has kept."""
        words: dict[str, Any] = {
            "seconds": float(arrays["seconds"]),
            "commit": str(arrays["commit"]),
        }
        return cls(**(arrays | words))


def run(
    victim: Victim,
    cell: Cell,
    images: Images,
    batch_size: int,
) -> Outcome:
    """Attacks a network.

    Args:
        victim: the network.
        cell: the attack.
        images: images of the evaluation.
        batch_size: images of a batch.

    Raises:
        NotApplicableError: the network has nothing for this attack.
    """
    began = time.monotonic()
    count = min(cell.count or len(images), len(images))
    batch_size = min(batch_size, count)
    clean = images.values[:count]
    labels = (images.targets if cell.targeted else images.labels)[:count]
    attack = _attack(victim, cell)
    found, success = clean.copy(), np.zeros(count, bool)
    trace: list[np.ndarray] = []
    for restart in range(1 if ATTACKS[cell.attack].starts else cell.restarts):
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
            new = np.asarray(got.success)[:real]
            # Where no start succeeds, the first one's best images stay.
            better = places if not restart else places[new]
            found[better] = np.asarray(got.images)[:real][np.isin(places, better)]
            success[places] = new
            if not restart:
                trace.append(np.asarray(got.trace)[:, :real])
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
        images=found if cell.keep else found[:_SHOWN],
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


def _attack(victim: Victim, cell: Cell) -> Callable[..., Found]:
    """The attack, from images, labels and keys."""
    kind = ATTACKS[cell.attack]
    attack = kind.make(cell)
    attacked = victim.attacked(
        cell.objective or "logit_margin",
        cell.gradient,
        targeted=cell.targeted,
        evades=cell.evades,
        distance_weight=cell.distance_weight,
    )
    bound = (jnp.float32(cell.radius),) if kind.bounded else ()
    return lambda *batch: attack(attacked, *map(jnp.asarray, batch), *bound)
