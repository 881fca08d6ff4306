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


def fit(x: Float[np.ndarray, "n P"], y: Float[np.ndarray, "n Q"]) -> Predict:
    """Fits ``y = x W + b``, with a penalty on W.

    The penalty is a multiple of the inputs' largest squared singular value: of powers
    of ten, the one with the least squared error of each example by the fit to the
    others.

    Args:
        x: inputs, at least two examples.
        y: outputs.
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
        # An example's own share in its prediction, the mean's part included.
        own = (left**2) @ kept + 1 / len(x)
        residuals = centred - left @ (kept[:, None] * projected)
        return float(np.sum((residuals / np.maximum(1 - own, 1e-12)[:, None]) ** 2))

    penalty = min(_PENALTIES, key=left_out_error)
    inverse = np.divide(
        shrink(penalty), sizes, out=np.zeros_like(sizes), where=sizes > 0
    )
    weights = right.T @ (inverse[:, None] * projected)
    return lambda inputs: (inputs - mean_x) @ weights + mean_y
