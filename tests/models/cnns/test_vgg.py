"""VGG networks against the counts of table 2 and of torchvision's networks."""

import pytest
from flax import nnx

from capsjax import models
from capsjax.errors import UserError
from capsjax.models.cnns import vgg


def shape_of(preset, size, channels=3, num_classes=1000, **changes):
    return nnx.eval_shape(
        lambda: models.build(
            vgg.Config.preset(preset, **changes),
            (size, size, channels),
            num_classes,
            nnx.Rngs(params=0),
        )
    )


@pytest.mark.parametrize(
    ("preset", "layers", "convolutions", "total"),
    [
        ("vgg11", 8, 9_220_480, 132_863_336),
        ("vgg13", 10, 9_404_992, 133_047_848),
        ("vgg16", 13, 14_714_688, 138_357_544),
        ("vgg19", 16, 20_024_384, 143_667_240),
    ],
)
def test_the_number_of_parameters(preset, layers, convolutions, total):
    """The paper says 133, 133, 138 and 144 million."""
    model = shape_of(preset, 224)
    assert sum(map(len, model.groups)) == layers
    assert models.num_parameters(model.groups) == convolutions
    assert models.num_parameters(model) == total
    assert model.grid == (7, 7)


def test_batch_normalisation_takes_the_place_of_the_bias():
    """torchvision keeps both: 138,365,992 parameters, of which 4,224 are biases."""
    model = shape_of("vgg16", 224, batch_norm=True)
    assert models.num_parameters(model) == 138_365_992 - 4_224


@pytest.mark.parametrize(
    ("preset", "size", "channels", "total"),
    [("cifar10", 32, 3, 923_130), ("mnist", 28, 1, 114_778)],
)
def test_the_small_forms(preset, size, channels, total):
    assert models.num_parameters(shape_of(preset, size, channels, 10)) == total


@pytest.mark.parametrize(
    ("changes", "size", "message"),
    [
        ({}, 28, "28x28 pixels cannot be halved 5 times"),
        ({"depths": (2, 2)}, 224, "5 channels and 2 depths"),
    ],
)
def test_settings_that_do_not_fit(changes, size, message):
    with pytest.raises(UserError, match=message):
        shape_of("vgg16", size, **changes)
