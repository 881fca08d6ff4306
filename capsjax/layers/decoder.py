"""The masked decoder, which draws an image from the pose of one class capsule."""

import itertools
from collections.abc import Sequence

import jax
from flax import nnx
from jaxtyping import Array, Float, Int

from capsjax.layers.activations import relu
from capsjax.layers.initializers import Initializers
from kernels.dtypes import accumulation_dtype


class MaskedDecoder(nnx.Module):
    """Reconstructs the image from the pose of one class capsule.

    All other classes' poses are masked out by zeros. Hidden layers are ReLU, the output
    is a sigmoid: images must lie in [0, 1]. Where an image shows several classes, each
    is drawn on its own.

    References:
        Sabour, Frosst and Hinton 2017, section 4.1, figure 2 and section 6.
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        hidden_units: Sequence[int],
        image_shape: tuple[int, int, int],
        *,
        init: Initializers,
        rngs: nnx.Rngs,
    ):
        H, W, C = image_shape
        sizes = [num_classes * dim, *hidden_units, H * W * C]
        self.layers = nnx.List(
            nnx.Linear(
                n_in, n_out, kernel_init=init.dense, bias_init=init.bias, rngs=rngs
            )
            for n_in, n_out in itertools.pairwise(sizes)
        )
        self.image_shape = image_shape

    def __call__(
        self, poses: Float[Array, "B J Q"], labels: Int[Array, "B *K"]
    ) -> Float[Array, "B *K H W C"]:
        """Reconstructions in [0, 1] from the poses of the classes in ``labels``.

        float32 at least, also in half precision: a pixel has 256 levels.
        """
        if labels.ndim == 1:
            return self._draw(poses, labels)
        return jax.vmap(self._draw, (None, 1), 1)(poses, labels)

    def _draw(
        self, poses: Float[Array, "B J Q"], labels: Int[Array, " B"]
    ) -> Float[Array, "B H W C"]:
        mask = jax.nn.one_hot(labels, poses.shape[1], dtype=poses.dtype)
        x = (poses * mask[:, :, None]).reshape(poses.shape[0], -1)
        *hidden, last = self.layers
        for layer in hidden:
            x = relu(layer(x))
        logits = last(x)
        logits = logits.astype(accumulation_dtype(logits.dtype))
        return jax.nn.sigmoid(logits).reshape(-1, *self.image_shape)
