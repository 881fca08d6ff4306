"""Checks that expose an attack that is too weak, or gradients that hide the way.

A network that withstands an attack may be robust, or the attack may have failed for
another reason: a gradient of exactly zero, too few steps, a bug. Each check compares
what must be ordered if the attack works. A failed one is said plainly; the network's
numbers may then overstate its robustness.

References:
    Athalye, Carlini and Wagner 2018, "Obfuscated Gradients Give a False Sense of
    Security", section 3.1.
    Carlini et al. 2019, "On Evaluating Adversarial Robustness", section 5.
"""

import dataclasses
import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from capsjax.analyses.robustness.attack_cells import ATTACKS, Cell
from capsjax.analyses.robustness.attack_runs import Images, Outcome
from capsjax.analyses.robustness.victims import Victim, batches
from capsjax.attacks import objectives
from capsjax.attacks.balls import Norm

# Largest change of the success rate that more steps or starts may make, and the largest
# share of images that may be left: half a point, but one image is always allowed.
_POINTS = 0.005

_FLAT = 0.05  # Share of images without a gradient that is too many.
_NOISE = 0.5  # Share of PGD's success that noise may have.
_AGREES = 0.95  # Correlation of gradients and finite differences.
_DIRECTIONS, _SLOPES, _STEP = 5, 50, 1e-3  # For each of the first images.


class Check(NamedTuple):
    """A check of an evaluation.

    Attributes:
        name: what should hold.
        passed: whether it does; None if the evaluation does not tell.
        measured: the numbers.
    """

    name: str
    passed: bool | None
    measured: str


@dataclasses.dataclass(frozen=True)
class Gradients:
    """The gradients of an objective at clean images.

    Attributes:
        objective: its name.
        zero: share of images where it is exactly zero.
        not_finite: share of images where it is not finite.
        median_norm: median Euclidean norm.
        agreement: correlation of the objective's finite differences in random
            directions with what the gradient tells; NaN if all gradients are zero.
    """

    objective: objectives.Name
    zero: float
    not_finite: float
    median_norm: float
    agreement: float


def gradients(
    victim: Victim, images: Images, names: Sequence[objectives.Name], batch_size: int
) -> list[Gradients]:
    """Looks at the gradients of some objectives at clean images.

    Args:
        victim: the network.
        images: clean images.
        names: the objectives.
        batch_size: images of a batch.
    """
    networks = [victim.attacked(name) for name in names]

    @jax.jit
    def look(networks, images, labels):
        return [attacked.look(images, labels).gradients for attacked in networks]

    @jax.jit
    def slopes(networks, images, labels, directions):
        found = []
        for attacked in networks:
            ahead, _ = attacked.judge(images + _STEP * directions, labels)
            behind, _ = attacked.judge(images - _STEP * directions, labels)
            found.append((ahead - behind) / (2 * _STEP))
        return found

    found: list[list[np.ndarray]] = [[] for _ in names]
    told: list[list[float]] = [[] for _ in names]
    measured: list[list[float]] = [[] for _ in names]
    parts = zip(
        batches(images.values, batch_size),
        batches(images.labels, batch_size),
        strict=True,
    )
    for number, ((pixels, real), (classes, _)) in enumerate(parts):
        some, labels = jnp.asarray(pixels), jnp.asarray(classes)
        own = [np.asarray(x)[:real] for x in look(networks, some, labels)]
        for one, every in zip(own, found, strict=True):
            every.append(one.reshape(real, -1))
        start = number * batch_size
        # Directions of the first images, whatever the batches are.
        for draw in range(_DIRECTIONS if start < _SLOPES else 0):
            directions = np.zeros(some.shape, np.float32)
            for place in range(min(real, _SLOPES - start)):
                own_seed = (images.seed, int(images.numbers[start + place]), draw)
                one = np.random.default_rng(own_seed).normal(size=some.shape[1:])
                directions[place] = one / np.linalg.norm(one)
            steep = slopes(networks, some, labels, directions)
            for place, gradient in enumerate(own):
                own_slopes = np.sum(gradient * directions[:real], axis=(1, 2, 3))
                measured[place].extend(
                    np.asarray(steep[place])[: _SLOPES - start][:real]
                )
                told[place].extend(own_slopes[: _SLOPES - start])
    return [
        _facts(name, np.concatenate(found[place]), told[place], measured[place])
        for place, name in enumerate(names)
    ]


