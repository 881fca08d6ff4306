"""Evaluates a checkpoint of a run and prints the metrics as JSON.

python -m experiments.evaluate --workdir=runs/digits --checkpoint=best
"""

import json

import jax
from absl import flags

from capsjax import parallel, train_step
from capsjax.checkpoint import Checkpoints, Which
from capsjax.errors import UserError
from capsjax.evaluate import evaluate, make_eval_step
from capsjax.progress import Progress
from capsjax.run_folder import RunFolder
from experiments import launch

_DATA_DIR = launch.define_data_dir()
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run, as given to experiments.train.", required=True
)
_CHECKPOINT = flags.DEFINE_enum(
    "checkpoint",
    "last",
    ["last", "best"],
    "Which parameters: those of the last step, as in result.json, or the best by "
    "validation accuracy.",
)
_SPLIT = flags.DEFINE_enum(
    "split", "test", ["test", "validation", "train"], "Which images."
)


def main() -> None:
    """Restores the parameters and evaluates them."""
    which: Which = "best" if _CHECKPOINT.value == "best" else "last"
    folder = RunFolder(_WORKDIR.value)
    config = folder.load_config()
    data = launch.load_data(config, _DATA_DIR.value)
    images = {"test": data.test, "validation": data.validation, "train": data.train}[
        _SPLIT.value
    ]
    if not len(images):
        raise UserError(
            f"the run in {folder.path} has no {_SPLIT.value} images "
            "(config.data.validation_examples is 0)"
        )
    graphdef, state = train_step.create(config, data.image_shape, data.num_classes)
    devices = parallel.Devices(jax.devices(), config.parallelism)
    with Checkpoints(folder, read_only=True) as checkpoints:
        state, _ = checkpoints.restore(state, which)
    with Progress("evaluating", len(images), unit="images") as progress:
        found = evaluate(
            make_eval_step(graphdef, config, devices),
            devices.replicate(state.params),
            images,
            config.batch_size,
            devices,
            on_batch=progress.advance,
        )
    step = {"step": int(state.step), "examples": len(images)}
    print(json.dumps(step | found.metrics, indent=2))


if __name__ == "__main__":
    launch.run(main)
