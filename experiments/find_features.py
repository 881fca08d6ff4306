"""Shows that hidden units find features by themselves, and with how many images.

python -m experiments.find_features --output=results/found_features

Two squares of an image decide its class. Two hidden units that see every pixel, under a
small head, are trained on 100 to 20,000 images; measured are the angle between the
plane of their weights and that of the squares' means, the share of the weights inside
the squares, and the test error beside that of a regression on features made by hand. It
takes some minutes on a CPU and needs no data. In --output it leaves a row for each
training (found_features.csv) and a figure (found_features.png).
"""

import pathlib

from absl import flags

from capsjax import figures
from capsjax.analyses import found_features
from capsjax.analyses.figures import found_features as plots
from capsjax.errors import UserError
from capsjax.runs import provenance, results
from capsjax.runs.folder import write_json
from capsjax.runs.progress import Progress
from experiments import launch

_IMAGES = flags.DEFINE_list(
    "images",
    ["100", "300", "1000", "3000", "10000", "20000"],
    "Numbers of training images.",
)
_WEIGHT_DECAYS = flags.DEFINE_list(
    "weight_decays", ["0", "10"], "Weight decays of the hidden units."
)
_SEEDS = flags.DEFINE_integer(
    "seeds", 5, "Trainings of each, with seeds from 0.", lower_bound=1
)
_STEPS = flags.DEFINE_integer("steps", 3000, "Steps of every training.", lower_bound=1)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Folder of rows and figure.", required=True
)


def main() -> None:
    """Trains, and writes rows and figure."""
    counts = _IMAGES.value
    # A regression needs images of both classes.
    if not counts or not all(x.isdecimal() and int(x) >= 20 for x in counts):
        raise UserError(
            f"--images={','.join(counts)} is not numbers from 20 with commas"
        )
    try:
        decays = sorted({float(x) for x in _WEIGHT_DECAYS.value})
    except ValueError:
        decays = []
    if not decays or not all(0 <= x < 100 for x in decays):
        raise UserError(
            f"--weight_decays={','.join(_WEIGHT_DECAYS.value)} is not numbers from 0 "
            "to 100 with commas"
        )
    images, seeds = sorted(set(map(int, counts))), _SEEDS.value
    with Progress(
        "finding features", len(images) * len(decays) * seeds, unit="trainings"
    ) as progress:
        found = found_features.find(
            images, decays, seeds, steps=_STEPS.value, on_training=progress.advance
        )
    env = provenance.environment()
    rows = [
        results.row(
            env,
            {
                "images": one.images,
                "weight_decay": one.weight_decay,
                "seed": one.seed,
                "steps": _STEPS.value,
                "smaller_angle_degrees": one.angles[0],
                "larger_angle_degrees": one.angles[1],
                "percent_of_weights_inside": 100 * one.share,
                "test_error_percent": one.error,
                "handmade_test_error_percent": one.handmade_error,
            },
        )
        for one in found
    ]
    output = pathlib.Path(_OUTPUT.value)
    results.write(output / "found_features.csv", rows)
    figures.save(plots.found_features(found), output / "found_features.png")
    caption = (
        "Above: size of both units' weights at each pixel; the squares are framed. "
        "Below: the principal angles between the planes of weights and features, the "
        "larger one solid; the share of the absolute weights inside the squares; and "
        "test error. Each seed is a dot, the mean a line."
    )
    write_json(output / "captions.json", {"found_features.png": caption})
    print(f"rows and figure in {output}")


if __name__ == "__main__":
    launch.run(main)
