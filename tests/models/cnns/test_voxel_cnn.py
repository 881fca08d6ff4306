"""The three-dimensional network: its size, for volumes and for plain images."""

import pytest
from flax import nnx

from capsjax import models
from capsjax.errors import UserError
from capsjax.models.cnns import voxel_cnn


def shaped(image_shape):
    return nnx.eval_shape(
        lambda: models.build(voxel_cnn.Config(), image_shape, 10, nnx.Rngs(params=0))
    )


@pytest.mark.parametrize(
    ("image_shape", "places"),
    [
        ((16, 16, 16), 4 * 4 * 4),
        # Pooling leaves an axis of one voxel as it is.
        ((28, 28, 1), 7 * 7),
        ((32, 32, 3), 8 * 8),
    ],
)
def test_the_number_of_parameters(image_shape, places):
    convolutions = (27 + 1) * 16 + (27 * 16 + 1) * 32
    dense = (places * 32 + 1) * 64 + 65 * 10
    assert models.num_parameters(shaped(image_shape)) == convolutions + dense


def test_images_that_are_too_small():
    with pytest.raises(UserError, match="3x9 pixels cannot be halved 2 times"):
        shaped((3, 9, 9))
