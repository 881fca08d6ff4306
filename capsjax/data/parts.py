"""Data that come divided: the names of their training, validation and test part."""

from collections.abc import Iterable, Sequence

from capsjax.errors import UserError

TRAIN, VALIDATION, TEST = "train", "validation", "test"

NAMES = {
    TRAIN: ("train", "training"),
    VALIDATION: ("val", "valid", "validation"),
    TEST: ("test", "testing"),
}
"""Usual names of each part, in small letters."""

_EARLIER = ("train", "test")  # Names that versions knew without a validation part.


def find(names: Iterable[str], *, given: bool, where: str) -> dict[str, str]:
    """Finds out which names are those of parts.

    Args:
        names: names of folders, for instance.
        given: whether all parts are looked for, in any capitals, as with
            ``config.data.parts`` "given"; else those that earlier versions knew.
        where: where the names come from, which begins the error text.

    Returns:
        The name of each part that there is.

    Raises:
        UserError: there is a training part, and two names of one part.
    """
    known: dict[str, list[str]] = {}
    for name in sorted(names):
        part = part_of(name)
        if part and (given or name in _EARLIER):
            known.setdefault(part, []).append(name)
    for part, same in known.items():
        if TRAIN in known and len(same) > 1:
            raise UserError(
                f"{where} has both {same[0]} and {same[1]}, which are names of one "
                f"part, {part}; rename or remove one"
            )
    return {part: same[0] for part, same in known.items()}


def part_of(name: str) -> str:
    """The part that a name means, in any capitals; "" if none."""
    low = name.strip().lower()
    return next((part for part, known in NAMES.items() if low in known), "")


def numbers_in_words(numbers: Sequence[tuple[str, int]]) -> str:
    """Says how many images the parts have: "6 training, 2 validation and 3 test"."""
    words = [
        f"{number} {'training' if part == TRAIN else part}" for part, number in numbers
    ]
    return " and ".join([", ".join(words[:-1]), words[-1]])
