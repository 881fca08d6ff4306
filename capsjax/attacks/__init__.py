"""Attacks: small changes of images on which a network errs.

An attack is a frozen dataclass of its settings, and a function of a network
(`Attacked`), images, labels and keys. The bounded ones also take the radius of the ball
in which they search; the others look for the smallest change.
"""

from capsjax.attacks.base import Attacked, Found
from capsjax.attacks.carlini_wagner import CarliniWagner
from capsjax.attacks.deepfool import DeepFool
from capsjax.attacks.noise import Noise
from capsjax.attacks.pixels import EveryPixel, FewPixels
from capsjax.attacks.projected_gradient import (
    ProjectedGradient,
    bim,
    fgsm,
    mi_fgsm,
    pgd,
)
from capsjax.attacks.square import Square

__all__ = [
    "Attacked",
    "CarliniWagner",
    "DeepFool",
    "EveryPixel",
    "FewPixels",
    "Found",
    "Noise",
    "ProjectedGradient",
    "Square",
    "bim",
    "fgsm",
    "mi_fgsm",
    "pgd",
]