def _facts(
    name: objectives.Name,
    every: np.ndarray,
    told: Sequence[float],
    measured: Sequence[float],
) -> Gradients:
    agreement = np.nan
    if np.std(told) > 0:
        agreement = np.corrcoef(told, measured)[0, 1]
    norms = np.linalg.norm(every.astype(np.float64), axis=1)
    return Gradients(
        name,
        zero=float(np.mean(~np.any(every, axis=1))),
        not_finite=float(np.mean(~np.all(np.isfinite(every), axis=1))),
        median_norm=float(np.median(norms)),
        agreement=float(agreement),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Evidence:
    """What an evaluation found about one network.

    Attributes:
        outcomes: what each attack found.
        wrong: bool [N], images on which the network errs without any attack.
        focus: radius in each norm at which attacks are compared.
        transferred: success [N] of images found on other networks, by norm and name.
        gradients: gradients at clean images.
    """

    outcomes: Mapping[Cell, Outcome]
    wrong: np.ndarray
    focus: Mapping[Norm, float]
    transferred: Mapping[tuple[Norm, str], np.ndarray]
    gradients: Sequence[Gradients]

    def cells(self, attack: str, **settings: object) -> list[Cell]:
        """Cells of an attack with some settings."""
        return [
            cell
            for cell in self.outcomes
            if cell.attack == attack
            and all(getattr(cell, name) == value for name, value in settings.items())
        ]

    def plain(self, attack: str, norm: Norm) -> list[Cell]:
        """An attack's cells by radius, of those with several the first.

        These are made with the first objective, as the plan orders them.
        """
        found: dict[float, Cell] = {}
        for cell in self.cells(
            attack, norm=norm, targeted=False, evades=False, gradient="routing"
        ):
            found.setdefault(cell.radius, cell)
        return [found[radius] for radius in sorted(found)]

    def worst(
        self, norm: Norm, radius: float, among: Collection[Cell] | None = None
    ) -> np.ndarray:
        """Images that any untargeted attack within a radius has broken, bool [N].

        Args:
            norm: norm of the radius.
            radius: the radius.
            among: the attacks that count; None for all, and images found on others.
        """
        broken = self.wrong.copy()
        for cell, outcome in self.outcomes.items():
            if cell.targeted or cell.count or (among is not None and cell not in among):
                continue
            if cell.radius and cell.norm == norm and cell.radius <= radius:
                broken |= outcome.success
            elif not cell.radius and cell.norm == norm:
                broken |= outcome.success & (outcome.distances <= radius)
        if among is None and radius >= self.focus[norm]:
            for (of_norm, _), success in self.transferred.items():
                if of_norm == norm:
                    broken |= success
        return broken


def checks(evidence: Evidence) -> list[Check]:
    """All checks of one network's evaluation."""
    found: list[Check] = []
    for norm in evidence.focus:
        for check in (_order, _growth, _noise, _black_box, _effort, _loss):
            found += check(evidence, norm)
    return [*found, *_unbounded(evidence), *_slopes(evidence)]


def _allowed(evidence: Evidence) -> float:
    return max(_POINTS, 1 / len(evidence.wrong)) + 1e-9


def _share(success: np.ndarray) -> float:
    return float(np.mean(success))


def _not_made(name: str) -> list[Check]:
    return [Check(name, None, "the attacks for it were not made")]


def _order(evidence: Evidence, norm: Norm) -> list[Check]:
    steps = {cell.radius: cell for cell in evidence.plain("pgd", norm)}
    ones = {cell.radius: cell for cell in evidence.plain("fgsm", norm)}
    radii = sorted(steps.keys() & ones.keys())
    name = f"PGD breaks at least as many images as FGSM, {norm}"
    if not radii:
        return [Check(name, None, "not both were run")]
    pairs = [
        (
            radius,
            _share(evidence.outcomes[ones[radius]].success),
            _share(evidence.outcomes[steps[radius]].success),
        )
        for radius in radii
    ]
    passed = all(many >= one - _allowed(evidence) for _, one, many in pairs)
    shown = "; ".join(f"{r:g}: {one:.1%} and {many:.1%}" for r, one, many in pairs)
    return [Check(name, passed, f"FGSM and PGD at {shown}")]


def _growth(evidence: Evidence, norm: Norm) -> list[Check]:
    cells = evidence.plain("pgd", norm)
    if len(cells) < 2:
        return _not_made(f"PGD's success grows with the radius, {norm}")
    rates = [_share(evidence.outcomes[cell].success) for cell in cells]
    falls = min(b - a for a, b in itertools.pairwise(rates))
    shown = ", ".join(
        f"{cell.radius:g}: {rate:.1%}" for cell, rate in zip(cells, rates, strict=True)
    )
    found = [
        Check(
            f"PGD's success grows with the radius, {norm}",
            falls >= -_allowed(evidence),
            shown,
        )
    ]
    # Uniform grey is nearer than this to every image, and of one class at most.
    if norm == "linf":
        widest = cells[-1].radius >= 0.5
        found.append(
            Check(
                "PGD breaks every image at a radius of 0.5, linf",
                rates[-1] >= 1 - _allowed(evidence) if widest else None,
                f"{rates[-1]:.1%} at {cells[-1].radius:g}",
            )
        )
    return found


def _at_focus(evidence: Evidence, attack: str, norm: Norm) -> Cell | None:
    cells = [
        c for c in evidence.plain(attack, norm) if c.radius == evidence.focus[norm]
    ]
    return cells[0] if cells else None


def _noise(evidence: Evidence, norm: Norm) -> list[Check]:
    noise, pgd = (_at_focus(evidence, name, norm) for name in ("noise", "pgd"))
    name = f"random noise is far weaker than PGD, {norm}"
    if noise is None or pgd is None:
        return _not_made(name)
    # What the network errs on anyway is no success of either.
    rates = [
        _share(evidence.outcomes[cell].success & ~evidence.wrong)
        for cell in (noise, pgd)
    ]
    return [
        Check(
            name,
            rates[0] <= _NOISE * rates[1] + _allowed(evidence),
            f"{rates[0]:.1%} and {rates[1]:.1%} of the images at "
            f"{evidence.focus[norm]:g}",
        )
    ]


def _black_box(evidence: Evidence, norm: Norm) -> list[Check]:
    pgd = _at_focus(evidence, "pgd", norm)
    title = f"PGD is at least as strong as attacks that do not see the network, {norm}"
    if pgd is None:
        return _not_made(title)
    own = _share(evidence.outcomes[pgd].success)
    others = {
        f"images found on {name}": success
        for (of_norm, name), success in evidence.transferred.items()
        if of_norm == norm
    }
    for attack, kind in ATTACKS.items():
        cell = _at_focus(evidence, attack, norm)
        if cell is not None and not kind.gradients and attack != "noise":
            others[kind.title] = evidence.outcomes[cell].success
    if not others:
        return _not_made(title)
    name, success = max(others.items(), key=lambda item: _share(item[1]))
    return [
        Check(
            title,
            _share(success) <= own + _allowed(evidence),
            f"PGD {own:.1%}; the strongest other, {name}, {_share(success):.1%}",
        )
    ]


def _effort(evidence: Evidence, norm: Norm) -> list[Check]:
    base = _at_focus(evidence, "pgd", norm)
    found = []
    most = 100 * _allowed(evidence)
    for what, setting in (("steps", "steps"), ("starts", "restarts")):
        name = (
            f"twice the {what} change PGD's success by at most {most:.2g} points, "
            f"{norm}"
        )
        if base is None:
            found += _not_made(name)
            continue
        twice = dataclasses.replace(
            base, **{setting: 2 * getattr(base, setting)}, keep=False
        )
        if twice not in evidence.outcomes:
            found += _not_made(name)
            continue
        before, after = (
            _share(evidence.outcomes[cell].success) for cell in (base, twice)
        )
        found.append(
            Check(
                name,
                abs(after - before) <= _allowed(evidence),
                f"{before:.1%} with {getattr(base, setting)}, {after:.1%} with "
                f"{getattr(twice, setting)}",
            )
        )
    return found


def _loss(evidence: Evidence, norm: Norm) -> list[Check]:
    cell = _at_focus(evidence, "bim", norm) or _at_focus(evidence, "pgd", norm)
    name = f"the objective rises from step to step, {norm}"
    if cell is None:
        return _not_made(name)
    trace = evidence.outcomes[cell].trace
    if np.all(evidence.wrong):
        return [Check(name, None, "the network errs on every image by itself")]
    falls = float(np.max(np.maximum.accumulate(trace) - trace))
    rise = float(trace[-1] - trace[0])
    return [
        Check(
            name,
            rise > 0 and falls <= 0.05 * rise,
            f"from {trace[0]:.3g} to {trace[-1]:.3g} in {len(trace)} steps of "
            f"{ATTACKS[cell.attack].title}; largest fall {falls:.2g}",
        )
    ]


def _unbounded(evidence: Evidence) -> list[Check]:
    return [
        Check(
            f"{ATTACKS[cell.attack].title} without a bound breaks every image",
            _share(outcome.success) >= 1 - _allowed(evidence),
            f"{_share(outcome.success):.1%}",
        )
        for cell, outcome in evidence.outcomes.items()
        if not ATTACKS[cell.attack].bounded and ATTACKS[cell.attack].gradients
    ]


def _slopes(evidence: Evidence) -> list[Check]:
    if not evidence.gradients:
        return []
    used, *rest = evidence.gradients
    shown = ", ".join(f"{one.objective} {one.zero:.1%}" for one in evidence.gradients)
    return [
        Check(
            f"the gradient of {used.objective} is not zero",
            used.zero <= _FLAT and used.not_finite == 0,
            f"exactly zero at clean images: {shown}; not finite {used.not_finite:.1%}; "
            f"median norm {used.median_norm:.3g}",
        ),
        Check(
            "gradients agree with finite differences",
            used.agreement >= _AGREES,
            "correlations "
            + ", ".join(f"{x.objective} {x.agreement:.4f}" for x in (used, *rest)),
        ),
    ]


def verdict(found: Sequence[Check]) -> str:
    """A sentence on the checks of one network."""
    failed = [check.name for check in found if check.passed is False]
    unknown = sum(check.passed is None for check in found)
    rest = f"; {unknown} could not be made" if unknown else ""
    if unknown == len(found):
        return "No check could be made."
    if not failed:
        return f"All {len(found) - unknown} checks passed{rest}."
    return (
        f"{len(failed)} of {len(found) - unknown} checks FAILED{rest}: "
        f"{'; '.join(failed)}. The numbers may overstate this network's robustness."
    )
