"""The config of a run: every field, with its default, unit and bounds.

The configs of models, losses and routing algorithms are in the rooms of those names.
``python -m experiments.train --config=FILE --help_config`` prints all fields.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

from capsjax import fields
from capsjax.data import Source
from capsjax.errors import UserError
from capsjax.fields import field
from capsjax.losses import LOSSES, margin
from capsjax.losses.base import Config as LossConfig
from capsjax.models import MODELS
from capsjax.models.base import Config as ModelConfig
from capsjax.models.capsules import capsnet

# float16 would need scaled gradients, to stay above its smallest number.
DTYPES = ("float32", "bfloat16")

_CHANGES_IMAGES = (
    "preprocess.crop",
    "preprocess.standardize",
    "augment.shift",
    "augment.rotation",
    "augment.shear",
    "augment.scale",
    "augment.flip",
    "augment.handwriting",
    "augment.cutout",
    "augment.mixup",
    "augment.elastic.alpha",
)
_LEAVES_UNIT_RANGE = (
    "preprocess.standardize",
    "preprocess.channel_mean",
    "preprocess.channel_std",
    "augment.brightness",
    "augment.contrast",
)


@dataclasses.dataclass(kw_only=True, slots=True)
class Preprocess(fields.Config):
    """Preprocessing of training and evaluation images."""

    crop: int = field(
        0,
        "Side in pixels of the patch that is cut out, at random in training, else from "
        "the centre; 0: whole images.",
        at_least=0,
    )
    standardize: bool = field(
        False, "Subtracts each image's mean and divides by its standard deviation."
    )
    channel_mean: tuple[float, ...] = field(
        (), "Numbers in [0, 1] that are subtracted from the channels; empty: none."
    )
    channel_std: tuple[float, ...] = field(
        (), "Numbers by which the channels are divided then; empty: none.", above=0
    )


@dataclasses.dataclass(kw_only=True, slots=True)
class Elastic(fields.Config):
    """Elastic distortion; the paper's values for MNIST are sigma 4 and alpha 34."""

    alpha: float = field(
        0.0,
        "Largest move of a pixel before the moves are smoothed, in pixels; 0: off.",
        at_least=0,
    )
    sigma: float = field(
        4.0,
        "Standard deviation in pixels of the Gaussian that smooths the moves.",
        above=0,
    )


@dataclasses.dataclass(kw_only=True, slots=True)
class Augment(fields.Config):
    """Augmentation of training images."""

    rotation: float = field(0.0, "Largest rotation either way, degrees.", at_least=0)
    scale: tuple[float, float] = field(
        (1.0, 1.0), "Smallest and largest factor of size, drawn for each axis."
    )
    shear: float = field(
        0.0,
        "Largest shear: pixels that a row moves per pixel of distance from the centre.",
        at_least=0,
    )
    shift: int = field(
        2, "Largest random shift along each axis in pixels, zero fill.", at_least=0
    )
    flip: bool = field(False, "Mirrors half of the images left to right.")
    brightness: float = field(
        0.0, "Largest change of brightness, in units of the full range.", at_least=0
    )
    contrast: tuple[float, float] = field(
        (1.0, 1.0), "Smallest and largest factor of contrast."
    )
    handwriting: bool = field(
        False,
        "Rotates by up to 30 degrees, shifts within the margins, makes narrower and "
        "erases a patch, as Efficient-CapsNet is trained.",
    )
    elastic: Elastic = field(Elastic, "Random moves of the pixels, neighbours alike.")
    colors_before_crop: bool = field(
        False, "Changes brightness and contrast before the patch is cut out."
    )
    cutout: int = field(
        0, "Side in pixels of a square of zeros at a random place; 0: none.", at_least=0
    )
    mixup: float = field(
        0.0,
        "Mixes the examples of each pair in the batch, and their losses: parameter of "
        "the beta distribution of the shares; 0: not at all.",
        at_least=0,
    )


@dataclasses.dataclass(kw_only=True, slots=True)
class Adversarial(fields.Config):
    """Training on images that an attack (PGD) has made of the training images."""

    radius: float = field(
        0.0,
        "Radius of the ball in which each image is changed, in units of the pixels' "
        "full range, such as 0.3 for MNIST; 0: images as they are.",
        at_least=0,
    )
    norm: str = field(
        "linf",
        "Norm of the ball: linf, of the largest change; l2, the Euclidean norm.",
        choices=("linf", "l2"),
    )
    steps: int = field(
        7,
        "Steps of the attack; it costs as many training steps, and one more.",
        at_least=1,
    )
    step_size: float = field(
        0.0,
        "Length of each step as a share of the radius; 0: 2.5 / steps, or 1 for a "
        "single step.",
        at_least=0,
    )


