"""The flags of launchers that run many trainings: how many at a time, and where."""

import re
from collections.abc import Callable

from absl import flags

from capsjax.errors import UserError
from capsjax.runs.executors import slurm
from capsjax.runs.executors.base import MakeExecutor
from capsjax.runs.executors.local import Processes
from experiments import launch


def define_jobs() -> flags.FlagHolder[int | None]:
    """Defines ``--jobs``, of launchers that run many trainings."""
    launch.group("Many trainings", "jobs")
    return flags.DEFINE_integer(
        "jobs",
        None,
        "Number of trainings that run at the same time; by default one per GPU, or one "
        "on a CPU, and on a cluster as many as it allows.",
        lower_bound=1,
    )


def define_launcher() -> Callable[[], MakeExecutor]:
    """Defines ``--launcher``, of launchers that run many trainings, and its settings.

    Returns:
        A function that returns what runs them; call it before anything takes long. It
        raises `UserError` if the cluster cannot be used.
    """
    launcher = flags.DEFINE_enum(
        "launcher",
        "local",
        ["local", "slurm"],
        "Where the trainings run: as processes of this machine, or as tasks of a job "
        "array of a Slurm cluster, of which --jobs run at the same time, by default as "
        "many as the cluster allows. This command waits for them; Ctrl-C cancels the "
        "jobs with their state saved, and the same command goes on. See "
        "docs/clusters.md.",
    )
    default = slurm.Settings()
    partition = flags.DEFINE_string(
        "slurm_partition", "", "Partition of the jobs; by default the cluster's."
    )
    minutes = flags.DEFINE_integer(
        "slurm_minutes",
        default.minutes,
        "Time limit of a job. A training that needs longer is saved and goes on in the "
        "queue.",
        lower_bound=1,
    )
    save_seconds = flags.DEFINE_integer(
        "slurm_save_seconds",
        default.save_seconds,
        "Seconds before the time limit at which a training is told to save its state.",
        lower_bound=1,
    )
    cpus = flags.DEFINE_integer(
        "slurm_cpus", default.cpus, "CPUs of each training.", lower_bound=1
    )
    gpus = flags.DEFINE_integer(
        "slurm_gpus", default.gpus, "GPUs of each training.", lower_bound=0
    )
    memory = flags.DEFINE_float(
        "slurm_memory_gb",
        None,
        "Memory of each training in GB; by default the cluster's.",
        lower_bound=0.1,
    )
    options = flags.DEFINE_multi_string(
        "slurm_option",
        [],
        "A further option of sbatch, KEY=VALUE, such as account=vision or qos=long; "
        "may be given several times.",
    )
    launch.group(
        "Many trainings",
        *("launcher", "slurm_partition", "slurm_minutes", "slurm_save_seconds"),
        *("slurm_cpus", "slurm_gpus", "slurm_memory_gb", "slurm_option"),
    )

    def take_up() -> MakeExecutor:
        if launcher.value == "local":
            return Processes
        further = {}
        for text in options.value:
            match = re.fullmatch(r"(?:--)?([a-z][a-z-]*)=(.+)", text)
            if not match:
                raise UserError(
                    f"--slurm_option={text} is not KEY=VALUE with an option of sbatch, "
                    "such as account=vision"
                )
            further[match[1]] = match[2]
        return slurm.executor(
            slurm.Settings(
                partition=partition.value,
                minutes=minutes.value,
                save_seconds=save_seconds.value,
                cpus=cpus.value,
                gpus=gpus.value,
                memory_gb=memory.value,
                options=further,
            )
        )

    return take_up


def define_dry_run() -> flags.FlagHolder[bool]:
    """Defines ``--dry_run``, of launchers that run many trainings."""
    launch.group("Many trainings", "dry_run")
    return flags.DEFINE_bool(
        "dry_run",
        False,
        "Prints the commands of the trainings, for a cluster, and runs nothing.",
    )
