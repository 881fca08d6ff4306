"""How a config file reads the words after its colon."""

from collections.abc import Sequence

from capsjax.errors import UserError


def parse(words: str, presets: Sequence[str]) -> tuple[str, bool]:
    """Splits ``"authors_code,quick"`` into the preset and whether to be quick.

    Args:
        words: what follows the colon in ``--config=FILE:WORDS``; may be empty.
        presets: the config's; the first one is the default. Empty for a config that
            has none.

    Returns:
        The preset ("" without presets) and whether ``quick`` was among the words.

    Raises:
        UserError: an unknown word, or more than one preset.
    """
    given = [word for word in words.split(",") if word]
    chosen = [word for word in given if word != "quick"]
    unknown = [word for word in chosen if word not in presets]
    if unknown or len(chosen) > 1:
        raise UserError(
            f"unknown preset {words!r}; choose {' or '.join([*presets, 'quick'])}"
            + (", or one of them and quick, as in paper,quick" if presets else "")
        )
    preset = chosen[0] if chosen else (presets[0] if presets else "")
    return preset, "quick" in given
