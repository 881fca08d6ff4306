"""The configs: fields, presets, and what is refused."""

import importlib
import inspect
import itertools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from capsjax import config as config_lib
from capsjax import data, fields, models
from capsjax.config import Config
from capsjax.errors import UserError
from capsjax.losses import cross_entropy, margin
from capsjax.models.capsules import capsnet
from capsjax.models.cnns import baseline_cnn
from capsjax.training import augment
from capsjax.training import step as train_step
from experiments.configs import cifar10, digits, faces, mnist, smallnorb, svhn, variants
from tests.stepping import ONE

FOLDER = Path(variants.__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "variants")
# Shapes of the data sets' images.
IMAGE_SHAPES = {
    "cifar10": (32, 32, 3),
    "digits": (8, 8, 1),
    "expanded": (40, 40, 1),
    "extruded": (16, 16, 16),
    "faces": (28, 28, 1),
    "mnist": (28, 28, 1),
    "mnist1d": (1, 40, 2),
    "multimnist": (36, 36, 1),
    "smallnorb": (48, 48, 2),
    "spoken_digits": (1, 8_000, 2),
    "svhn_cropped": (32, 32, 3),
}
NUM_CLASSES = dict.fromkeys(IMAGE_SHAPES, 10) | {"smallnorb": 5, "faces": 2}
EVERY_CONFIG = [
    *itertools.product(
        ("mnist", "expanded", "multimnist"), ("paper", "authors_code", "baseline")
    ),
    *((name, "") for name in ("cifar10", "digits", "digits_resnet", "svhn")),
    ("smallnorb", "official"),
    *itertools.product(("efficient_capsnet",), ("mnist", "multimnist", "smallnorb")),
    *itertools.product(("matrix_capsules",), ("smallnorb", "small", "mnist")),
    *itertools.product(("self_routing",), ("cifar10", "svhn")),
    *itertools.product(("vb_capsules",), ("released", "large")),
    *itertools.product(("deep_convnet",), ("textbook", "annealed")),
    *itertools.product(("alexnet", "vgg", "googlenet"), ("cifar10", "mnist")),
    *itertools.product(("resnet",), ("resnet20", "resnet56")),
    ("inverted_attention", ""),
    *itertools.product(("lenet",), ("paper", "dense")),
    *itertools.product(("nin",), ("mnist", "cifar10")),
    *itertools.product(("maxout_nin",), ("mnist", "cifar10")),
    *itertools.product(("binarized_net",), ("mnist", "cifar10")),
    *itertools.product(("drop_connect",), ("connections", "units", "none")),
    *itertools.product(("pooling_cnn",), ("max", "tree_gated")),
    *itertools.product(("recurrent_cnn", "multi_column_dnn"), ("mnist", "cifar10")),
    ("fractional_max_pooling", "mnist"),
    *itertools.product(("extruded_digits",), ("cnn", "capsnet")),
    *itertools.product(("mnist1d",), ("cnn", "capsnet")),
    *itertools.product(("faces",), faces.PRESETS),
    *itertools.product(
        ("spoken_digits",),
        (
            "cnn",
            "deeper_cnn",
            "capsnet",
            "pooled_capsnet",
            "a_f",
            "a_b_f",
            "a_pool_b_f",
        ),
    ),
]


def module(name):
    return importlib.import_module(f"experiments.configs.{name}")


def differences(a, b):
    """The fields of which the values differ, with both values."""
    a, b = fields.flatten(a), fields.flatten(b)
    assert a.keys() == b.keys()
    return {name: (a[name], b[name]) for name in a if a[name] != b[name]}


# Fields.


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", 0),
        ("batch_size", 128),
        ("num_epochs", 10),
        ("max_steps", 0),
        ("data.name", "mnist"),
        ("augment.shift", 2),
        ("model.name", "capsnet"),
        ("model.conv1_channels", 256),
        ("model.conv1_kernel", 9),
        ("model.primary_types", 32),
        ("model.primary_dim", 8),
        ("model.primary_kernel", 9),
        ("model.primary_stride", 2),
        ("model.class_dim", 16),
        ("model.decoder_units", (512, 1024)),
        ("model.routing.name", "dynamic"),
        ("model.routing.iterations", 3),
        ("model.routing.implementation", None),
        ("loss.positive_margin", 0.9),
        ("loss.negative_margin", 0.1),
        ("loss.absent_weight", 0.5),
        ("loss.reconstruction_weight", 0.0005),
        ("optimizer.name", "adam"),
        ("optimizer.learning_rate", 1e-3),
        ("optimizer.decay_rate", 0.96),
        ("optimizer.decay_steps", 2000),
        ("optimizer.min_learning_rate", 1e-6),
    ],
)
def test_the_base_is_the_papers_network(field, value):
    assert fields.flatten(Config())[field] == value


