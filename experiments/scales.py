"""Flags that the launchers of the paper's experiments share: scale and images."""

from collections.abc import Mapping, Sequence

from absl import flags

from capsjax.data import Source
from capsjax.errors import UserError
from experiments import launch

_SIZES = {"smoke": "quick", "cpu": "cpu", "paper": ""}


def define_scale() -> flags.FlagHolder[str]:
    """Defines ``--scale``."""
    return flags.DEFINE_enum(
        "scale",
        "cpu",
        list(_SIZES),
        "smoke: tiny networks for seconds, to see that all works; cpu: a quarter of "
        "the channels, for minutes to an hour on two cores; paper: as published and as "
        "long as the released code trains, for GPUs.",
    )


def define_images() -> flags.FlagHolder[str]:
    """Defines ``--images``."""
    return flags.DEFINE_enum(
        "images",
        "mnist",
        ["mnist", "digits"],
        "mnist, from --data_dir; or digits, scikit-learn's 1,797 resized to 28x28, to "
        "try things out without any download.",
    )


def config_flag(name: str, preset: str, scale: str) -> str:
    """The flag that chooses a config of ``experiments/configs`` at a scale."""
    words = ",".join(word for word in (preset, _SIZES[scale]) if word)
    return f"--config=experiments/configs/{name}.py:{words}"


def data_flags(images: str, data_dir: str | None, *, derived: bool = True) -> list[str]:
    """The flags that choose the images, of a data set derived from them or not.

    Raises:
        UserError: a data directory is given that the digits do not need.
    """
    if images == "mnist":
        return [] if data_dir is None else [f"--data_dir={data_dir}"]
    if data_dir is not None:
        raise UserError("--images=digits needs no --data_dir; leave one of them out")
    return [
        f"--config.data.{'base' if derived else 'name'}=digits",
        "--config.data.image_size=28",
        "--config.data.validation_examples=180",
    ]


def step_flags(steps: int | None) -> list[str]:
    """The flags for another number of steps; the learning rate falls to a tenth.

    Whatever the schedule of the config is, so that networks are trained alike.
    """
    if steps is None:
        return []
    return [
        f"--config.max_steps={steps}",
        "--config.optimizer.schedule=exponential",
        "--config.optimizer.boundaries=()",
        "--config.optimizer.warmup_steps=0",
        "--config.optimizer.decay_rate=0.96",
        f"--config.optimizer.decay_steps={max(steps // 56, 1)}",
    ]


def network_flag(network: str, *, quick: bool = False) -> str:
    """The flag that chooses the config of a network, NAME, NAME:PRESET or with :SIZE.

    Args:
        network: name and words, such as ``"mnist:paper:cpu"``.
        quick: whether to take the quick size in place of the named one.
    """
    name, *words = network.split(":")
    if quick:
        words = [word for word in words if word not in ("cpu", "quick")] + ["quick"]
    return f"--config={name}" + (f":{','.join(words)}" if words else "")


def data_of(words: Mapping[str, Sequence[str]]) -> Source:
    """The data that the networks to be compared have in common.

    Args:
        words: flags of experiments.train by the network's name.

    Raises:
        UserError: no networks, or their configs have other data.
    """
    if not words:
        raise UserError("--networks is empty; give names of configs with commas")
    data = {name: launch.config_of(flags).data for name, flags in words.items()}
    first, *others = data
    for name in others:
        if data[name] != data[first]:
            raise UserError(
                f"{name} and {first} in --networks have other data; choose configs of "
                "one data set"
            )
    return data[first]
