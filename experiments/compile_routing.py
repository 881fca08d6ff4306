"""Compiles the fused routing kernels for an H200 and records the compiler's report.

python -m experiments.compile_routing

needs no GPU, but the environment that ``make test-gpu-compile`` makes. It replaces in a
folder the rows ``routing_compile.csv`` and ``routing_memory.csv``, and the tables made
from them, ``routing_compile.md``. ``make compile-report`` renews the committed ones.
"""

import pathlib

from absl import flags

from capsjax.benchmarks import compilation as compile_report
from capsjax.runs import provenance
from capsjax.runs.progress import Progress
from experiments import launch
from kernels.routing import WORKLOADS

_WORKLOADS = flags.DEFINE_list(
    "workloads",
    list(WORKLOADS),
    "Names of sizes; see kernels/routing/dynamic/workloads.py.",
)
_BATCH_SIZES = flags.DEFINE_list("batch_sizes", ["128", "1024"], "Examples in a batch.")
_DTYPES = flags.DEFINE_list(
    "dtypes", ["float32", "bfloat16"], "Dtypes of the arguments; float16 works too."
)
_PYTHON = flags.DEFINE_string(
    "python",
    ".venv-gpu-compile/bin/python",
    "An interpreter with JAX and the packages of the extra gpu-compile.",
)
_OUTPUT = flags.DEFINE_string(
    "output",
    "runs/benchmarks",
    "Folder to write the files to; results has the committed ones.",
)


def main() -> None:
    """Compiles, writes and prints the tables."""
    problems = compile_report.problems(
        _WORKLOADS.value, _BATCH_SIZES.value, _DTYPES.value
    )
    folder, env = pathlib.Path(_OUTPUT.value), provenance.environment()
    found = []
    with Progress("compiling", len(problems), unit="problems") as progress:
        for check in compile_report.compile_all(problems, _PYTHON.value):
            found.append(check)
            progress.advance()
    compile_report.write(folder, found, env)
    print((folder / compile_report.TABLES).read_text())


if __name__ == "__main__":
    launch.run(main)
