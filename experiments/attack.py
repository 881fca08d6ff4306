"""Attacks trained networks with small changes of test images, and checks the attacks.

python -m experiments.attack --workdirs=runs/capsnet,runs/cnn --output=DIR

All networks see the same test images. The attacks, by name in --attacks:

  noise            random noise, the best of 50 draws: the floor for all others
  fgsm, bim, pgd   one step, several steps, several from random points (Madry)
  mi_fgsm          with momentum, for transfer to other networks
  square           random squares, without gradients
  deepfool, carlini_wagner   the smallest L2 change
  every_pixel      one pixel of grey images, tried out; pixels_1, pixels_3, pixels_5:
                   by differential evolution, as Su et al.

Bounded ones are made at each radius of --linf and --l2, in units of the pixels' full
range. At the --focus, PGD also raises other objectives; goes through the votes before
routing (the vote attack) or past the coupling coefficients; has targets; and has twice
the steps and starts. Images found on one run are tried on the others. With a decoder,
the error of the reconstruction is tried as a detector, and attacked too.

Before any number counts, checks say whether the attacks work: a network that only
seems robust fails them. Rows, tables and figures go to --output; experiments.report
shows them. Each finished attack is kept there: the same command goes on where it ended.
"""

import functools
import pathlib
from collections.abc import Sequence

from absl import flags

from capsjax.analyses.robustness import (
    attack_cells,
    attack_evaluation,
    attack_report,
    detection,
)
from capsjax.analyses.robustness.victims import Victim
from capsjax.attacks.balls import Norm
from capsjax.errors import UserError
from experiments import launch
from experiments.run_flags import RunsFlags

_DATA_DIR = launch.define_data_dir()
_RUNS = RunsFlags()
_OUTPUT = flags.DEFINE_string(
    "output", None, "Folder of outcomes, rows, tables and figures.", required=True
)
_ATTACKS = flags.DEFINE_list(
    "attacks",
    ["noise", "fgsm", "bim", "pgd", "mi_fgsm", "square", "deepfool", "carlini_wagner"],
    f"Attacks, out of {', '.join(attack_cells.ATTACKS)}.",
)
_LINF = flags.DEFINE_list(
    "linf",
    ["0.05", "0.1", "0.15", "0.2", "0.3", "0.5"],
    "Radii of the largest change of a pixel; empty for none.",
)
_L2 = flags.DEFINE_list(
    "l2", ["0.5", "1", "2", "3"], "Radii of the Euclidean change; empty for none."
)
_FOCUS = flags.DEFINE_list(
    "focus",
    ["linf=0.1", "l2=1"],
    "The radius in each norm at which attacks are compared.",
)
_NUM_IMAGES = flags.DEFINE_integer(
    "num_images",
    500,
    "Test images, drawn at random, the same for all runs; 0 for all.",
    lower_bound=0,
)
_PIXEL_IMAGES = flags.DEFINE_integer(
    "pixel_images", 50, "Images of which few pixels are changed.", lower_bound=1
)
_STEPS = flags.DEFINE_integer("steps", 40, "Steps of BIM and PGD.", lower_bound=2)
_RESTARTS = flags.DEFINE_integer("restarts", 3, "Random starts of PGD.", lower_bound=1)
_DETECTION = flags.DEFINE_bool(
    "detection",
    True,
    "Tries the reconstruction's error as a detector of attacks on networks with a "
    "decoder, with a threshold from the validation images.",
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 100, "Images that are attacked together.", lower_bound=1
)
_SEED = flags.DEFINE_integer(
    "seed", 0, "Seed of the choice of images and of the attacks.", lower_bound=0
)


def main() -> None:
    """Attacks the runs and writes what was found."""
    settings = _settings()
    data, models = _RUNS.restored(_DATA_DIR.value)
    if data.test.labels.ndim != 1:
        raise UserError(
            f"images of {data.name} have several labels each; choose runs on images "
            "with one"
        )
    victims = [
        Victim(name, model, data.image_shape, data.num_classes)
        for name, model in models.items()
    ]
    if _DETECTION.value and len(data.validation):
        source = victims[0].model.config.data
        victims = [
            # Others may have been trained on these images.
            detection.with_threshold(victim, data.validation.images, _BATCH_SIZE.value)
            if victim.model.config.data == source
            else victim
            for victim in victims
        ]
    images = attack_evaluation.drawn(
        data.test.images,
        data.test.labels,
        data.num_classes,
        _NUM_IMAGES.value,
        _SEED.value,
    )
    output = pathlib.Path(_OUTPUT.value).expanduser()
    say = functools.partial(print, flush=True)
    try:
        found = attack_evaluation.evaluate(victims, images, settings, output, say)
        text = attack_report.write(found, images, data, output)
    except OSError as error:
        raise UserError(f"cannot write to {output}: {error.strerror}") from error
    print(f"\n{text}\nrows, tables and figures in {output}")


def _settings() -> attack_evaluation.Settings:
    """The flags as settings; raises UserError for what they may not be."""
    names = _ATTACKS.value
    if unknown := [name for name in names if name not in attack_cells.ATTACKS]:
        raise UserError(
            f"unknown {unknown[0]!r} in --attacks; choose from "
            f"{', '.join(attack_cells.ATTACKS)}"
        )
    radii: dict[Norm, tuple[float, ...]] = {}
    if _LINF.value:
        radii["linf"] = _radii("linf", _LINF.value)
    if _L2.value:
        radii["l2"] = _radii("l2", _L2.value)
    focus: dict[Norm, float] = {}
    for word in _FOCUS.value:
        norm, _, text = word.partition("=")
        if norm not in ("linf", "l2") or not text:
            raise UserError(
                f"{word!r} in --focus is not of the form linf=RADIUS or l2=RADIUS"
            )
        if norm in radii:
            focus[norm] = _radii("focus", [text])[0]
    for norm, some in radii.items():
        if focus.get(norm) not in some:
            raise UserError(
                f"--focus has no radius out of --{norm}={','.join(map(str, some))}; "
                f"add {norm}={some[0]:g}"
            )
    return attack_evaluation.Settings(
        attacks=tuple(dict.fromkeys(names)),
        radii=radii,
        focus=focus,
        steps=_STEPS.value,
        restarts=_RESTARTS.value,
        pixel_images=_PIXEL_IMAGES.value,
        batch_size=_BATCH_SIZE.value,
    )


def _radii(flag: str, words: Sequence[str]) -> tuple[float, ...]:
    try:
        found = tuple(sorted({float(word) for word in words}))
    except ValueError:
        found = ()
    if not found or not all(0 < radius < float("inf") for radius in found):
        raise UserError(f"--{flag}={','.join(words)} is not radii above 0 with commas")
    return found


if __name__ == "__main__":
    launch.run(main)
