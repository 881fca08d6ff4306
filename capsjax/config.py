"""What a run's config holds: every field, its default and its unit.

`base` is the one place that names the fields; the files in ``experiments/configs``
start from it and set what differs. Only launchers read flags; everything else is handed
a config, or the part of it that it needs.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from capsjax.errors import UserError

# float16 would need its gradients scaled to stay above its smallest number.
DTYPES = ("float32", "bfloat16")


def base() -> ConfigDict:
    """The paper's CapsNet on MNIST, as a config with every field there is."""
    config = ConfigDict()
    # Starts the parameters, the order of the data, augmentation and dropout.
    config.seed = 0
    # Examples in one step, over all devices and processes.
    config.batch_size = 128
    config.num_epochs = 10
    # Ends training after so many steps; 0: only num_epochs counts.
    config.max_steps = 0
    # A row of training metrics every so many steps.
    config.log_every_steps = 20
    # A checkpoint every so many steps, besides the one after every epoch; 0: none.
    config.checkpoint_every_steps = 0
    # How a step is spread over the devices: "jit" or "pmap" (see training.parallel).
    config.parallelism = "jit"
    # How many devices share each batch; 0: all there are.
    config.num_devices = 0
    # Of the layers, "float32" or "bfloat16"; parameters, sums and loss are float32.
    config.dtype = "float32"
    # Where the loss or a gradient is NaN, names the line of code that made it. Waits
    # for every step and keeps its state, so it is slower and takes more memory.
    config.debug_nans = False
    # Evaluates the validation images every so many steps, besides the end of every
    # epoch; 0: only then.
    config.evaluate_every_steps = 0
    # Ends training once so large a share of the validation images is right; 0: never.
    config.stop_at_validation_accuracy = 0.0
    # With each evaluation of a CapsNet, a row of how much each routing iteration
    # changes the logits, and of the coupling coefficients' entropy.
    config.diagnose_routing = False

    config.data = ConfigDict()
    # A name from capsjax.data.DATASETS.
    config.data.name = "mnist"
    # The folder or NPZ file of one's own images (data.name "folder" or "npz").
    config.data.path = ""
    # Side in pixels that a folder's images are resized to; 0: as stored.
    config.data.image_size = 0
    # Training images held out for validation; the split does not depend on the seed.
    config.data.validation_examples = 5_000
    # The data set of single digits that "multimnist", "expanded" and "affnist" are made
    # from.
    config.data.base = "mnist"
    # Side in pixels of the black canvas on which they put each digit.
    config.data.canvas = 40
    # Largest shift of a digit from the canvas's centre along each axis, in pixels.
    config.data.shift = 6
    # "multimnist": pairs that each validation and test digit is the first one of;
    # "affnist": transformed versions of each test digit, where they are generated.
    config.data.versions_per_digit = 1
    # "smallnorb": "azimuth" or "elevation" trains on some viewpoints and tests on
    # others, "azimuth_familiar" or "elevation_familiar" on the same; "" is the official
    # split.
    config.data.novel_viewpoint = ""

    # Applied to training and evaluation images alike (see capsjax.training.augment).
    config.preprocess = ConfigDict()
    # Side in pixels of the patch that is cut out: at random in training, else the
    # centre; 0: whole images.
    config.preprocess.crop = 0
    # Subtracts each image's mean and divides by its standard deviation.
    config.preprocess.standardize = False

    # Applied to training images only.
    config.augment = ConfigDict()
    # Largest rotation either way, in degrees.
    config.augment.rotation = 0.0
    # Smallest and largest factor of size, drawn for each axis.
    config.augment.scale = (1.0, 1.0)
    # Largest shear: pixels that a row moves for each pixel of its distance from the
    # centre.
    config.augment.shear = 0.0
    # Largest random shift along each axis in pixels, zero fill.
    config.augment.shift = 2
    # Mirrors half of the images left to right.
    config.augment.flip = False
    # Largest change of brightness, in units of the full range.
    config.augment.brightness = 0.0
    # Smallest and largest factor of contrast.
    config.augment.contrast = (1.0, 1.0)
    # Brightness and contrast of the whole image, before the patch is cut out.
    config.augment.colors_before_crop = False

    config.model = capsnet()
    config.loss = margin_loss()

    config.optimizer = ConfigDict()
    # A name from capsjax.training.optim.OPTIMIZERS.
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 1e-3
    # learning_rate * decay_rate ** (step / decay_steps), never below the minimum.
    # The paper says "exponentially decaying"; the numbers are the released code's.
    config.optimizer.decay_rate = 0.96
    config.optimizer.decay_steps = 2_000
    config.optimizer.min_learning_rate = 1e-6
    return config


def with_defaults(config: ConfigDict) -> ConfigDict:
    """A config of an earlier version, with the fields that have been added since."""
    complete = base()
    del complete.model, complete.loss  # Their fields depend on their names.
    complete.update(config)
    return complete


def capsnet() -> ConfigDict:
    """``config.model`` of the paper's CapsNet; see `capsjax.models.CapsNet`."""
    return ConfigDict(
        {
            "name": "capsnet",
            "conv1_channels": 256,
            "conv1_kernel": 9,
            "primary_types": 32,
            "primary_dim": 8,
            "primary_kernel": 9,
            "primary_stride": 2,
            "padding": "VALID",
            "class_dim": 16,
            "decoder_units": (512, 1024),
            "routing_iterations": 3,
            "routing_implementation": placeholder(str),
            "routing_bias": False,
            "route_primary": False,
            "leaky": False,
            "stop_gradient": False,
            "initializers": "standard",
        }
    )


