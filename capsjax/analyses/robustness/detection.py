"""The error of the reconstruction as a detector of attacks.

The decoder draws the image again from the pose of the predicted class. An image whose
reconstruction is further from it than those of 95 % of the validation images is refused
as an attack; so 5 % of honest images are refused, too. An attack that knows of the
detector also keeps this distance small, and counts only where it is not refused.

References:
    Frosst, Sabour and Hinton 2018, "DARCCC: Detecting Adversaries by Reconstruction
    from Class Conditional Capsules".
    Qin et al. 2020, "Detecting and Diagnosing Adversarial Images with Class-Conditional
    Capsule Reconstructions", for the attack that knows of it.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.metrics import roc_auc_score

from capsjax.analyses.robustness.attack_cells import Cell
from capsjax.analyses.robustness.attack_runs import Images, Outcome
from capsjax.analyses.robustness.victims import Victim

HONEST = 0.95
"""Share of the validation images that the detector lets pass."""

WEIGHTS = (0.01, 0.1, 1.0)
"""Weights of the squared distance in the attacks that know of the detector."""


@dataclasses.dataclass(frozen=True, eq=False)
class Detected:
    """What the detector says to the images that an attack found.

    Attributes:
        success: bool [N], images on which the network errs.
        refused: bool [N], images that the detector refuses.
        distances: float32 [N], of the images to their reconstructions.
        auc: area under the detector's ROC curve, for the images that the attack turned
            from right to wrong against clean ones; NaN if there are none.
    """

    success: np.ndarray
    refused: np.ndarray
    distances: np.ndarray
    auc: float

    @property
    def undetected(self) -> np.ndarray:
        """Images on which the network errs, and which pass, bool [N]."""
        return self.success & ~self.refused


def with_threshold(victim: Victim, images: np.ndarray, batch_size: int) -> Victim:
    """The network with a detector, if it has a decoder; else as it is.

    Args:
        victim: the network.
        images: validation images, uint8 [N, H, W, C], `HONEST` of which pass.
        batch_size: images of a batch.
    """
    if not victim.model.config.model.has_decoder:
        return victim
    values = images.astype(np.float32) / np.float32(255)
    threshold = float(np.quantile(victim.distances(values, batch_size), HONEST))
    return dataclasses.replace(victim, threshold=threshold)


def detected(
    victim: Victim,
    outcomes: Mapping[Cell, Outcome],
    images: Images,
    wrong: np.ndarray,
    batch_size: int,
) -> dict[Cell | None, Detected]:
    """Asks the detector about clean images, and those of attacks that keep them all.

    Args:
        victim: the network, with a threshold.
        outcomes: what the attacks found.
        images: the clean images.
        wrong: bool [N], clean images on which the network errs.
        batch_size: images of a batch.

    Returns:
        What it says, by the attack; None for the clean images.
    """
    assert victim.threshold is not None
    clean = victim.distances(images.values, batch_size)
    found: dict[Cell | None, Detected] = {
        None: Detected(wrong, clean > victim.threshold, clean, np.nan)
    }
    for cell, outcome in outcomes.items():
        if not cell.keep or cell.targeted or len(outcome.images) != len(clean):
            continue
        own = victim.distances(outcome.images, batch_size)
        errs = outcome.predictions != images.labels
        turned = errs & ~wrong
        auc = np.nan
        if np.any(turned):
            truth = np.r_[np.zeros(len(clean)), np.ones(turned.sum())]
            auc = roc_auc_score(truth, np.r_[clean, own[turned]])
        found[cell] = Detected(errs, own > victim.threshold, own, auc)
    return found


def knowing(base: Cell, weights: Sequence[float] = WEIGHTS) -> list[Cell]:
    """Attacks that know of the detector, like one that does not."""
    return [
        dataclasses.replace(base, evades=True, distance_weight=weight, keep=True)
        for weight in (0.0, *weights)
    ]