# Presets.


def test_the_presets_differ_where_the_paper_and_its_code_do_and_nowhere_else():
    paper, released = mnist.get_config("paper"), mnist.get_config("authors_code")
    expected = {
        "loss.class_reduction": ("sum", "half_mean"),
        "model.route_primary": (False, True),
        "model.routing_bias": (False, True),
        "model.initializers": ("standard", "authors_code"),
    }
    assert differences(paper, released) == expected
    changed = Config(
        model=capsnet.Config.preset("authors_code"),
        loss=margin.Config.preset("authors_code"),
    )
    assert differences(Config(), changed) == expected


def test_the_paper_is_the_base_trained_as_long_as_the_released_code():
    assert set(differences(Config(), mnist.get_config())) == {
        "num_epochs",
        "max_steps",
        "checkpoint_every_steps",
    }
    assert mnist.get_config().max_steps == 300_000
    # 60,000 images less those of the validation; the last part of a batch is left out.
    steps_per_epoch = (60_000 - 5_000) // 128
    assert mnist.get_config().num_epochs * steps_per_epoch >= 300_000


def test_the_baseline_changes_the_model_and_the_loss_only():
    paper, baseline = (
        {
            name: value
            for name, value in fields.flatten(mnist.get_config(preset)).items()
            if not name.startswith(("model.", "loss."))
        }
        for preset in ("paper", "baseline")
    )
    assert paper == baseline


# In the released code, for images of objects.
RELEASED = {
    "preprocess.standardize": True,
    "augment.shift": 0,
    "augment.brightness": 63 / 255,
    "augment.contrast": (0.2, 1.8),
    "model.route_primary": True,
    "model.routing_bias": True,
    "model.initializers": "authors_code",
    "model.decoder_units": (),
    "loss.class_reduction": "half_mean",
}


def test_cifar10_is_the_released_codes():
    found = fields.flatten(cifar10.get_config())
    expected = RELEASED | {
        "max_steps": 600_000,
        "preprocess.crop": 24,
        "augment.flip": True,
        "model.padding": "SAME",
        "model.primary_types": 64,
        "model.routing.leaky": True,
    }
    assert {name: found[name] for name in expected} == expected


def test_smallnorb_is_the_released_codes_but_for_the_decoder():
    found = fields.flatten(smallnorb.get_config())
    expected = RELEASED | {
        "preprocess.crop": 32,
        "augment.flip": False,
        "augment.colors_before_crop": True,
        "data.novel_viewpoint": "",
    }
    assert {name: found[name] for name in expected} == expected
    # Else as for MNIST.
    different = differences(mnist.get_config("authors_code"), smallnorb.get_config())
    assert set(different) <= expected.keys() | {
        "data.name",
        "data.validation_examples",
        "num_epochs",
    }


