"""Runs everything that needs a GPU in one command, as ``make gpu`` does.

python -m experiments.run_on_gpu --data_dir=DIR

Runs the kernels' tests, the benchmarks of routing and training, and as much of the
paper's table 1 as fits in the given time, with shorter trainings than the paper's. A
step out of time is asked to stop, then killed with all that it has started.
Leaves rows, tables, figures and logs in ``runs/benchmarks/<device>``, or with
--results=results in a folder to commit. A step that fails or runs out of time does not
stop the others, but makes the exit status 1.
"""

import pathlib
import tempfile
import time

from absl import flags

from capsjax.benchmarks import gpu_session as gpu_run
from capsjax.errors import UserError
from experiments import launch
from kernels import gpu

_MINUTES = flags.DEFINE_float(
    "minutes", 10.0, "Time for all steps together.", lower_bound=0.1
)
_RESULTS = flags.DEFINE_string(
    "results", "runs/benchmarks", "Folder of the results, in one named after the GPU."
)
_DATA_DIR = launch.define_data_dir()


def main() -> None:
    """Runs the steps and reports those that failed."""
    begun = time.monotonic()
    gpu_run.take_no_memory()
    reason = "there is only a CPU" if gpu.interpreted() else gpu.without_hopper()
    if reason is not None:
        raise UserError(f"this is for a machine with a Hopper GPU, and {reason}")
    data_dir = _DATA_DIR.value
    if data_dir is not None:
        data_dir = str(pathlib.Path(data_dir).resolve())
    results = pathlib.Path(_RESULTS.value).resolve()
    output = results / gpu_run.folder_name(gpu.device_kind())
    with tempfile.TemporaryDirectory() as folder:
        steps = gpu_run.steps(output, data_dir, pathlib.Path(folder) / "run")
        left = 60 * _MINUTES.value - (time.monotonic() - begun)
        statuses = gpu_run.run(steps, output, left, report=print)
    bad = [f"{name} {x}" for name, x in statuses.items() if x != "ok"]
    if bad:
        raise UserError(f"{', '.join(bad)}; see the logs in {output}")


if __name__ == "__main__":
    launch.run(main)