def baseline_cnn() -> ConfigDict:
    """``config.model`` of the baseline; see `capsjax.models.BaselineCNN`."""
    return ConfigDict(
        {
            "name": "baseline_cnn",
            "conv_channels": (256, 256, 128),
            "kernel_sizes": (5, 5, 5),
            "pool": False,
            "dense_units": (328, 192),
            "dropout_rate": 0.5,
        }
    )


def pooling_cnn() -> ConfigDict:
    """``config.model`` of the paper's baseline for MultiMNIST."""
    model = baseline_cnn()
    model.conv_channels, model.kernel_sizes, model.pool = (512, 256), (9, 5), True
    model.dense_units, model.dropout_rate = (1024,), 0.0
    return model


def margin_loss() -> ConfigDict:
    """``config.loss`` of a CapsNet; see `capsjax.losses`."""
    return ConfigDict(
        {
            "name": "margin",
            "positive_margin": 0.9,
            "negative_margin": 0.1,
            "absent_weight": 0.5,
            "class_reduction": "sum",
            "reconstruction_weight": 0.0005,
        }
    )


def cross_entropy() -> ConfigDict:
    """``config.loss`` of a CNN."""
    return ConfigDict({"name": "cross_entropy"})


def sigmoid_cross_entropy() -> ConfigDict:
    """``config.loss`` of a CNN where images show several classes."""
    return ConfigDict({"name": "sigmoid_cross_entropy"})


def use_authors_code(config: ConfigDict) -> None:
    """Turns the paper's settings into those of the code that its authors released.

    They differ in the scale of the margin loss (and so in the relative weight of the
    reconstruction, 20 times as strong), in the primary capsules, in the routing bias
    and in the initial values. The gradient flows through all routing iterations in
    both: the paper does not say otherwise.

    References:
        Sarasra/models, research/capsules (TensorFlow).
    """
    config.loss.class_reduction = "half_mean"
    config.model.route_primary = True
    config.model.routing_bias = True
    config.model.initializers = "authors_code"


def check(config: ConfigDict) -> None:
    """Refuses values that no run can have.

    Raises:
        UserError: names the first such field, its value and what it may be.
    """
    at_least = {
        "seed": 0,
        "batch_size": 1,
        "num_epochs": 1,
        "max_steps": 0,
        "log_every_steps": 1,
        "checkpoint_every_steps": 0,
        "num_devices": 0,
        "evaluate_every_steps": 0,
        "stop_at_validation_accuracy": 0,
        "data.validation_examples": 0,
        "data.image_size": 0,
        "data.canvas": 1,
        "data.shift": 0,
        "data.versions_per_digit": 1,
        "preprocess.crop": 0,
        "augment.shift": 0,
        "augment.rotation": 0,
        "augment.shear": 0,
        "augment.brightness": 0,
        "optimizer.decay_steps": 1,
        "optimizer.learning_rate": 0,
        "optimizer.min_learning_rate": 0,
    }
    for field, minimum in at_least.items():
        value = config
        for part in field.split("."):
            value = value[part]
        if not value >= minimum:  # NaN is not.
            raise UserError(f"config.{field} is {value}; it must be at least {minimum}")
    if not 0 < config.optimizer.decay_rate <= 1:
        raise UserError(
            f"config.optimizer.decay_rate is {config.optimizer.decay_rate}; "
            "it must be above 0 and at most 1"
        )
    for field, least in (("contrast", 0.0), ("scale", 0.01)):
        limits = tuple(config.augment[field])
        if len(limits) != 2 or not least <= limits[0] <= limits[1]:
            raise UserError(
                f"config.augment.{field} is {limits}; "
                f"it must be (smallest, largest) with {least:g} <= smallest <= largest"
            )
    if config.dtype not in DTYPES:
        raise UserError(
            f"unknown config.dtype {config.dtype!r}; choose {' or '.join(DTYPES)}"
        )
    several = config.data.name == "multimnist"
    cross_entropy_of = {True: "sigmoid_cross_entropy", False: "cross_entropy"}
    suitable = {"capsnet": "margin", "baseline_cnn": cross_entropy_of[several]}
    loss = suitable.get(config.model.name, config.loss.name)
    if config.loss.name != loss:
        raise UserError(
            f"config.loss.name {config.loss.name!r} does not suit config.model.name "
            f"{config.model.name!r} on {config.data.name}; set it to {loss!r}"
        )
    changes_images = {
        "preprocess.crop": config.preprocess.crop,
        "preprocess.standardize": config.preprocess.standardize,
        "augment.shift": config.augment.shift,
        "augment.rotation": config.augment.rotation,
        "augment.shear": config.augment.shear,
        "augment.scale": tuple(config.augment.scale) != (1.0, 1.0),
        "augment.flip": config.augment.flip,
    }
    for field, is_set in changes_images.items():
        if several and is_set:
            raise UserError(
                f"config.{field} and multimnist do not go together: it would change "
                "the pairs, but not the digits that the decoder is to draw; leave it "
                "out (config.data.shift moves the digits)"
            )
    if config.diagnose_routing and config.model.name != "capsnet":
        raise UserError(
            "config.diagnose_routing is on, but config.model.name is "
            f"{config.model.name!r}, which has no routing; leave it out or set the "
            "model to 'capsnet'"
        )
    leaves_unit_range = {
        "preprocess.standardize": config.preprocess.standardize,
        "augment.brightness": config.augment.brightness > 0,
        "augment.contrast": tuple(config.augment.contrast) != (1.0, 1.0),
    }
    for field, is_set in leaves_unit_range.items():
        if is_set and config.model.get("decoder_units"):
            raise UserError(
                f"config.{field} and a decoder do not go together: the decoder's "
                "output lies in [0, 1], such images do not; set "
                f'--config.model.decoder_units="()" or leave config.{field} out'
            )
