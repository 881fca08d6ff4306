"""Rows and tables of networks under attack."""

import itertools
from collections.abc import Sequence

import numpy as np

from capsjax.analyses import intervals
from capsjax.analyses.robustness import detection, trust
from capsjax.analyses.robustness.attack_cells import ATTACKS, Cell
from capsjax.analyses.robustness.attack_evaluation import Evaluated
from capsjax.analyses.robustness.attack_runs import Outcome
from capsjax.attacks.balls import Norm
from capsjax.runs import provenance, results
from capsjax.runs.results import Row

_NORMS = {"linf": "L-infinity", "l2": "L2"}


def rows(evaluated: Sequence[Evaluated]) -> list[Row]:
    """A row for each network and attack, with this process's provenance."""
    env = provenance.environment()
    found = []
    for one in evaluated:
        config = one.victim.model.config
        known = {
            "run": one.victim.name,
            **config.model.columns(),
            "seed": config.seed,
            "step": one.victim.model.step,
            "params_sha256": provenance.sha256(one.victim.model.variables.params)[:12],
            "clean_accuracy": float(np.mean(~one.evidence.wrong)),
        }
        for cell, outcome in one.evidence.outcomes.items():
            # What is not the goal of an attack says nothing of the accuracy under it.
            plain = not (cell.targeted or cell.evades)
            left = intervals.accuracy(~outcome.success)
            found.append(
                results.row(
                    env,
                    known
                    | {
                        "attack": cell.attack,
                        "norm": cell.norm,
                        "radius": cell.radius or None,
                        "steps": cell.steps,
                        "restarts": cell.restarts,
                        "objective": cell.objective,
                        "gradient": cell.gradient,
                        "targeted": cell.targeted,
                        "evades": cell.evades,
                        "distance_weight": cell.distance_weight,
                        "examples": len(outcome.success),
                        "success": float(np.mean(outcome.success)),
                        "success_8_bits": float(np.mean(outcome.success_8_bits)),
                        "accuracy": left.value if plain else None,
                        "low": left.low if plain else None,
                        "high": left.high if plain else None,
                        "median_distance": _median_distance(outcome),
                        "seconds": outcome.seconds,
                        "attacked_commit": outcome.commit,
                    },
                )
            )
    return found


def check_rows(evaluated: Sequence[Evaluated]) -> list[Row]:
    """A row for each network and check."""
    return [
        results.as_row(
            {
                "run": one.victim.name,
                "check": check.name,
                "result": _result(check.passed),
                "measured": check.measured,
            }
        )
        for one in evaluated
        for check in trust.checks(one.evidence)
    ]


def markdown(evaluated: Sequence[Evaluated], title: str) -> str:
    """The evaluation as Markdown.

    Args:
        evaluated: the networks.
        title: name of the images, in words.
    """
    first = evaluated[0]
    count = len(first.evidence.wrong)
    parts = [
        f"# Networks under attack: {title}\n",
        f"Accuracy in % on the same {count:,} test images for all networks, with "
        "Wilson's 95 % interval. Images that a network errs on without an attack count "
        "as broken. Networks are comparable where they are equally accurate without an "
        "attack. Sizes are in units of the pixels' full range, before any "
        "preprocessing.\n",
        "## The checks\n",
        *(
            f"- **{one.victim.name}**: {trust.verdict(trust.checks(one.evidence))}\n"
            for one in evaluated
        ),
        _checks(evaluated),
    ]
    for norm, radius in first.evidence.focus.items():
        parts += [
            f"## {_NORMS[norm]}, radius {radius:g}\n",
            _at_focus(evaluated, norm, radius),
        ]
        if curve := _curve(evaluated, norm):
            parts += [f"## {_NORMS[norm]}, by radius\n", curve]
    if targets := _targets(evaluated):
        parts += ["## Targets reached, in % of the images\n", targets]
    if unbounded := _unbounded(evaluated):
        parts += ["## Without a bound\n", unbounded]
    if transfer := _transfer(evaluated):
        parts += ["## Images found on other networks\n", transfer]
    if detectors := _detectors(evaluated):
        parts += [
            "## The reconstruction's error as a detector\n",
            "It refuses images whose reconstruction is further away than those of "
            f"{detection.HONEST:.0%} of the validation images. Undetected are images "
            "on which the network errs and which pass.\n",
            detectors,
        ]
    if left_out := [sentence for one in evaluated for sentence in one.left_out]:
        parts += ["## Left out\n", *(f"- {sentence}\n" for sentence in left_out)]
    return "\n".join(parts)


