"""Evaluates a checkpoint of a run.

    python -m experiments.evaluate --workdir=runs/a
"""

import json

from absl import flags

from capsjax import data, train_step
from capsjax.checkpoint import Checkpoints
from capsjax.errors import UserError
from capsjax.evaluate import evaluate, make_eval_step
from capsjax.progress import Progress
from capsjax.run_folder import RunFolder
from experiments import launch