@pytest.mark.parametrize("preset", ["azimuth", "elevation"])
def test_smallnorb_on_novel_viewpoints(preset):
    official, novel = smallnorb.get_config(), smallnorb.get_config(preset)
    assert differences(official, novel) == {
        "data.novel_viewpoint": ("", preset),
        "data.validation_examples": (2_430, 810),
        "num_epochs": (1_800, 5_400),
    }
    # As many steps: 24,300 photographs from 18 azimuths and 9 elevations, or a third.
    for config, num_images in ((official, 24_300), (novel, 24_300 // 3)):
        steps = (num_images - config.data.validation_examples) // config.batch_size
        assert config.num_epochs * steps >= config.max_steps == 300_000


def test_svhn_is_the_papers_smaller_network():
    assert differences(mnist.get_config("paper"), svhn.get_config()) == {
        "data.name": ("mnist", "svhn_cropped"),
        "num_epochs": (700, 600),
        "augment.shift": (2, 0),
        "model.conv1_channels": (256, 64),
        "model.primary_types": (32, 16),
        "model.primary_dim": (8, 6),
        "model.class_dim": (16, 8),
    }
    steps_per_epoch = (73_257 - 5_000) // 128
    assert svhn.get_config().num_epochs * steps_per_epoch >= 300_000


def test_every_file_of_configs_is_in_the_tests():
    assert {name for name, _ in EVERY_CONFIG} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_config_says_its_command_and_what_to_expect(name):
    text = inspect.getdoc(module(name)) or ""
    command = f"python -m experiments.train --config=experiments/configs/{name}.py"
    assert command in text
    assert "--workdir=DIR" in text
    assert re.search(r"\d ?% (test )?(error|accuracy)", " ".join(text.split()))
    assert "quick" in text


# The quick variants, and that each config's parts fit together.


@pytest.mark.parametrize(("name", "preset"), EVERY_CONFIG)
def test_quick_variants_are_much_smaller_and_differ_in_nothing_else(name, preset):
    config = module(name).get_config(preset)
    quick = module(name).get_config(f"{preset},quick")
    names = {field.split(".")[-1] for field in differences(config, quick)}
    assert names <= {
        "max_steps",
        "num_epochs",
        "decay_steps",
        "conv1_channels",
        "primary_types",
        "decoder_units",
        "conv_channels",
        "dense_units",
        "channels",
        "blocks",
        "capsule_types",
        "margin_steps",
        "initial_deviation",
        "stem_channels",
        "channels_1x1",
        "channels_3x3_reduce",
        "channels_3x3",
        "channels_5x5_reduce",
        "channels_5x5",
        "channels_pool",
    }
    size, quick_size = (
        models.num_parameters(
            nnx.eval_shape(
                lambda c=c: models.build(
                    c.model,
                    augment.output_shape(IMAGE_SHAPES[c.data.name], c),
                    NUM_CLASSES[c.data.name],
                    nnx.Rngs(0),
                )
            )
        )
        for c in (config, quick)
    )
    config_lib.check(quick)
    assert quick_size < size / 4
    assert quick.num_epochs <= 2 or 0 < quick.max_steps <= 100


@pytest.mark.parametrize(("name", "preset"), EVERY_CONFIG)
def test_a_step_of_every_config_fits_together(name, preset):
    """Shapes and dtypes of a whole step; nothing is computed."""
    config = module(name).get_config(preset)
    config_lib.check(config)
    assert config.data.name in data.DATASETS | data.DERIVED
    shape, num_classes = IMAGE_SHAPES[config.data.name], NUM_CLASSES[config.data.name]

    def start_and_step(batch):
        graphdef, state = train_step.create(config, shape, num_classes)
        step = train_step.make_train_step(graphdef, config, ONE)
        after, metrics = step(state, batch)
        return jax.tree.leaves(state), jax.tree.leaves(after), metrics

    batch = {
        "image": jax.ShapeDtypeStruct((config.batch_size, *shape), jnp.uint8),
        "label": jax.ShapeDtypeStruct((config.batch_size,), jnp.int32),
    }
    before, after, metrics = jax.eval_shape(start_and_step, batch)
    for a, b in zip(before, after, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
    expected = {"loss", f"{config.loss.name}_loss", "accuracy", "gradient_norm"}
    if config.model.has_decoder:
        expected.add("reconstruction_loss")
    assert set(metrics) == expected
    assert all(x.shape == () and x.dtype == jnp.float32 for x in metrics.values())


def test_the_default_preset_is_the_first_and_words_come_in_any_order():
    assert not differences(mnist.get_config(), mnist.get_config("paper"))
    assert not differences(mnist.get_config("quick"), mnist.get_config("paper,quick"))
    assert not differences(
        mnist.get_config("authors_code,quick"), mnist.get_config("quick,authors_code")
    )


@pytest.mark.parametrize("words", ["papers", "paper,baseline", "authors_code,fast"])
def test_unknown_presets_are_refused_with_the_known_ones(words):
    with pytest.raises(
        UserError, match=f"{words!r}.*paper or authors_code or baseline or quick"
    ):
        mnist.get_config(words)


@pytest.mark.parametrize("config", [cifar10, digits, svhn])
def test_configs_without_presets_know_quick_only(config):
    with pytest.raises(UserError, match=r"'paper'; choose quick$"):
        config.get_config("paper")


# What no run can have.


def assert_refused(changes, message):
    config = Config()
    fields.update(config, changes)
    with pytest.raises(UserError, match=re.escape(message)):
        config_lib.check(config)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", -1),
        ("batch_size", 0),
        ("num_epochs", 0),
        ("max_steps", -1),
        ("log_every_steps", 0),
        ("checkpoint_every_steps", -5),
        ("data.validation_examples", -1),
        ("data.image_size", -1),
        ("preprocess.crop", -24),
        ("augment.shift", -1),
        ("augment.brightness", -0.1),
        ("augment.brightness", float("nan")),
        ("augment.contrast", (1.8, 0.2)),
        ("augment.contrast", (-0.1, 1.0)),
        ("augment.contrast", (0.2,)),
        ("augment.scale", (0.0, 1.0)),
        ("stop_at_validation_accuracy", 1.5),
        ("num_devices", -1),
        ("model.routing.iterations", 0),
        ("model.decoder_units", (8, 0)),
        ("model.class_dim", 0),
        ("optimizer.decay_steps", 0),
        ("optimizer.decay_rate", -0.96),
        ("optimizer.decay_rate", 0.0),
        ("optimizer.learning_rate", -1e-3),
        ("optimizer.learning_rate", float("nan")),
        ("optimizer.min_learning_rate", -1e-6),
        ("loss.reconstruction_weight", -1.0),
    ],
)
def test_values_out_of_bounds(field, value):
    assert_refused({field: value}, f"config.{field} is {value}")


@pytest.mark.parametrize(
    ("field", "value", "choices"),
    [
        ("parallelism", "pjit", "jit, pmap"),
        ("dtype", "float16", "float32, bfloat16"),
        ("model.padding", "same", "VALID, SAME"),
        ("model.initializers", "he", "standard, authors_code"),
        ("model.routing.implementation", "cuda", "None, mosaic_gpu, xla, reference"),
        ("loss.class_reduction", "mean", "sum, half_mean"),
    ],
)
def test_unknown_words_are_refused_with_the_choices(field, value, choices):
    message = f"unknown config.{field} {value!r}; choose one of {choices}"
    assert_refused({field: value}, message)


@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [
        ("batch_size", "64", "a whole number"),
        ("debug_nans", 1, "true or false"),
        ("optimizer.learning_rate", "1e-3", "a number"),
        ("model.decoder_units", 8, "whole numbers such as (8,16)"),
    ],
)
def test_values_of_another_type_are_refused(field, value, kind):
    message = f"config.{field} is {value!r}; it must be {kind}"
    assert_refused({field: value}, message)