@dataclasses.dataclass(kw_only=True, slots=True)
class Optimizer(fields.Config):
    """The optimizer, its learning rate, and what it regularises.

    By default the rate is ``learning_rate * decay_rate ** (step / decay_steps)``, never
    below the minimum. The paper says "exponentially decaying"; the numbers are those of
    the released code.
    """

    name: str = field("adam", "Name from capsjax.training.optim.OPTIMIZERS.")
    learning_rate: float = field(
        1e-3, "Learning rate of the first step after warm-up.", at_least=0
    )
    schedule: str = field(
        "exponential",
        "Fall of the learning rate: exponential, by decay_rate per decay_steps; cosine "
        "or linear, to the minimum at decay_steps; or steps, by decay_rate at each of "
        "the boundaries.",
        choices=("exponential", "cosine", "linear", "steps"),
    )
    decay_rate: float = field(
        0.96,
        "Factor of the learning rate per decay_steps, or at each boundary.",
        above=0,
        at_most=1,
    )
    decay_steps: int = field(
        2_000, "Steps for that factor, or until the minimum.", at_least=1
    )
    boundaries: tuple[int, ...] = field(
        (), "Steps after which the rate falls, if the schedule is steps.", at_least=1
    )
    min_learning_rate: float = field(
        1e-6, "Smallest learning rate, of all schedules but steps.", at_least=0
    )
    warmup_steps: int = field(
        0,
        "First steps, in which the rate rises in proportion to the step; the schedule "
        "counts them, too.",
        at_least=0,
    )
    momentum: float = field(0.0, "Momentum of sgd and nesterov.", at_least=0, at_most=1)
    weight_decay: float = field(
        0.0,
        "Weight decay of kernels and matrices, not of biases and scales: added to the "
        "gradient, or for adamw to the update.",
        at_least=0,
    )
    rates: tuple[str, ...] = field(
        (),
        "Factors of the learning rate of some parameters, as PATTERN=FACTOR, such as "
        "'logits=10' or 'blocks.0.*=0', which freezes them (but not the running "
        "averages of normalisations); the last match counts.",
    )
    average_decay: float = field(
        0.0,
        "Evaluates an exponential moving average of the parameters, of which each step "
        "keeps this share; 0: the parameters themselves.",
        at_least=0,
        at_most=1,
    )


@dataclasses.dataclass(kw_only=True, slots=True)
class Config(fields.Config):
    """A run; the defaults are the paper's CapsNet on MNIST."""

    seed: int = field(
        0,
        "Seed of initial parameters, order of the data, augmentation and dropout.",
        at_least=0,
        changes_result=False,
    )
    batch_size: int = field(
        128, "Examples in one step, over all devices and processes.", at_least=1
    )
    num_epochs: int = field(
        10, "Passes over the training images.", at_least=1, may_change=True
    )
    max_steps: int = field(
        0,
        "Ends training after this many steps; 0: only num_epochs counts.",
        at_least=0,
        may_change=True,
    )
    log_every_steps: int = field(
        20,
        "Steps between rows of training metrics.",
        at_least=1,
        may_change=True,
        changes_result=False,
    )
    checkpoint_every_steps: int = field(
        0,
        "Steps between checkpoints, besides the one after every epoch; 0: none.",
        at_least=0,
        may_change=True,
        changes_result=False,
    )
    parallelism: str = field(
        "jit",
        "Way to distribute a step over devices (see capsjax.training.parallel).",
        choices=("jit", "pmap"),
        may_change=True,
        changes_result=False,
    )
    num_devices: int = field(
        0,
        "Number of devices that share each batch; 0: all.",
        at_least=0,
        may_change=True,
        changes_result=False,
    )
    dtype: str = field(
        "float32",
        "Dtype of the layers; parameters, sums and loss are float32.",
        choices=DTYPES,
    )
    debug_nans: bool = field(
        False,
        "Names the line of code that makes a NaN in the loss or a gradient; waits for "
        "every step and keeps its state, so it is slower and needs more memory.",
        may_change=True,
        changes_result=False,
    )
    evaluate_every_steps: int = field(
        0,
        "Steps between evaluations of the validation images, besides the end of every "
        "epoch; 0: only then.",
        at_least=0,
    )
    stop_at_validation_accuracy: float = field(
        0.0,
        "Ends training at this accuracy on the validation images; 0: never.",
        at_least=0,
        at_most=1,
    )
    diagnose_routing: bool = field(
        False,
        "Adds rows with each routing iteration's change of the logits and entropy of "
        "the coupling coefficients to each evaluation.",
        may_change=True,
        changes_result=False,
    )
    init_from: str = field(
        "",
        "Trained network whose parameters and running averages training starts from: "
        "the folder of a run, a file that experiments.publish wrote, or a file of "
        "torchvision's or timm's network; empty: random ones.",
    )
    init_layers: tuple[str, ...] = field(
        (),
        "Layers to take from init_from, as patterns such as 'blocks.*'; empty: all "
        "that have the same name and shapes in both.",
    )

    data: Source = field(Source, "Data set.")
    preprocess: Preprocess = field(
        Preprocess, "Applied to training and evaluation images alike."
    )
    augment: Augment = field(Augment, "Applied to training images only.")
    adversarial: Adversarial = field(Adversarial, "Adversarial training.")
    model: ModelConfig = field(capsnet.Config, "Network.", registry=MODELS)
    loss: LossConfig = field(margin.Config, "Loss.", registry=LOSSES)
    optimizer: Optimizer = field(Optimizer, "Optimizer and learning rate.")


