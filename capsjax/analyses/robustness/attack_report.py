"""The files of networks under attack: rows, tables, figures and captions."""

import pathlib
from collections.abc import Sequence

import numpy as np

from capsjax import figures
from capsjax.analyses.figures import attacks as plots
from capsjax.analyses.robustness import attack_tables, trust
from capsjax.analyses.robustness.attack_cells import ATTACKS
from capsjax.analyses.robustness.attack_evaluation import Evaluated
from capsjax.analyses.robustness.attack_runs import Images
from capsjax.data import Dataset
from capsjax.runs import results
from capsjax.runs.folder import write_json

# Attacks of which examples are shown, in the norm in which they are bounded.
_SHOWN = (
    ("fgsm", "linf"),
    ("pgd", "linf"),
    ("pgd", "l2"),
    ("deepfool", "l2"),
    ("carlini_wagner", "l2"),
)


def write(
    evaluated: Sequence[Evaluated],
    images: Images,
    data: Dataset,
    output: pathlib.Path,
) -> str:
    """Writes everything that was found into a folder.

    The files are ``attacks.csv`` and ``checks.csv``, ``attacks.md``, ``attacks.png`` if
    an attack has a radius, pictures of each network, and ``captions.json``.

    Args:
        evaluated: the networks.
        images: images of the evaluation.
        data: the data set.
        output: the folder.

    Returns:
        The tables as Markdown.
    """
    results.write(output / "attacks.csv", attack_tables.rows(evaluated))
    results.write(output / "checks.csv", attack_tables.check_rows(evaluated))
    text = attack_tables.markdown(evaluated, data.title)
    captions = {
        "attacks.csv": "Each attack on each network.",
        "checks.csv": "Checks of the attacks.",
        "attacks.md": "Networks under attack.",
    }
    if plots.norms_of_curves(evaluated):
        figures.save(plots.curves(evaluated, data.title), output / "attacks.png")
        captions["attacks.png"] = (
            f"Accuracy on the same {len(images):,} test images of {data.title} over "
            "the radius of the attack: random noise, one step (FGSM) and PGD with its "
            "95 % interval."
        )
    for one in evaluated:
        captions |= _pictures(one, images, data, output)
    (output / "attacks.md").write_text(text)
    write_json(output / "captions.json", captions)
    return text


def _pictures(
    one: Evaluated, images: Images, data: Dataset, output: pathlib.Path
) -> dict[str, str]:
    """The figures of one network, and their captions."""
    name, evidence = one.victim.name, one.evidence
    clean = np.where(evidence.wrong, -1, images.labels)
    kept = {
        cell: outcome
        for cell, outcome in evidence.outcomes.items()
        if cell.keep and not cell.targeted and not cell.evades
    }
    verdict = trust.verdict(trust.checks(evidence))
    captions = {}
    changes = [
        (cell, outcome)
        for cell, outcome in kept.items()
        if (cell.attack, cell.norm) in _SHOWN
    ]
    if changes:
        figure = plots.examples(
            f"{name} under attack", images, data.class_names, changes, clean
        )
        figures.save(figure, output / f"{name}_examples.png")
        captions[f"{name}_examples.png"] = (
            f"{name}: the first images that each attack turned from right to wrong, "
            f"the change (red brighter, blue darker), and the images found. {verdict}"
        )
    if one.detected:
        figure = plots.detector(one, f"{name}: distances to reconstructions")
        figures.save(figure, output / f"{name}_detector.png")
        captions[f"{name}_detector.png"] = (
            f"{name}: distances of images to their reconstructions: clean ones, and "
            "those that attacks (in balls, of L-infinity) turned from right to wrong. "
            "95 % of the validation "
            "images are nearer than the threshold. Below, images of the attack that "
            "knows of the detector on which the network errs and which pass, and what "
            "the decoder draws of the class that it sees."
        )
    pixels = [(c, o) for c, o in kept.items() if c.count]
    if pixels:
        figure = plots.pixels(
            f"{name}, few pixels changed", images, data.class_names, pixels, clean
        )
        figures.save(figure, output / f"{name}_pixels.png")
        shares = ", ".join(
            f"{ATTACKS[cell.attack].title} {np.sum(outcome.success & right)} of "
            f"{np.sum(right)}"
            for cell, outcome in pixels
            if len(right := ~evidence.wrong[: len(outcome.success)])
        )
        captions[f"{name}_pixels.png"] = (
            f"{name}: images of which a few pixels, marked, were changed, with the "
            f"class before and after. Broken of those that are right otherwise: "
            f"{shares}."
        )
    return captions
