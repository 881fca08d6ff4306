"""The config of a run: every field, with its default, unit and bounds.

The configs of models, losses and routing algorithms stand in the rooms of those names.
``python -m experiments.train --config=FILE --help_config`` prints all fields.
"""

import dataclasses

from capsjax import fields
from capsjax.errors import UserError
from capsjax.fields import field
from capsjax.losses import LOSSES, margin
from capsjax.losses.base import Config as LossConfig
from capsjax.models import MODELS, capsnet
from capsjax.models.base import Config as ModelConfig

# float16 would need its gradients scaled to stay above its smallest number.
DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(kw_only=True, slots=True)
class Data(fields.Config):
    """The data set."""

    name: str = field("mnist", "Name from capsjax.data.DATASETS or DERIVED.")
    path: str = field(
        "", "Folder or NPZ file of your own images (data.name folder or npz)."
    )
    image_size: int = field(
        0, "Side in pixels to which images are resized; 0: as stored.", at_least=0
    )
    validation_examples: int = field(
        5_000,
        "Training images held out for validation; the split is the same for all seeds.",
        at_least=0,
    )
    base: str = field(
        "mnist", "Data set of single digits that derived data sets are made from."
    )
    canvas: int = field(
        40, "Side in pixels of the canvas on which those put each digit.", at_least=1
    )
    shift: int = field(
        6, "Largest shift of a digit from the canvas's centre, in pixels.", at_least=0
    )
    versions_per_digit: int = field(
        1,
        "multimnist: pairs that each validation and test digit is the first one of; "
        "affnist: transformed versions of each test digit, where they are generated.",
        at_least=1,
    )
    novel_viewpoint: str = field(
        "",
        "smallnorb: azimuth or elevation trains on some viewpoints and tests on "
        "others, azimuth_familiar or elevation_familiar on the same; empty: official.",
    )


@dataclasses.dataclass(kw_only=True, slots=True)
class Preprocess(fields.Config):
    """What is done to training and evaluation images alike."""

    crop: int = field(
        0,
        "Side in pixels of the patch that is cut out, at random in training, else the "
        "centre; 0: whole images.",
        at_least=0,
    )
    standardize: bool = field(
        False, "Subtracts each image's mean and divides by its standard deviation."
    )


