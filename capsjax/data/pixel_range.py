"""The range of pixel values: images of any range become 0..255."""

import numpy as np
import numpy.typing as npt

from capsjax.errors import UserError

# Of 0..255.
_LEAST_RANGE = 64
# The largest values of 1, 4, 8, 10, 12, 14 and 16 bits.
_WHITES = (1, 15, 255, 1_023, 4_095, 16_383, 65_535)


def scaled(values: np.ndarray, max_value: float, what: str) -> npt.NDArray[np.uint8]:
    """Scales pixel values 0..max_value to uint8 0..255.

    Raises:
        UserError: `what` has a value outside 0..max_value.
    """
    lowest, highest = float(values.min(initial=0)), float(values.max(initial=0)) + 0.0
    if not 0 <= lowest <= highest <= max_value:  # Catches NaN, too.
        raise UserError(
            f"{what}: pixel values span {lowest:g}..{highest:g}, outside "
            f"0..{max_value:g}; set config.data.max_value to the value of white"
        )
    return np.rint(values.astype(np.float64) * (255 / max_value)).astype(np.uint8)


def check_range(
    images: npt.NDArray[np.uint8], what: str, *, peak: int, full: int
) -> None:
    """Refuses images that use less than a quarter of the range 0..255.

    Args:
        images: the images as they would be trained on.
        what: the images' origin, which begins the error text.
        peak: the largest value as stored.
        full: the largest value of the stored format.

    Raises:
        UserError: they do.
    """
    if int(images.max(initial=0)) - int(images.min(initial=255)) >= _LEAST_RANGE:
        return
    white = next(value for value in _WHITES if value >= peak or value >= full)
    such_as = f", such as {white}" if white < full else ""
    raise UserError(
        f"{what}: pixel values lie within {images.min()}..{images.max()} of 0..255, "
        f"nearly one shade (the largest stored value is {peak} of {full}); set "
        f"config.data.max_value to the value of white{such_as}, or to {full} to use "
        "them unchanged"
    )