def test_the_least_values_are_accepted():
    config = Config()
    fields.update(
        config,
        {
            "batch_size": 1,
            "num_epochs": 1,
            "log_every_steps": 1,
            "data.validation_examples": 0,
            "augment.shift": 0,
            "augment.contrast": (0.0, 0.0),
            "model.decoder_units": (),
            "optimizer.decay_steps": 1,
        },
    )
    config_lib.check(config)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("preprocess.standardize", True),
        ("augment.brightness", 0.2),
        ("augment.contrast", (0.5, 1.5)),
    ],
)
def test_images_that_leave_the_unit_range_and_a_decoder_do_not_go_together(
    field, value
):
    """The decoder's sigmoid gives [0, 1]."""
    config = Config()
    fields.update(config, {field: value})
    with pytest.raises(UserError, match=rf"{field}.*decoder_units"):
        config_lib.check(config)
    config.model = config.model.without_decoder()
    config_lib.check(config)
    config = mnist.get_config("baseline")
    fields.update(config, {field: value})
    config_lib.check(config)


@pytest.mark.parametrize(
    ("model", "loss"),
    [
        (capsnet.Config(), cross_entropy.Softmax()),
        (baseline_cnn.Config(), margin.Config()),
        (baseline_cnn.Config(), cross_entropy.Sigmoid()),
    ],
    ids=["softmax_over_lengths", "margins_of_logits", "several_classes_of_one"],
)
def test_a_loss_that_is_not_the_models_is_refused(model, loss):
    config = Config()
    config.model, config.loss = model, loss
    with pytest.raises(UserError, match=r"config\.loss\.name.*config\.model\.name"):
        config_lib.check(config)


def test_routing_is_diagnosed_where_there_is_some():
    config = Config(diagnose_routing=True)
    config_lib.check(config)
    config = mnist.get_config("baseline")
    config.diagnose_routing = True
    with pytest.raises(UserError, match=r"diagnose_routing.*'baseline_cnn'"):
        config_lib.check(config)