def classes_per_image(config: Config) -> int:
    """K, the number of classes that each image of the data shows."""
    return 2 if config.data.name == "multimnist" else 1


def current_flag(word: str) -> str:
    """Returns a flag such as ``--config.model.leaky=true`` with its current path."""
    for model in MODELS.values():
        for old, new in model.RENAMED.items():
            if word.startswith(f"--config.model.{old}="):
                return word.replace(f".{old}=", f".{new}=", 1)
    return word


def check(config: Config) -> None:
    """Refuses invalid values and combinations.

    Raises:
        UserError: names the first such field, its value and the valid values.
    """
    fields.check(config)
    for name, least in (("contrast", 0.0), ("scale", 0.01)):
        low, high = getattr(config.augment, name)
        if not least <= low <= high:
            raise UserError(
                f"config.augment.{name} is {(low, high)}; "
                f"it must be (smallest, largest) with {least:g} <= smallest <= largest"
            )
    if config.adversarial.radius:
        _check_adversarial(config)
    if config.init_layers and not config.init_from:
        raise UserError(
            f"config.init_layers is {config.init_layers}, but config.init_from names "
            "no trained network; set it, or leave init_layers out"
        )
    model, loss = config.model, config.loss
    labels = "several" if classes_per_image(config) > 1 else "one"
    if model.scores not in loss.takes or labels not in loss.labels:
        suitable = [
            repr(name)
            for name, one in LOSSES.items()
            if model.scores in one.takes and labels in one.labels
        ]
        raise UserError(
            f"config.loss.name {loss.name!r} does not suit config.model.name "
            f"{model.name!r} on {config.data.name}; set it to {' or '.join(suitable)}"
        )
    if labels == "several" and (path := _first_set(config, _CHANGES_IMAGES)):
        raise UserError(
            f"config.{path} and multimnist do not go together: it would change the "
            "pairs, but not the digits that the decoder should draw; leave it out "
            "(config.data.shift moves the digits)"
        )
    if config.diagnose_routing and not (model.routing and model.routing.diagnosable):
        raise UserError(
            f"config.diagnose_routing is on, but config.model.name {model.name!r} has "
            f"{model.routing.name if model.routing else 'no'} routing, which cannot be "
            "diagnosed; leave it out, or choose dynamic routing"
        )
    if model.has_decoder and (path := _first_set(config, _LEAVES_UNIT_RANGE)):
        off = " ".join(
            f'--config.model.{name}="{value}"'
            for name, value in model.decoder_off.items()
        )
        raise UserError(
            f"config.{path} and a decoder do not go together: the decoder's output "
            f"lies in [0, 1], such images do not; set {off} or leave config.{path} out"
        )


def _check_adversarial(config: Config) -> None:
    if classes_per_image(config) > 1:
        raise UserError(
            f"config.adversarial.radius is {config.adversarial.radius:g}, but images "
            f"of {config.data.name} show several classes; leave it out"
        )
    # Changes are bounded before means are taken out, and cut off at 0 and 1.
    out = ("augment.brightness", "augment.contrast", "augment.mixup")
    if path := _first_set(config, out):
        raise UserError(
            f"config.adversarial.radius and config.{path} do not go together: attacks "
            "take images in [0, 1], of one class; leave one of them out"
        )


def _first_set(config: Config, paths: Iterable[str]) -> str | None:
    """The first of some fields whose value changes images."""
    values = fields.flatten(config)
    neutral: tuple[Any, ...] = (0, (), [], (1.0, 1.0), [1.0, 1.0])
    return next((path for path in paths if values[path] not in neutral), None)
