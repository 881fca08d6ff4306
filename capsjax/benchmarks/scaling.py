"""The scaling benchmark: images per second of the train step on 1, 2, ... devices.

Weak scaling gives each device its own batch of the same size; strong scaling divides
one batch among the devices. Times are by the wall clock on a GPU too, because
distributing the step also costs time outside the devices.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from capsjax import config as config_lib
from capsjax.benchmarks.programs import Problem
from capsjax.config import Config
from capsjax.errors import UserError
from capsjax.runs import results
from capsjax.runs.results import Row
from capsjax.training import parallel
from kernels.tools.timing import Timing

SCALINGS = ("weak", "strong")

# A warning for times on several virtual devices of one CPU.
SHARED_CORES = (
    "virtual devices share the CPU's cores: expect no speed-up, only the cost of "
    "distributing the step"
)


def default_counts(available: int) -> list[int]:
    """The powers of two up to a number of devices, and that number."""
    powers = [2**exponent for exponent in range(available.bit_length())]
    return sorted({*powers, available})


def make_configs(config: Config, counts: Sequence[int], scaling: str) -> list[Config]:
    """The configs to compare, in ascending order of ``num_devices``.

    Args:
        config: a run's config. Its ``batch_size`` is that of each device in weak
            scaling and of all devices together in strong scaling and in the results;
            its ``num_devices`` is ignored.
        counts: numbers of devices.
        scaling: one of `SCALINGS`.

    Raises:
        UserError: there are too few devices, they cannot share the batch equally, or
            the config has invalid values.
    """
    config_lib.check(config)
    devices = jax.devices()
    if max(counts) > len(devices):
        raise UserError(
            f"--devices asks for {max(counts)}, but there are {len(devices)} "
            f"({devices[0].device_kind}); name at most that many"
        )
    configs = []
    for count in sorted(set(counts)):
        one = config.replace(num_devices=count)
        if scaling == "weak":
            one.batch_size = count * config.batch_size
        elif config.batch_size % count:
            multiple = math.lcm(*counts)
            nearest = max(round(config.batch_size / multiple), 1) * multiple
            raise UserError(
                f"config.batch_size is {config.batch_size}, which {count} devices "
                f"cannot share equally; choose a multiple of {multiple} such as "
                f"{nearest}, or leave {count} out of --devices"
            )
        parallel.choose(one)  # Raises its errors before the work.
        configs.append(one)
    return configs


def rows(
    problems: Sequence[Problem],
    scaling: str,
    timings: Sequence[Timing],
    env: Mapping[str, Any],
) -> list[Row]:
    """A row for each problem, of a config of `make_configs`, and its step's time.

    Efficiency is each device's images per second relative to the fewest devices: 1 is
    ideal.
    """
    first = problems[0].config
    fewest = first.batch_size / timings[0].median_s / first.num_devices
    found = []
    for problem, timing in zip(problems, timings, strict=True):
        config = problem.config
        speed = config.batch_size / timing.median_s
        measured = {
            **config.model.columns(),
            "image_shape": problem.size,
            "num_classes": problem.num_classes,
            "parallelism": config.parallelism,
            "scaling": scaling,
            "dtype": config.dtype,
            "devices": config.num_devices,
            "batch_size": config.batch_size,
            **timing.columns(),
            "images_per_s": speed,
            "efficiency": (speed / config.num_devices) / fewest,
        }
        found.append(results.row(env, measured))
    return found


def title(row: Row) -> str:
    """The settings of a measurement, in one line."""
    batch, sharers = int(row["batch_size"]), "all devices together"
    if row["scaling"] == "weak":
        batch, sharers = batch // int(row["devices"]), "each device"
    return (
        f"{row['model']}, {row['image_shape']} images, {row['num_classes']} classes, "
        f"{row['dtype']}, {row['parallelism']}, batch of {batch} images for {sharers}"
    )


def table(rows: Sequence[Row]) -> str:
    """A table of one measurement for the terminal, the fewest devices first."""
    times = {"median s": "median_s", "min": "min_s", "max": "max_s"}
    header = ("devices", "batch", *times, "images/s", "speed-up", "efficiency")
    cells = [
        [
            *(row["devices"], row["batch_size"]),
            *(f"{row.number(column):.4g}" for column in times.values()),
            f"{row.number('images_per_s'):.1f}",
            f"{row.number('images_per_s') / rows[0].number('images_per_s'):.2f}",
            f"{row.number('efficiency'):.1%}",
        ]
        for row in rows
    ]
    return results.text_table(header, cells, numeric=header)