def title_of(cell: Cell) -> str:
    """An attack in words, without its radius."""
    kind = ATTACKS[cell.attack]
    details = [f"{cell.steps} steps"] if cell.attack in ("bim", "pgd") else []
    if kind.starts:
        details.append(f"{cell.restarts} searches of {cell.steps} steps")
    elif cell.restarts > 1:
        details.append(f"{cell.restarts} starts")
    if cell.attack == "pgd":
        details.append(cell.objective.replace("_", " "))
    details += {"held": ["couplings held"], "votes": ["votes before routing"]}.get(
        cell.gradient, []
    )
    details += ["targeted"] * cell.targeted
    if cell.evades:
        details.append(f"knows of the detector, weight {cell.distance_weight:g}")
    return kind.title + (f" ({', '.join(details)})" if details else "")


def percent(right: np.ndarray) -> str:
    """A share in percent with its interval; empty for a share of nothing."""
    if not len(right):
        return ""
    value, low, high = (100 * number for number in intervals.accuracy(right))
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def _median_distance(outcome: Outcome) -> float | None:
    """Median size of the changes of the images that are broken."""
    if not np.any(outcome.success):
        return None
    return float(np.median(outcome.distances[outcome.success]))


def _result(passed: bool | None) -> str:
    return {True: "passed", False: "FAILED", None: "not known"}[passed]


def _checks(evaluated: Sequence[Evaluated]) -> str:
    lines = [
        [one.victim.name, check.name, _result(check.passed), check.measured]
        for one in evaluated
        for check in trust.checks(one.evidence)
    ]
    if not lines:
        return ""
    return results.markdown_table(("network", "check", "", "measured"), lines) + "\n"


def _names(evaluated: Sequence[Evaluated]) -> list[str]:
    return [one.victim.name for one in evaluated]


def _at_focus(evaluated: Sequence[Evaluated], norm: Norm, radius: float) -> str:
    cells = dict.fromkeys(
        cell
        for one in evaluated
        for cell in one.evidence.outcomes
        if cell.norm == norm and cell.radius == radius
        if not (cell.evades or cell.targeted)
    )
    lines = [["none", *(percent(~one.evidence.wrong) for one in evaluated)]]
    for cell in sorted(cells, key=lambda cell: cell.attack):
        shown = [
            percent(~found.success)
            if (found := one.evidence.outcomes.get(cell))
            else ""
            for one in evaluated
        ]
        lines.append([title_of(cell), *shown])
    worst = [percent(~one.evidence.worst(norm, radius)) for one in evaluated]
    lines.append(["worst of all", *worst])
    shared = [
        cell
        for cell in cells
        if all(cell in one.evidence.outcomes for one in evaluated)
    ]
    if len(evaluated) > 1:
        left = [~one.evidence.worst(norm, radius, shared) for one in evaluated]
        lines.append(["worst of those made on all networks", *map(percent, left)])
        clean = [~one.evidence.wrong for one in evaluated]
        lines += [
            [f"{what}, less the first network's, points", "", *_less(some)]
            for what, some in (("none", clean), ("worst of those on all", left))
        ]
    names = _names(evaluated)
    return results.markdown_table(["attack", *names], lines, numeric=names) + "\n"


def _less(right: Sequence[np.ndarray]) -> list[str]:
    """Differences to the first of some networks, image by image, in points."""
    found = [intervals.difference(some, right[0]) for some in right[1:]]
    return [
        "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * number for number in one))
        for one in found
    ]