@dataclasses.dataclass(kw_only=True, slots=True)
class Augment(fields.Config):
    """What is done to training images only."""

    rotation: float = field(0.0, "Largest rotation either way, degrees.", at_least=0)
    scale: tuple[float, float] = field(
        (1.0, 1.0), "Smallest and largest factor of size, drawn for each axis."
    )
    shear: float = field(
        0.0,
        "Largest shear: pixels that a row moves per pixel of its distance from the "
        "centre.",
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
    colors_before_crop: bool = field(
        False, "Changes brightness and contrast before the patch is cut out."
    )


@dataclasses.dataclass(kw_only=True, slots=True)
class Optimizer(fields.Config):
    """The optimizer and its learning rate.

    The rate is ``learning_rate * decay_rate ** (step / decay_steps)``, never below the
    minimum. The paper says "exponentially decaying"; the numbers are those of the
    released code.
    """

    name: str = field("adam", "Name from capsjax.training.optim.OPTIMIZERS.")
    learning_rate: float = field(1e-3, "Learning rate of the first step.", at_least=0)
    decay_rate: float = field(
        0.96, "Factor of the learning rate in every decay_steps.", above=0, at_most=1
    )
    decay_steps: int = field(2_000, "Steps in which that factor is due.", at_least=1)
    min_learning_rate: float = field(1e-6, "Smallest learning rate.", at_least=0)


@dataclasses.dataclass(kw_only=True, slots=True)
class Config(fields.Config):
    """A run; the defaults are the paper's CapsNet on MNIST."""

    seed: int = field(
        0,
        "Starts the parameters, the order of the data, augmentation and dropout.",
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
        "How a step is spread over the devices (see capsjax.training.parallel).",
        choices=("jit", "pmap"),
        may_change=True,
        changes_result=False,
    )
    num_devices: int = field(
        0,
        "Devices that share each batch; 0: all there are.",
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
        "every step and keeps its state, so it is slower and takes more memory.",
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
        "Ends training once this share of the validation images is right; 0: never.",
        at_least=0,
        at_most=1,
    )
    diagnose_routing: bool = field(
        False,
        "Adds rows of how much each routing iteration changes the logits, and of the "
        "entropy of the coupling coefficients, to each evaluation.",
        may_change=True,
        changes_result=False,
    )

    data: Data = field(Data, "Data set.")
    preprocess: Preprocess = field(
        Preprocess, "Applied to training and evaluation images alike."
    )
    augment: Augment = field(Augment, "Applied to training images only.")
    model: ModelConfig = field(capsnet.Config, "Network.", registry=MODELS)
    loss: LossConfig = field(margin.Config, "Loss.", registry=LOSSES)
    optimizer: Optimizer = field(Optimizer, "Optimizer and learning rate.")


def current_flag(word: str) -> str:
    """A flag such as ``--config.model.leaky=true`` by its field's path today."""
    for model in MODELS.values():
        for old, new in model.RENAMED.items():
            if word.startswith(f"--config.model.{old}="):
                return word.replace(f".{old}=", f".{new}=", 1)
    return word


def check(config: Config) -> None:
    """Refuses values that no run can have.

    Raises:
        UserError: names the first such field, its value and what it may be.
    """
    fields.check(config)
    for name, least in (("contrast", 0.0), ("scale", 0.01)):
        low, high = getattr(config.augment, name)
        if not least <= low <= high:
            raise UserError(
                f"config.augment.{name} is {(low, high)}; "
                f"it must be (smallest, largest) with {least:g} <= smallest <= largest"
            )
    several = config.data.name == "multimnist"
    _check_loss(config, "several" if several else "one")
    if several:
        _check_pairs(config)
    routing = config.model.routing
    if config.diagnose_routing and not (routing and routing.diagnosable):
        raise UserError(
            "config.diagnose_routing is on, but config.model.name "
            f"{config.model.name!r} has {routing.name if routing else 'no'} routing, "
            "without iterations to diagnose; leave it out, or choose dynamic routing"
        )
    leaves_unit_range = {
        "preprocess.standardize": config.preprocess.standardize,
        "augment.brightness": config.augment.brightness > 0,
        "augment.contrast": tuple(config.augment.contrast) != (1.0, 1.0),
    }
    for path, is_set in leaves_unit_range.items():
        if is_set and config.model.has_decoder:
            off = " ".join(
                f'--config.model.{name}="{value}"'
                for name, value in config.model.decoder_off.items()
            )
            raise UserError(
                f"config.{path} and a decoder do not go together: the decoder's output "
                f"lies in [0, 1], such images do not; set {off} or leave config.{path} "
                "out"
            )


def _check_loss(config: Config, labels: str) -> None:
    def suits(loss: type[LossConfig] | LossConfig) -> bool:
        return config.model.scores in loss.takes and labels in loss.labels

    if not suits(config.loss):
        suitable = [name for name, loss in LOSSES.items() if suits(loss)]
        raise UserError(
            f"config.loss.name {config.loss.name!r} does not suit config.model.name "
            f"{config.model.name!r} on {config.data.name}; set it to "
            f"{' or '.join(map(repr, suitable))}"
        )


def _check_pairs(config: Config) -> None:
    changes_images = {
        "preprocess.crop": config.preprocess.crop,
        "preprocess.standardize": config.preprocess.standardize,
        "augment.shift": config.augment.shift,
        "augment.rotation": config.augment.rotation,
        "augment.shear": config.augment.shear,
        "augment.scale": tuple(config.augment.scale) != (1.0, 1.0),
        "augment.flip": config.augment.flip,
    }
    for path, is_set in changes_images.items():
        if is_set:
            raise UserError(
                f"config.{path} and multimnist do not go together: it would change "
                "the pairs, but not the digits that the decoder is to draw; leave it "
                "out (config.data.shift moves the digits)"
            )
