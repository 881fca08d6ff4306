"""Linear regression with a penalty that the data choose.

References:
    Hoerl and Kennard 1970, "Ridge Regression"; Allen 1974, "The Relationship between
    Variable Selection and Data Augmentation and a Method for Prediction", for the
    errors of examples that are left out, without fitting again.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

_PENALTIES = 10.0 ** np.arange(-8, 4)

Predict = Callable[[Float[np.ndarray, "m P"]], Float[np.ndarray, "m Q"]]


def fit(
    x: Float[np.ndarray, "n P"], y: Float[np.ndarray, "n Q"], *, views: int = 1
) -> Predict:
    """Fits ``y = x W + b``, with a penalty on W.

    The penalty is a multiple of the inputs' largest squared singular value: of powers
    of ten, the one with the least squared error of each example by the fit to the
    others.

    Args:
        x: inputs, of at least two examples.
        y: outputs.
        views: rows of each example, which follow each other and are left out together.
    """
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    left, sizes, right = np.linalg.svd(x - mean_x, full_matrices=False)
    centred = y - mean_y
    projected = left.T @ centred
    largest = sizes[0] ** 2 if sizes[0] > 0 else 1.0

    def shrink(penalty: float) -> Float[np.ndarray, " k"]:
        return sizes**2 / (sizes**2 + penalty * largest)

    def left_out_error(penalty: float) -> float:
        kept = shrink(penalty)
        residuals = centred - left @ (kept[:, None] * projected)
        parts = left.reshape(-1, views, left.shape[1])
        # An example's own share in its prediction, the mean's part included.
        own = (parts * kept) @ parts.swapaxes(1, 2) + 1 / len(x)
        # A little more than 1 keeps examples that nothing else determines finite.
        rest = (1 + 1e-9) * np.eye(views) - own
        return float(
            np.sum(np.linalg.solve(rest, residuals.reshape(len(parts), views, -1)) ** 2)
        )

    penalty = min(_PENALTIES, key=left_out_error)
    inverse = np.divide(
        shrink(penalty), sizes, out=np.zeros_like(sizes), where=sizes > 0
    )
    weights = right.T @ (inverse[:, None] * projected)
    return lambda inputs: (inputs - mean_x) @ weights + mean_y