def _targets(evaluated: Sequence[Evaluated]) -> str:
    """How often attacks reach the class that was drawn for each image."""
    cells = dict.fromkeys(
        cell for one in evaluated for cell in one.evidence.outcomes if cell.targeted
    )
    lines = [
        [
            f"{title_of(cell)}, {_NORMS[cell.norm]} {cell.radius:g}",
            *(
                percent(found.success)
                if (found := one.evidence.outcomes.get(cell))
                else ""
                for one in evaluated
            ),
        ]
        for cell in cells
    ]
    names = _names(evaluated)
    if not lines:
        return ""
    return results.markdown_table(["attack", *names], lines, numeric=names) + "\n"


def _curve(evaluated: Sequence[Evaluated], norm: Norm) -> str:
    radii = sorted(
        {cell.radius for one in evaluated for cell in one.evidence.plain("pgd", norm)}
    )
    lines = []
    for radius, attack in itertools.product(radii, ("noise", "fgsm", "bim", "pgd")):
        shown = []
        for one in evaluated:
            cells = {cell.radius: cell for cell in one.evidence.plain(attack, norm)}
            found = cells.get(radius)
            shown.append(
                percent(~one.evidence.outcomes[found].success) if found else ""
            )
        if any(shown):
            lines.append([f"{radius:g}", ATTACKS[attack].title, *shown])
    if not lines:
        return ""
    names = _names(evaluated)
    header = ["radius", "attack", *names]
    return results.markdown_table(header, lines, numeric=["radius", *names]) + "\n"


def _unbounded(evaluated: Sequence[Evaluated]) -> str:
    lines = []
    cells = dict.fromkeys(
        cell
        for one in evaluated
        for cell in one.evidence.outcomes
        if not ATTACKS[cell.attack].bounded
    )
    for cell in cells:
        for one in evaluated:
            outcome = one.evidence.outcomes.get(cell)
            if outcome is None:
                continue
            wrong = one.evidence.wrong[: len(outcome.success)]
            broken = outcome.success & ~wrong
            sizes = outcome.distances[broken]
            lines.append(
                [
                    title_of(cell),
                    one.victim.name,
                    f"{len(outcome.success):,}",
                    percent(outcome.success[~wrong]),
                    f"{np.median(sizes):.3g}" if len(sizes) else "",
                ]
            )
    if not lines:
        return ""
    numeric = ("images", "broken of the right ones, %", "median L2 change")
    header = ("attack", "network", *numeric)
    return results.markdown_table(header, lines, numeric=numeric) + "\n"


def _left(broken: np.ndarray | None) -> str:
    return "" if broken is None else percent(~broken)


def _transfer(evaluated: Sequence[Evaluated]) -> str:
    sources = dict.fromkeys(
        key for one in evaluated for key in one.evidence.transferred
    )
    lines = [
        [
            f"{name}, {_NORMS[norm]} {evaluated[0].evidence.focus[norm]:g}",
            *(
                percent(~found)
                if (found := one.evidence.transferred.get((norm, name))) is not None
                else ""
                for one in evaluated
            ),
        ]
        for norm, name in sources
    ]
    names = _names(evaluated)
    if not lines:
        return ""
    return results.markdown_table(["found on", *names], lines, numeric=names) + "\n"


def _detectors(evaluated: Sequence[Evaluated]) -> str:
    lines = []
    for one in evaluated:
        for cell, found in one.detected.items():
            bound = (
                f", {_NORMS[cell.norm]} {cell.radius:g}" if cell and cell.radius else ""
            )
            lines.append(
                [
                    one.victim.name,
                    title_of(cell) + bound if cell else "clean images",
                    percent(found.success),
                    percent(found.refused),
                    percent(found.undetected),
                    "" if np.isnan(found.auc) else f"{found.auc:.3f}",
                ]
            )
    if not lines:
        return ""
    numeric = ("errors, %", "refused, %", "undetected, %", "ROC-AUC")
    header = ("network", "images", *numeric)
    return results.markdown_table(header, lines, numeric=numeric) + "\n"
