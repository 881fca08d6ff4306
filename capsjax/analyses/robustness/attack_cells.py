"""The attacks of an evaluation: one cell is an attack with its settings at a radius."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

from capsjax import attacks
from capsjax.attacks import objectives
from capsjax.attacks.balls import Norm
from capsjax.models.base import Gradient


@dataclasses.dataclass(frozen=True)
class Cell:
    """An attack and its settings.

    Attributes:
        attack: name from `ATTACKS`.
        norm: norm in which it is bounded, or in which changes are measured.
        radius: radius of the ball; 0 for an attack without a bound.
        steps: steps, queries, draws or generations, whatever the attack has.
        restarts: random starts; images that are broken do not start again. Of
            Carlini and Wagner's attack, the searches.
        objective: what it raises; empty for an attack that has its own.
        gradient: what its gradient goes through.
        targeted: whether it wants a certain class, drawn for each image.
        evades: whether it counts only where the detector lets the image pass.
        distance_weight: weight of the squared distance to the reconstruction, which it
            keeps small.
        count: number of images, the first ones of the evaluation.
        keep: whether all the images that it finds are kept, not only the first.
    """

    attack: str
    norm: Norm = "linf"
    radius: float = 0.0
    steps: int = 0
    restarts: int = 1
    objective: objectives.Name | Literal[""] = "logit_margin"
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
        words += [f"{self.steps}x{self.restarts}", *filter(None, [self.objective])]
        words += [] if self.gradient == "routing" else [self.gradient]
        words += ["targeted"] * self.targeted
        words += [f"evades_{self.distance_weight:g}"] * self.evades
        return "-".join(words)

    @property
    def passes(self) -> int:
        """Gradients, or forward passes of attacks without, that an image may cost."""
        kind = ATTACKS[self.attack]
        return kind.make(self).passes * (1 if kind.starts else self.restarts)


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of attack.

    Attributes:
        title: name in tables.
        make: function from a cell's settings to the attack.
        steps: number of steps by default.
        starts: searches that it makes by itself; 0 if it may start several times.
        bounded: whether it searches in a ball.
        norms: norms that it is made for.
        gradients: whether it uses gradients.
        objective: what it raises; None for the first of the network's objectives, and
            empty for one that has an objective of its own.
        few_images: whether it costs so much that few images are attacked.
        everywhere: whether it is made at each radius, not only at the focus.
        channels: number of channels that images must have; None for any.
    """

    title: str
    make: Callable[[Cell], Any]
    steps: int
    starts: int = 0
    bounded: bool = True
    norms: tuple[Norm, ...] = ("linf", "l2")
    gradients: bool = True
    objective: objectives.Name | Literal[""] | None = None
    few_images: bool = False
    everywhere: bool = True
    channels: int | None = None


def _few_pixels(count: int) -> Kind:
    return Kind(
        f"{count} pixel{'s' * (count > 1)}, evolution",
        lambda cell: attacks.FewPixels(count, generations=cell.steps),
        100,
        bounded=False,
        norms=("l2",),
        gradients=False,
        objective="probability",
        few_images=True,
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
            "MI-FGSM",
            lambda cell: attacks.mi_fgsm(cell.norm, cell.steps),
            10,
            everywhere=False,
        ),
        "square": Kind(
            "square",
            lambda cell: attacks.Square(cell.steps),
            500,
            norms=("linf",),
            gradients=False,
            everywhere=False,
        ),
        "deepfool": Kind(
            "DeepFool",
            lambda cell: attacks.DeepFool(cell.steps),
            50,
            objective="",
            bounded=False,
            norms=("l2",),
        ),
        "carlini_wagner": Kind(
            "Carlini-Wagner",
            lambda cell: attacks.CarliniWagner(
                cell.steps, cell.restarts, learning_rate=0.1, first=0.1
            ),
            200,
            starts=5,
            objective="",
            bounded=False,
            norms=("l2",),
        ),
        "every_pixel": Kind(
            "one pixel, all tried",
            lambda cell: attacks.EveryPixel(),
            0,
            bounded=False,
            norms=("l2",),
            gradients=False,
            objective="probability",
            few_images=True,
            channels=1,
        ),
        **{f"pixels_{count}": _few_pixels(count) for count in (1, 3, 5)},
    }
)
"""Kinds of attacks by name."""


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
        objective = first if kind.objective is None else kind.objective
        if not kind.bounded:
            found.append(
                Cell(
                    name,
                    kind.norms[0],
                    steps=number,
                    restarts=kind.starts or 1,
                    objective=objective,
                    count=pixel_images if kind.few_images else 0,
                    keep=True,
                )
            )
            continue
        for norm in kind.norms:
            for radius in radii.get(norm, ()):
                at_focus = radius == focus[norm]
                if not (at_focus or kind.everywhere):
                    continue
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
