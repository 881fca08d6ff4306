"""The scaling benchmark: images per second of the train step on more and more devices.

Weak scaling gives each device a batch of its own, as many as there are; strong scaling
shares one batch out. Times are by the wall clock also on a GPU, for what spreading the
step costs outside the devices counts too. The numbers of devices are timed in turn, so
that what else the machine does slows all of them, and the ratios hold.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from capsjax import config as config_lib
from capsjax.benchmarks.programs import Program, compile_in_place, random_batch
from capsjax.config import Config
from capsjax.errors import UserError
from capsjax.runs import results
from capsjax.runs.results import Row
from capsjax.training import parallel
from capsjax.training import step as train_step
from kernels.tools.timing import Timing, wall_in_turn

SCALINGS = ("weak", "strong")

# What a reader must know of times on several devices made of one CPU.
SHARED_CORES = (
    "virtual devices share the CPU's cores: no speed-up is to be expected, "
    "only the cost of spreading shows"
)


def parse_counts(words: Sequence[str]) -> list[int]:
    """Numbers of devices as a user gives them.

    Raises:
        UserError: one of them is no number of devices, or there is none.
    """
    for word in words or [""]:
        if not word.isdecimal() or int(word) < 1:
            raise UserError(
                f"--devices={','.join(words)}: {word!r} is not a number of devices; "
                "give some, such as 1,2,4"
            )
    return [int(word) for word in words]


def default_counts(available: int) -> list[int]:
    """The powers of two up to a number of devices, and that number."""
    powers = [2**exponent for exponent in range(available.bit_length())]
    return sorted({*powers, available})


def make_configs(config: Config, counts: Sequence[int], scaling: str) -> list[Config]:
    """The configs to compare: ``num_devices`` ascends, ``batch_size`` is of all.

    Args:
        config: a run's. Its ``batch_size`` is one device's where scaling is weak, the
            whole batch where it is strong; its ``num_devices`` is not looked at.
        counts: numbers of devices.
        scaling: one of `SCALINGS`.

    Raises:
        UserError: there are not so many devices, they cannot share the batch equally,
            or the config has values that no run can have.
    """
    config_lib.check(config)
    devices = jax.devices()
    if max(counts) > len(devices):
        raise UserError(
            f"--devices asks for {max(counts)}, but there are {len(devices)} "
            f"({devices[0].device_kind}); name at most so many"
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
        parallel.choose(one)  # Complains before the work.
        configs.append(one)
    return configs


def measure(
    configs: Sequence[Config],
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    repeats: int,
    on_call: Callable[[], None] = lambda: None,
) -> list[Timing]:
    """Times the train step of each config, in turn, after one untimed call.

    The batch lies on the devices before: loading and feeding it are not in the time.

    Args:
        configs: from `make_configs`.
        image_shape: (H, W, C) of the (random) images.
        num_classes: number of classes.
        repeats: timed calls of each.
        on_call: called after each call.

    Returns:
        Wall clock times, in the order of the configs.

    Raises:
        UserError: settings that are unknown or do not fit together.
    """
    steps = [_train_step(config, image_shape, num_classes) for config in configs]
    calls = [step.call for step in steps]
    return wall_in_turn(calls, repeats=repeats, on_call=on_call)


def rows(
    configs: Sequence[Config],
    scaling: str,
    timings: Sequence[Timing],
    env: Mapping[str, Any],
) -> list[Row]:
    """A row for each config.

    Efficiency is the share that is left of each device's images per second on the
    fewest devices: 1 is ideal.

    Args:
        configs: from `make_configs`.
        scaling: by which they were made.
        timings: from `measure`.
        env: from `capsjax.runs.provenance.environment`.
    """
    speeds = [
        config.batch_size / timing.median_s
        for config, timing in zip(configs, timings, strict=True)
    ]
    found = []
    for config, timing, speed in zip(configs, timings, speeds, strict=True):
        measured = {
            **config.model.columns(),
            "parallelism": config.parallelism,
            "scaling": scaling,
            "dtype": config.dtype,
            "devices": config.num_devices,
            "batch_size": config.batch_size,
            "median_s": timing.median_s,
            "min_s": timing.min_s,
            "max_s": timing.max_s,
            "repeats": len(timing.seconds),
            "images_per_s": speed,
            "efficiency": (speed / config.num_devices)
            / (speeds[0] / configs[0].num_devices),
        }
        found.append(results.row(env, measured))
    return found


def table(rows: Sequence[Row]) -> str:
    """The rows of one measurement, the fewest devices first, as people read them."""
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


def _train_step(
    config: Config, image_shape: tuple[int, int, int], num_classes: int
) -> Program:
    batch = random_batch(config, image_shape, num_classes)
    devices = parallel.choose(config)
    # A state of its own: the step donates it, and replicas may share its memory.
    graphdef, state = train_step.create(config, image_shape, num_classes)
    step = train_step.make_train_step(graphdef, config, devices)
    return compile_in_place(
        "step", "train", step, devices.replicate(state), devices.shard(batch)
    )
