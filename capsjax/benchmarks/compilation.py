"""Rows and tables of the fused routing kernels as the compiler reports them."""

import itertools
import math
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from capsjax.benchmarks import choices
from capsjax.errors import UserError
from capsjax.runs import results
from capsjax.runs.results import Row
from kernels.routing.dynamic import compile_check
from kernels.routing.dynamic.compile_check import Check
from kernels.routing.dynamic.workloads import WORKLOADS
from kernels.tools.ahead_of_time import DEVICE_KIND, Kernel, largest

# Files of the rows, and of the tables that are generated from them.
KERNELS, MEMORY = "routing_compile.csv", "routing_memory.csv"
TABLES = "routing_compile.md"
DTYPES = ("float32", "bfloat16", "float16")

_TEXT = """\
# The fused routing kernels, compiled for an {device}

What NVIDIA's assembler and XLA say of `kernels/routing/dynamic/mosaic_gpu`, without a
GPU; so there are no times. `python -m experiments.compile_routing` writes this file
from the rows in [{kernel_file}]({kernel_file}) and
[{memory_file}]({memory_file}).

- JAX {jax}, commit {commit}
- batches of {batches}; {dtypes}
- kernels that spill registers: {spills}
- products that the assembler serialized: {serialized}

## Kernels

Registers of a thread / KB (1024 bytes) of shared memory of a block / blocks that fit on
a multiprocessor by both; the worst over batches and dtypes.

{kernels}

## Temporary memory

MB (10^6 bytes) of XLA's temporaries, fused / textbook = ratio, without and with the
gradients of inputs, weights and bias; and how many fused kernels run.

{memory}
"""


def problems(
    workloads: Sequence[str], batch_sizes: Sequence[str], dtypes: Sequence[str]
) -> list[tuple[str, int, str]]:
    """All combinations of a workload's name, a batch size and a dtype.

    Raises:
        UserError: an unknown name or an invalid batch size.
    """
    choices.check_names("workloads", workloads, WORKLOADS)
    choices.check_names("dtypes", dtypes, DTYPES)
    sizes = choices.counts("batch_sizes", batch_sizes, "examples")
    return list(itertools.product(workloads, sizes, dtypes))


def compile_all(
    problems: Sequence[tuple[str, int, str]], python: str
) -> Iterator[Check]:
    """Checks each problem in its own process of the interpreter ``python``.

    Raises:
        UserError: there is no such interpreter, or it lacks the packages.
    """
    found = shutil.which(python)
    if found is None or not compile_check.has_compiler(found):
        raise UserError(
            f"{python} is not a Python with the packages of the extra gpu-compile; "
            "`make test-gpu-compile` makes one"
        )
    for problem in problems:
        yield compile_check.check(*problem, python=os.path.abspath(found))


def blocks_per_multiprocessor(kernel: Kernel) -> int:
    """Number of blocks of 128 threads that fit, by registers and shared memory.

    A multiprocessor of compute capability 9.0 has 65,536 registers, handed out to
    threads in units of 8, and 233,472 bytes of shared memory, of which each block
    reserves 1,024.
    """
    registers = math.ceil(kernel.registers / 8) * 8 * 128
    return min(65_536 // registers, 233_472 // (kernel.shared_bytes + 1_024))


def kernel_rows(found: Check, env: Mapping[str, Any]) -> list[Row]:
    """A row for each kernel of a checked workload."""
    return [
        results.row(
            env,
            _problem(found)
            | {"kernel": name, **kernel._asdict()}
            | {"blocks_per_multiprocessor": blocks_per_multiprocessor(kernel)},
        )
        for name, kernel in found.kernels.items()
    ]


def memory_rows(found: Check, env: Mapping[str, Any]) -> list[Row]:
    """A row for each direction of a checked workload."""
    directions = ("forward", "forward+backward")
    return [
        results.row(
            env,
            _problem(found)
            | {
                "direction": direction,
                "fused_temp_mb": fused.temp_bytes / 1e6,
                "textbook_temp_mb": textbook.temp_bytes / 1e6,
                "fused_to_textbook": fused.temp_bytes / textbook.temp_bytes,
                "fused_kernels": fused.custom_calls,
                "serialized": found.serialized,
                "config": " ".join(f"{k}={v}" for k, v in found.config.items()),
            },
        )
        for direction, fused, textbook in zip(
            directions, found.fused, found.textbook, strict=True
        )
    ]


def write(folder: pathlib.Path, found: Sequence[Check], env: Mapping[str, Any]) -> None:
    """Replaces the three files in a folder by rows and tables of at least one check."""
    kernels = [row for check in found for row in kernel_rows(check, env)]
    memory = [row for check in found for row in memory_rows(check, env)]
    results.write(folder / KERNELS, kernels)
    results.write(folder / MEMORY, memory)
    spills = (
        f"{row['kernel']} in {_name(row)}"
        for row in kernels
        if row["spilled_bytes"] != "0"
    )
    serialized = (f"in {_name(row)}" for row in memory if row["serialized"] == "True")
    text = _TEXT.format(
        kernel_file=KERNELS,
        memory_file=MEMORY,
        device=DEVICE_KIND,
        jax=kernels[0]["jax"],
        commit=kernels[0]["commit"],
        batches=_listed(row["batch_size"] for row in kernels),
        dtypes=_listed(row["dtype"] for row in kernels),
        spills=_listed(spills),
        serialized=_listed(serialized),
        kernels=kernel_table(kernels),
        memory=memory_table(memory),
    )
    (folder / TABLES).write_text(text)


def kernel_table(rows: Sequence[Row]) -> str:
    """A Markdown table with a line for each workload and a column for each kernel."""
    names = dict.fromkeys(row["kernel"] for row in rows)
    lines: dict[str, dict[str, str]] = {}
    for (workload, name), members in results.grouped(
        rows, "workload", "kernel"
    ).items():
        worst = largest(Kernel(*(int(x[c]) for c in Kernel._fields)) for x in members)
        blocks = min(int(row["blocks_per_multiprocessor"]) for row in members)
        cells = lines.setdefault(workload, {})
        cells[name] = f"{worst.registers} / {worst.shared_bytes / 1024:.0f} / {blocks}"
    return results.markdown_table(
        ["workload", *names],
        [[key, *(x.get(name, "") for name in names)] for key, x in lines.items()],
    )


def memory_table(rows: Sequence[Row]) -> str:
    """A Markdown table with a line for each workload, batch size and dtype."""
    directions = dict.fromkeys(row["direction"] for row in rows)
    problem = ("workload", "batch_size", "dtype")
    lines = [
        [
            *key,
            *(
                f"{row.number('fused_temp_mb'):.1f} / "
                f"{row.number('textbook_temp_mb'):.1f} = "
                f"{row.number('fused_to_textbook'):.3f}"
                for row in members
            ),
            ", ".join(row["fused_kernels"] for row in members),
        ]
        for key, members in results.grouped(rows, *problem).items()
    ]
    header = ["workload", "batch", "dtype", *directions, "kernels"]
    return results.markdown_table(header, lines, numeric=["batch", *directions])


def _problem(found: Check) -> dict[str, Any]:
    return {
        "device": f"{DEVICE_KIND} (ahead of time)",
        "jax": found.jax,
        "workload": found.workload,
        **found.sizes._asdict(),
        "batch_size": found.batch,
        "dtype": found.dtype,
    }


def _name(row: Row) -> str:
    return f"{row['workload']} {row['batch_size']} {row['dtype']}"


def _listed(words: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(words)) or "none"
