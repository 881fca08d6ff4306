"""The models: their sizes, their outputs, and their use of labels and keys."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from capsjax import fields, losses, models
from capsjax.errors import UserError
from capsjax.losses import cross_entropy, margin
from capsjax.models.capsules.capsnet import Config as CapsNetConfig
from experiments.configs import cifar10, expanded, mnist, multimnist, smallnorb, svhn
from tests.kernels.convolution.test_convolution import correlate
from tests.kernels.routing import reference as routing_reference

SHAPE, NUM_CLASSES = (13, 17, 2), 3


def config_of(name, **options):
    """Small networks for images of SHAPE."""
    if name == "baseline_cnn":
        sizes = {
            "conv_channels": (4, 3),
            "kernel_sizes": (3, 3),
            "dense_units": (8, 7),
            "dropout_rate": 0.5,
        }
    else:
        sizes = {
            "conv1_channels": 4,
            "conv1_kernel": 3,
            "primary_types": 2,
            "primary_dim": 4,
            "primary_kernel": 3,
            "class_dim": 5,
            "decoder_units": (6,),
            "routing_bias": True,
        }
    return changed(models.MODELS[name](), sizes | options)


def changed(config, options):
    fields.update(config, options)
    return config


def build(name, seed=0, **options):
    config = config_of(name, **options)
    return models.build(config, SHAPE, NUM_CLASSES, nnx.Rngs(params=seed))


# The tests change no model.
make = functools.cache(build)


@functools.cache
def jitted(model):
    return jax.jit(lambda *arguments, **options: model(*arguments, **options))


def run(model, *arguments, **options):
    return jitted(model)(*arguments, **options)


def random_images(B=4, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.uniform(size=(B, *SHAPE)), jnp.float32)


def keys_for(images, seed=0):
    return jax.random.split(jax.random.key(seed), len(images))


@pytest.fixture
def capsnet():
    return make("capsnet")


@pytest.fixture
def baseline():
    return make("baseline_cnn")


# Sizes. Nothing is computed for these.


def count(config, image_shape, num_classes=10):
    model = nnx.eval_shape(
        lambda: models.build(config, image_shape, num_classes, nnx.Rngs(0))
    )
    return models.num_parameters(model)


def with_bias(**options):
    return changed(CapsNetConfig(routing_bias=True), options)


SIZES = {
    "mnist_paper": (mnist.get_config("paper").model, (28, 28, 1), 8_215_568),
    "mnist_code": (mnist.get_config("authors_code").model, (28, 28, 1), 8_215_728),
    "mnist_baseline": (mnist.get_config("baseline").model, (28, 28, 1), 35_445_522),
    "cifar10": (cifar10.get_config().model, (24, 24, 3), 22_476_448),
    "no_decoder": (with_bias(decoder_units=()), (28, 28, 1), 6_804_384),
    "multimnist": (
        multimnist.get_config("authors_code").model,
        (36, 36, 1),
        11_361_968,
    ),
    "multimnist_baseline": (
        multimnist.get_config("baseline").model,
        (36, 36, 1),
        24_563_978,
    ),
    "expanded": (expanded.get_config("authors_code").model, (40, 40, 1), 13_475_808),
    # As many as the CapsNet has, to 0.2 %; conv1, conv2, pooled to 10x10.
    "expanded_baseline": (
        expanded.get_config("baseline").model,
        (40, 40, 1),
        (9 * 9 + 1) * 512
        + (5 * 5 * 512 + 1) * 256
        + (10 * 10 * 256 + 1) * 396
        + (396 + 1) * 10,
    ),
    "smallnorb": (smallnorb.get_config().model, (32, 32, 2), 6_661_200),
    "smallnorb_with_decoder": (with_bias(), (32, 32, 2), 6_661_200 + 2_665_984),
    # Conv1, to 24x24 positions; primary capsules, 8x8 of each type; class capsules; the
    # decoder.
    "svhn": (
        svhn.get_config().model,
        (32, 32, 3),
        (9 * 9 * 3 + 1) * 64
        + (9 * 9 * 64 + 1) * 16 * 6
        + (8 * 8 * 16) * 10 * 8 * 6
        + (10 * 8 + 1) * 512
        + (512 + 1) * 1024
        + (1024 + 1) * 32 * 32 * 3,
    ),
}


@pytest.mark.parametrize("name", SIZES)
def test_numbers_of_parameters(name):
    config, image_shape, expected = SIZES[name]
    num_classes = 5 if name.startswith("smallnorb") else 10
    assert count(config, image_shape, num_classes) == expected


def test_the_routing_implementation_and_iterations_have_no_parameters():
    for options in ({"routing_iterations": 1}, {"routing_implementation": "reference"}):
        assert count(with_bias(**options), (28, 28, 1)) == 8_215_728


# Outputs.


def test_a_capsnet_on_images_of_any_size(capsnet):
    """13x17 pixels: 11x15 after conv1, 5x7 positions of 2 types."""
    assert capsnet.class_capsules.weights.shape == (5 * 7 * 2, NUM_CLASSES, 5, 4)
    output = run(capsnet, random_images())
    assert output.scores.shape == (4, NUM_CLASSES)
    assert output.poses.shape == (4, NUM_CLASSES, 5)
    assert output.reconstructions.shape == (4, *SHAPE)
    assert {x.dtype for x in jax.tree.leaves(output)} == {jnp.dtype("float32")}
    assert output.reconstructions.min() >= 0
    assert output.reconstructions.max() <= 1
    # Scores are the lengths of the class capsules.
    lengths = np.linalg.norm(np.asarray(output.poses, np.float64), axis=2)
    np.testing.assert_allclose(output.scores, lengths, rtol=1e-6)
    assert lengths.max() < 1


@pytest.mark.parametrize("padding", ["VALID", "SAME"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("shape", [(9, 6, 1), (8, 13, 4)])
def test_capsnet_shapes(padding, stride, shape):
    config = config_of("capsnet", padding=padding, primary_stride=stride)
    images = jax.ShapeDtypeStruct((2, *shape), jnp.float32)

    def call(images):
        output = models.build(config, shape, 7, nnx.Rngs(0))(images)
        return output.scores, output.reconstructions

    scores, reconstructions = jax.eval_shape(call, images)
    assert scores.shape == (2, 7)
    assert reconstructions.shape == images.shape


def float64(param):
    return np.asarray(param[...], np.float64)


@pytest.mark.parametrize(
    ("padding", "route", "leaky", "divisor", "iterations"),
    [
        ("VALID", False, False, 1, 3),
        ("SAME", True, False, 2, 1),
        ("VALID", True, True, 3, 3),
    ],
)
def test_a_capsnet_in_float64(padding, route, leaky, divisor, iterations):
    model = build(
        "capsnet",
        padding=padding,
        route_primary=route,
        leaky=leaky,
        routing_iterations=iterations,
        initializers="authors_code",
        decoder_units=(),
    )
    capsules = model.class_capsules
    # Large enough for the iterations to matter.
    capsules.weights[...] = capsules.weights[...] * 10
    images = random_images(2)
    x, _, _ = correlate(np.float64(images), float64(model.conv1.kernel), 1, padding)
    x = np.maximum(x + float64(model.conv1.bias), 0)
    primary = model.primary_capsules
    x, _, _ = correlate(x, float64(primary.conv.kernel), 2, padding)
    s = [
        x[:, row, column, 4 * kind : 4 * kind + 4] / divisor
        + float64(primary.bias)[kind]
        for row in range(x.shape[1])
        for column in range(x.shape[2])
        for kind in range(2)
    ]
    u = routing_reference.squash(np.stack(s, axis=1))
    expected, _ = routing_reference.route(
        u,
        float64(capsules.weights),
        float64(capsules.bias),
        num_iterations=iterations,
        leaky=leaky,
    )
    output = run(model, images, jnp.zeros(2, jnp.int32))
    np.testing.assert_allclose(output.poses, expected, atol=1e-5)
    assert model.decoder is None
    assert output.reconstructions is None


@pytest.mark.parametrize("pool", [False, True])
def test_the_baseline_in_float64(pool):
    """Pooled, 13x17 pixels become 6x8 and 3x4: a last row or column is left out."""
    baseline = make("baseline_cnn", pool=pool)
    images = random_images()
    x = np.asarray(images, np.float64)
    for conv in baseline.convs:
        x, _, _ = correlate(x, float64(conv.kernel), 1, "SAME")
        x = np.maximum(x + float64(conv.bias), 0)
        if pool:
            H, W = x.shape[1] // 2, x.shape[2] // 2
            blocks = x[:, : 2 * H, : 2 * W].reshape(4, H, 2, W, 2, -1)
            x = blocks.max(axis=(2, 4))
    assert not pool or x.shape[1:3] == (3, 4)
    x = x.reshape(4, -1)
    for dense in baseline.dense:
        x = np.maximum(x @ float64(dense.kernel) + float64(dense.bias), 0)
    logits = x @ float64(baseline.logits.kernel) + float64(baseline.logits.bias)
    output = run(baseline, images)
    np.testing.assert_allclose(output.scores, logits, atol=1e-5)
    assert output.scores.dtype == jnp.float32
    assert output.scores.min() < 0  # Neither probabilities nor lengths.
    assert output.poses is None
    assert output.reconstructions is None


def test_the_decoder_reads_the_labels_capsule_and_else_the_predictions(capsnet):
    images = random_images()
    free = run(capsnet, images)
    predictions = jnp.argmax(free.scores, axis=1).astype(jnp.int32)
    # In no example the prediction, as in training that still goes wrong.
    labels = (predictions + 1) % NUM_CLASSES
    told = run(capsnet, images, labels)
    for output, classes in ((free, predictions), (told, labels)):
        expected = run(capsnet.decoder, output.poses, classes)
        np.testing.assert_allclose(output.reconstructions, expected, atol=1e-6)
    np.testing.assert_array_equal(told.scores, free.scores)
    difference = np.abs(told.reconstructions - free.reconstructions)
    assert difference.max(axis=(1, 2, 3)).min() > 1e-4


@pytest.mark.parametrize("name", ["capsnet", "baseline_cnn"])
def test_an_example_does_not_depend_on_its_batch_mates(name):
    model = make(name)
    images = random_images()
    together = run(model, images)
    others = run(model, images.at[1:].set(random_images(3, seed=1)))
    alone = run(model, images[:1])
    for a, b, c in zip(*map(jax.tree.leaves, (together, others, alone)), strict=True):
        np.testing.assert_allclose(a[:1], b[:1], atol=1e-6)
        np.testing.assert_allclose(a[:1], c, atol=1e-6)
    assert np.abs(together.scores[1:] - others.scores[1:]).max() > 1e-4


@functools.partial(jax.jit, static_argnums=0)
def loss_and_gradients(graphdef, params, images):
    """As in training; the gradients are those of the parameters and of the images."""
    labels = jnp.array([0, 2, 1, 1], jnp.int32)

    def call(arguments):
        params, images = arguments
        output = nnx.merge(graphdef, params)(images, labels)
        is_cnn = output.poses is None
        loss = cross_entropy.Softmax() if is_cnn else margin.Config()
        parts = losses.per_example(
            loss,
            output.scores,
            labels,
            reconstructions=output.reconstructions,
            targets=images,
        )
        return jnp.mean(parts["loss"])

    return jax.value_and_grad(call)((params, images))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("capsnet", {}),
        ("capsnet", {"initializers": "authors_code", "route_primary": True}),
        ("baseline_cnn", {}),
    ],
)
def test_black_and_white_images_give_finite_losses_and_gradients(name, options):
    graphdef, params = nnx.split(make(name, **options), nnx.Param)
    images = jnp.repeat(jnp.array([0.0, 1.0]), 2)[:, None, None, None]
    images = jnp.broadcast_to(images, (4, *SHAPE))
    for x in jax.tree.leaves(loss_and_gradients(graphdef, params, images)):
        assert np.all(np.isfinite(x))


@pytest.mark.parametrize("name", ["capsnet", "baseline_cnn"])
def test_every_parameter_takes_part_in_the_loss(name):
    graphdef, params = nnx.split(make(name), nnx.Param)
    _, gradients = loss_and_gradients(graphdef, params, random_images())
    for path, x in jax.tree.leaves_with_path(gradients):
        assert np.any(x), jax.tree_util.keystr(path)


# Dropout.


def test_the_baselines_dropout_is_on_with_a_key_only(baseline):
    images = random_images()
    plain = run(baseline, images).scores
    np.testing.assert_array_equal(run(baseline, images).scores, plain)
    keys, other_keys = keys_for(images), keys_for(images, seed=1)
    dropped = run(baseline, images, keys=keys).scores
    again = run(baseline, images, keys=keys).scores
    other = run(baseline, images, keys=other_keys).scores
    np.testing.assert_array_equal(dropped, again)
    assert np.abs(dropped - plain).max() > 1e-3
    assert np.abs(dropped - other).max() > 1e-3
    # An example's dropout is its key's, whichever device computes it with which others.
    half = run(baseline, images[2:], keys=keys[2:]).scores
    np.testing.assert_allclose(half, dropped[2:], atol=1e-5)


def test_the_baselines_dropout_keeps_the_mean(baseline):
    """The logits are linear in what dropout leaves, so their mean is that without."""
    images = random_images(1)
    keys = jax.random.split(jax.random.key(0), 4000)
    plain = run(baseline, images).scores[0]
    many = jnp.repeat(images, 4000, axis=0)
    dropped = run(baseline, many, keys=keys).scores
    error = dropped.std(axis=0) / np.sqrt(4000)
    assert np.all(np.abs(dropped.mean(axis=0) - plain) < 4 * error)


@pytest.mark.parametrize(
    ("name", "options"), [("baseline_cnn", {"dropout_rate": 0.0}), ("capsnet", {})]
)
def test_without_dropout_keys_change_nothing(name, options):
    model, images = make(name, **options), random_images()
    np.testing.assert_array_equal(
        run(model, images, keys=keys_for(images)).scores, run(model, images).scores
    )


# State.


@pytest.mark.parametrize("name", ["capsnet", "baseline_cnn"])
def test_a_model_is_its_parameters_and_nothing_else(name):
    model = make(name)
    graphdef, params = nnx.split(model, nnx.Param)
    leaves = jax.tree.leaves(params)
    assert len(jax.tree.leaves(nnx.state(model))) == len(leaves)
    assert all(x.dtype == jnp.float32 for x in leaves)
    assert sum(x.size for x in leaves) == models.num_parameters(model)
    images = random_images()
    keys = keys_for(images)
    merged = nnx.merge(graphdef, params)
    np.testing.assert_array_equal(
        run(merged, images, keys=keys).scores,
        run(model, images, keys=keys).scores,
    )


@pytest.mark.parametrize("name", ["capsnet", "baseline_cnn"])
def test_the_seed_alone_decides_how_parameters_start(name):
    first, again, other = (
        jax.tree.leaves(nnx.state(build(name, seed))) for seed in (0, 0, 1)
    )
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(first, other, strict=True):
        # Biases are constant.
        assert np.any(a != b) or np.ptp(a) == 0
    # No two layers start with the same numbers.
    starts = [float(x.ravel()[0]) for x in first if np.ptp(x)]
    assert len(set(starts)) == len(starts)


# Settings that do not fit.


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("capsnet", {"iterations": 3}, "no field 'iterations'"),
        ("baseline_cnn", {"leaky": True}, "no field 'leaky'"),
        (
            "baseline_cnn",
            {"kernel_sizes": (5,)},
            "config.model.*3 conv_channels and 1 kernel_sizes",
        ),
        (
            "baseline_cnn",
            {"pool": True, "conv_channels": (2,) * 4, "kernel_sizes": (3,) * 4},
            "config.model.*13x17 pixels cannot be halved 4 times",
        ),
        (
            "capsnet",
            {"initializers": "he"},
            "config.model.initializers 'he'.*standard, authors_code",
        ),
        (
            "capsnet",
            {"conv1_kernel": 7},
            r"config.model.*13x17 pixels .* conv1 7x7 .* 9x9 with stride 2 \(VALID",
        ),
        ("capsnet", {"routing_iterations": 0}, "iterations is 0; .* at least 1"),
        (
            "capsnet",
            {"routing_implementation": "fastest"},
            "config.model.*'fastest'; choose one of .*xla",
        ),
        ("capsnet", {"padding": "same"}, "config.model.padding 'same'"),
        ("capsnet", {"padding": "FULL"}, "config.model.padding 'FULL'"),
        ("capsnet", {"primary_stride": 0}, "config.model.primary_stride is 0"),
    ],
)
def test_settings_that_do_not_fit(name, options, message):
    """They are refused when the model is built, not by the first step."""

    def build_paper():
        config = changed(models.MODELS[name](), options)
        models.build(config, SHAPE, NUM_CLASSES, nnx.Rngs(0))

    with pytest.raises(UserError, match=message):
        build_paper()


@pytest.mark.parametrize("error", [TypeError, ValueError, ZeroDivisionError])
def test_mistakes_in_a_models_code_keep_their_kind_and_traceback(error, monkeypatch):
    """Whoever writes a new model needs the line, not advice on settings."""

    def broken(self, image_shape, num_classes, rngs):
        raise error("a mistake in the code")

    monkeypatch.setattr(models.resnet.Config, "build", broken)
    with pytest.raises(error, match="a mistake in the code"):
        models.build(models.resnet.Config(), SHAPE, NUM_CLASSES, nnx.Rngs(0))


def test_an_implementation_that_does_not_take_the_sizes_is_a_setting():
    config = changed(
        models.capsnet.Config(),
        {"routing_implementation": "mosaic_gpu", "class_dim": 99},
    )
    with pytest.raises(UserError, match=r"config\.model.*mosaic_gpu.*99 dimensions"):
        models.build(config, (28, 28, 1), NUM_CLASSES, nnx.Rngs(0))
