"""Splits of labelled images into training, validation and test examples."""

import hashlib

import numpy as np

from capsjax.data.datasets import ImageSet, empty_like
from capsjax.errors import UserError

SPLIT_SEED = 0
"""Seed of every split made here: all runs, whatever their seed, share one split."""


def content_key(content: bytes) -> int:
    """Returns a hash of an example's bytes, uniform in 0..2**64 - 1."""
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big")


def carve(
    image_set: ImageSet, num_held_out: int, seed: int
) -> tuple[ImageSet, ImageSet]:
    """Splits off examples at random, each class in proportion to its frequency.

    Both parts keep the order of `image_set` and have an example of every class. A split
    for which that is impossible is refused: a held-out part in which classes are absent
    measures something else than it seems to.

    Args:
        image_set: N examples. If they have keys, each class's smallest ones are held
            out, so that a few more examples change little of the choice.
        num_held_out: the number of examples to hold out; 0 gives an empty part.
        seed: the seed of the choice among examples without keys.

    Returns:
        The N - num_held_out remaining examples and the held-out ones.

    Raises:
        UserError: `num_held_out` is negative or leaves no example, a class has a single
            example, or a part would have fewer examples than there are classes.
    """
    n = len(image_set)
    if not 0 <= num_held_out < n:
        raise UserError(
            f"cannot hold out {num_held_out} of {n} examples; choose 0..{n - 1}"
        )
    if num_held_out == 0:
        return image_set, empty_like(image_set)

    classes, counts = np.unique(image_set.labels, return_counts=True)
    if counts.min() < 2:
        raise UserError(
            f"cannot hold out examples class by class: class {classes[counts.argmin()]}"
            " has a single example; give every class at least 2"
        )
    if min(num_held_out, n - num_held_out) < len(classes):
        raise UserError(
            f"cannot hold out {num_held_out} of {n} examples class by class: each part "
            f"needs at least one example for each of the {len(classes)} classes"
        )
    order: np.ndarray | None = image_set.keys
    if order is None:
        # Imported here since it takes a second, which most runs need not spend.
        from sklearn.model_selection import train_test_split

        parts = train_test_split(
            np.arange(n),
            test_size=num_held_out,
            stratify=image_set.labels,
            random_state=seed,
        )
        if all(len(np.unique(image_set.labels[p])) == len(classes) for p in parts):
            return _divided(image_set, parts[1])
        # It rounds a rare class's share to nothing.
        order = np.random.default_rng(seed).permutation(n)
    held_out = [
        members[np.argsort(order[members], kind="stable")[:quota]]
        for members, quota in zip(
            (np.flatnonzero(image_set.labels == label) for label in classes),
            _quotas(counts, num_held_out),
            strict=True,
        )
    ]
    return _divided(image_set, np.concatenate(held_out))


def _quotas(counts: np.ndarray, total: int) -> np.ndarray:
    """Divides `total` in proportion to `counts`, each in 1..count - 1."""
    ideal = total * counts / counts.sum()
    quotas = np.clip(np.floor(ideal).astype(int), 1, counts - 1)
    while (missing := total - quotas.sum()) != 0:
        sign = np.sign(missing)
        possible = quotas < counts - 1 if sign > 0 else quotas > 1
        quotas[np.argmax(np.where(possible, sign * (ideal - quotas), -np.inf))] += sign
    return quotas


def _divided(image_set: ImageSet, held_out: np.ndarray) -> tuple[ImageSet, ImageSet]:
    """Returns the other examples and those at `held_out`, in their order."""
    rest = np.setdiff1d(np.arange(len(image_set)), held_out)
    return image_set.take(rest), image_set.take(np.sort(held_out))


def few_of_each_class(image_set: ImageSet, count: int, choice: int) -> ImageSet:
    """Chooses a few images of each class, and repeats them to the same length.

    Choices of the same number are nested: more images contain the fewer ones. An epoch
    is as long as it was, so that runs differ in nothing but what they see.

    Args:
        image_set: N examples with one label each.
        count: examples of each class.
        choice: number of the random choice.

    Returns:
        N examples, in which all chosen ones are as frequent as N permits.

    Raises:
        UserError: a class has fewer examples.
    """
    chosen = []
    for label in np.unique(image_set.labels):
        members = np.flatnonzero(image_set.labels == label)
        if len(members) < count:
            raise UserError(
                f"config.data.train_per_class is {count}, but class {label} has only "
                f"{len(members)} training images"
            )
        rng = np.random.default_rng([choice, int(label)])
        chosen.append(rng.permutation(members)[:count])
    # The classes take turns, so that what is repeated once more is of all of them.
    in_turn = np.stack(chosen, axis=1).ravel()
    return image_set.take(np.resize(in_turn, len(image_set)))


def carve_test(image_set: ImageSet, what: str) -> tuple[ImageSet, ImageSet]:
    """Splits about a fifth off as a test set, for data that come without one.

    If the examples have keys, the test set is all those whose key is in the lowest
    fifth of all possible keys. That depends on nothing but the example's bytes, so that
    a test example stays one when others are added, removed or renamed, and copies of an
    example never lie on both sides. (Only a class without such an example, or with no
    others, gives one of its examples to the part that lacks it.)

    Args:
        image_set: all examples.
        what: their origin, which begins the error texts.

    Returns:
        Training and test examples, both with every class.

    Raises:
        UserError: too few examples of some class, see `carve`.
    """
    classes, counts = np.unique(image_set.labels, return_counts=True)
    keys = image_set.keys
    if keys is None or not len(counts) or counts.min() < 2:
        size = max(round(len(image_set) / 5), len(classes))
        try:
            return carve(image_set, size, SPLIT_SEED)
        except UserError as error:
            raise UserError(
                f"{what}, from which a test set is split: {error}"
            ) from None
    is_test = keys < 2**64 // 5
    for label in classes:
        members = np.flatnonzero(image_set.labels == label)
        lowest, *_, highest = members[np.argsort(keys[members], kind="stable")]
        is_test[lowest], is_test[highest] = True, False
    return _divided(image_set, np.flatnonzero(is_test))
