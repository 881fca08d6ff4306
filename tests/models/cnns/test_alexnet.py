"""AlexNet against the counts of the paper's and of torchvision's network."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from capsjax import models
from capsjax.errors import UserError
from capsjax.models.cnns import alexnet


def shape_of(preset, size, channels=3, num_classes=1000, **changes):
    return nnx.eval_shape(
        lambda: models.build(
            alexnet.Config.preset(preset, **changes),
            (size, size, channels),
            num_classes,
            nnx.Rngs(params=0),
        )
    )


@pytest.mark.parametrize(
    ("preset", "size", "features", "total"),
    [
        ("imagenet", 227, 2_334_080, 60_965_224),
        ("one_tower", 224, 2_469_696, 61_100_840),
    ],
)
def test_the_number_of_parameters(preset, size, features, total):
    """Of the convolutions, and with the dense layers of 9216, 4096 and 4096 inputs."""
    model = shape_of(preset, size)
    assert models.num_parameters(model.convs) == features
    assert models.num_parameters(model) == total
    assert features + 9_217 * 4_096 + 4_097 * 4_096 + 4_097 * 1_000 == total


@pytest.mark.parametrize(
    ("preset", "size", "channels", "total"),
    [("cifar10", 32, 3, 427_466), ("mnist", 28, 1, 85_322)],
)
def test_the_small_forms(preset, size, channels, total):
    assert models.num_parameters(shape_of(preset, size, channels, 10)) == total


def test_kernels_of_two_groups_see_half_of_the_channels():
    """Section 3.5: kernels of 5x5x48, 3x3x256, 3x3x192 and 3x3x192."""
    model = shape_of("imagenet", 227)
    shapes = [block.conv.kernel.shape[1:] for block in model.convs]
    assert shapes == [
        (11, 3, 96),
        (5, 48, 256),
        (3, 256, 384),
        (3, 192, 384),
        (3, 192, 256),
    ]


TINY = alexnet.Config(
    channels=(4, 4, 4, 4, 4),
    kernel_sizes=(3, 3, 3, 3, 3),
    first_stride=1,
    first_padding=1,
    pooled=(),
    dense_units=(4, 4),
)


def test_the_normalisation_comes_twice():
    """Its k is 2, and little is added to it here: 2^0.75 divides each time."""

    @jax.jit
    def norm(images):
        of_all = []
        for normalized in (False, True):
            config = TINY.replace(
                channels=(4, 4),
                kernel_sizes=(3, 3),
                conv_groups=(1, 2),
                dense_units=(),
                response_normalization=normalized,
                paper_initializers=False,
            )
            model = config.build((4, 4, 1), 2, nnx.Rngs(params=0))
            of_all.append(jnp.linalg.norm(model(images).scores))
        return of_all[1] / of_all[0]

    images = jnp.full((1, 4, 4, 1), 0.1)
    np.testing.assert_allclose(norm(images), 2**-1.5, rtol=1e-4)


def test_where_the_paper_starts():
    """N(0, 0.01), and ones in the second, fourth and fifth convolution and in dense."""

    @jax.jit
    def start():
        model = TINY.build((4, 4, 3), 10, nnx.Rngs(params=0))
        layers: list[Any] = [
            *(block.conv for block in model.convs),
            *model.dense,
            model.logits,
        ]
        return [(layer.bias[...], layer.kernel[...]) for layer in layers]

    biases, kernels = zip(*start(), strict=True)
    assert [set(bias.tolist()) for bias in biases] == [
        {value} for value in (0, 1, 0, 1, 1, 1, 1, 0)
    ]
    weights = np.concatenate([kernel.ravel() for kernel in kernels])
    assert np.std(weights) == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize(
    ("changes", "size", "message"),
    [
        ({}, 8, "8x8 pixels are too small for convolution 1"),
        ({}, 35, "window of 3 pixels does not fit into 1"),
        ({"pooled": (6,)}, 227, "pooled is .* 5 convolutions"),
        ({"conv_groups": (1, 2)}, 227, "5 channels, 5 kernel_sizes and 2 conv_groups"),
        (
            {"conv_groups": (1, 5, 1, 2, 2)},
            227,
            "convolution 2 has 96 and 256 channels",
        ),
    ],
)
def test_settings_that_do_not_fit(changes, size, message):
    with pytest.raises(UserError, match=message):
        shape_of("imagenet", size, **changes)
