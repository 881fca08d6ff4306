"""The models: CapsNet and the paper's baseline CNN, with one calling convention.

``model(images, labels, dropout_keys=...)`` returns a `ModelOutput`. Labels choose which
capsule the decoder reads (training), or which K, one after the other; without them it
reads the predicted class's.
`apply` does so in the dtype of a run's config.
"""

import itertools
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key
from ml_collections import ConfigDict

from capsjax.convolution import Conv
from capsjax.errors import UserError
from capsjax.layers import (
    INITIALIZERS,
    MaskedDecoder,
    PrimaryCapsules,
    RoutedCapsules,
    primary_grid,
    relu,
)
from kernels import routing
from kernels.dtypes import accumulation_dtype


@flax.struct.dataclass
class ModelOutput:
    """What a model says of a batch.

    Attributes:
        scores: [B, J]; the largest is the prediction. Lengths of the class capsules in
            [0, 1) for a CapsNet, logits for a CNN.
        poses: [B, J, Q] of the class capsules, or None.
        reconstructions: [B, H, W, C] in [0, 1], or [B, K, H, W, C] of K classes; or
            None.
    """

    scores: Array
    poses: Array | None = None
    reconstructions: Array | None = None


class CapsNet(nnx.Module):
    """Conv1 -> primary capsules -> routed class capsules -> masked decoder.

    The defaults are the paper's MNIST network: 8,215,568 parameters on 28x28x1 images
    with 10 classes (with ``routing_bias``, as released by the authors, 8,215,728).

    References:
        Sabour, Frosst and Hinton 2017, section 4, figures 1 and 2.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        *,
        conv1_channels: int = 256,
        conv1_kernel: int = 9,
        primary_types: int = 32,
        primary_dim: int = 8,
        primary_kernel: int = 9,
        primary_stride: int = 2,
        padding: str = "VALID",
        class_dim: int = 16,
        decoder_units: Sequence[int] = (512, 1024),
        routing_iterations: int = 3,
        routing_implementation: str | None = None,
        routing_bias: bool = False,
        route_primary: bool = False,
        leaky: bool = False,
        stop_gradient: bool = False,
        initializers: str = "standard",
        rngs: nnx.Rngs,
    ):
        """Builds the network.

        Args:
            image_shape: (H, W, C) in pixels and channels.
            num_classes: J.
            conv1_channels: of the first convolution.
            conv1_kernel: its size in pixels; stride 1.
            primary_types: types of primary capsules at each position.
            primary_dim: P, their dimensions.
            primary_kernel: size of the primary capsules' kernel in pixels.
            primary_stride: its stride.
            padding: of both convolutions, ``"VALID"`` or ``"SAME"``.
            class_dim: Q, dimensions of the class capsules.
            decoder_units: units of the decoder's hidden layers; empty for no decoder.
            routing_iterations: r.
            routing_implementation: a name from `kernels.routing.IMPLEMENTATIONS`, or
                None for the best.
            routing_bias: whether class capsules have a bias, as in the released code.
            route_primary: see `PrimaryCapsules`.
            leaky: lets capsules be routed to "none of the above".
            stop_gradient: see `kernels.routing.route`.
            initializers: a name from `capsjax.layers.INITIALIZERS`.
            rngs: its ``params`` stream starts the parameters.

        Raises:
            ValueError: the image is too small for the kernels, or unknown initializers.
        """
        if initializers not in INITIALIZERS:
            raise ValueError(
                f"unknown initializers {initializers!r}; "
                f"choose one of {', '.join(INITIALIZERS)}"
            )
        init = INITIALIZERS[initializers]
        grid = primary_grid(
            image_shape,
            conv1_kernel=conv1_kernel,
            primary_kernel=primary_kernel,
            primary_stride=primary_stride,
            padding=padding,
        )
        self.conv1 = Conv(
            image_shape[2],
            conv1_channels,
            conv1_kernel,
            padding=padding,
            kernel_init=init.conv1,
            bias_init=init.bias,
            rngs=rngs,
        )
        self.primary_capsules = PrimaryCapsules(
            conv1_channels,
            primary_types,
            primary_dim,
            primary_kernel,
            stride=primary_stride,
            padding=padding,
            route=route_primary,
            leaky=leaky,
            init=init,
            rngs=rngs,
        )
        self.class_capsules = RoutedCapsules(
            grid[0] * grid[1] * primary_types,
            primary_dim,
            num_classes,
            class_dim,
            num_iterations=routing_iterations,
            leaky=leaky,
            stop_gradient=stop_gradient,
            use_bias=routing_bias,
            implementation=routing_implementation,
            init=init,
            rngs=rngs,
        )
        self.decoder = (
            MaskedDecoder(
                num_classes,
                class_dim,
                decoder_units,
                image_shape,
                init=init,
                rngs=rngs,
            )
            if decoder_units
            else None
        )

    def __call__(
        self,
        images: Float[Array, "B H W C"],
        labels: Int[Array, "B *K"] | None = None,
        *,
        dropout_keys: Key[Array, " B"] | None = None,
    ) -> ModelOutput:
        """Classifies and reconstructs a batch; CapsNet has no dropout."""
        del dropout_keys
        primary = self._primary(images)
        with jax.named_scope("class_capsules"):
            poses = self.class_capsules(primary)
            # The loss compares lengths with margins; two digits are not enough.
            lengths = routing.norm(_at_least_float32(poses))
        if self.decoder is None:
            return ModelOutput(lengths, poses)
        if labels is None:
            labels = jnp.argmax(lengths, axis=1)
        with jax.named_scope("decoder"):
            reconstructions = self.decoder(poses, labels)
        return ModelOutput(lengths, poses, reconstructions)

    def diagnose_routing(self, images: Float[Array, "B H W C"]) -> routing.Diagnosis:
        """What each routing iteration does to a few dozen images."""
        return self.class_capsules.diagnose(self._primary(images))

    def _primary(self, images: Float[Array, "B H W C"]) -> Float[Array, "B I P"]:
        with jax.named_scope("conv1"):
            features = relu(self.conv1(images))
        with jax.named_scope("primary_capsules"):
            return self.primary_capsules(features)


class BaselineCNN(nnx.Module):
    """Convolutions and dense layers: the CNNs that the paper compares CapsNet with.

    By default the MNIST baseline: 256, 256 and 128 channels of 5x5 kernels with stride
    1 ("SAME" padding gives the paper's 35.4M parameters: 35,445,522 on 28x28x1 with 10
    classes), then 328 and 192 units. The convolutions' padding and the dropout rate are
    not in the paper. The MultiMNIST baseline has 512 and 256 channels of 9x9 and 5x5
    kernels, each followed by pooling, and 1024 units: 24,563,978 on 36x36x1.

    References:
        Sabour, Frosst and Hinton 2017, sections 5 and 6.1.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        *,
        conv_channels: Sequence[int] = (256, 256, 128),
        kernel_sizes: Sequence[int] = (5, 5, 5),
        pool: bool = False,
        dense_units: Sequence[int] = (328, 192),
        dropout_rate: float = 0.5,
        rngs: nnx.Rngs,
    ):
        """Builds the network.

        Args:
            image_shape: (H, W, C) in pixels and channels.
            num_classes: J.
            conv_channels: of each convolution.
            kernel_sizes: in pixels, as many.
            pool: halves height and width after each convolution, to the largest of 2x2.
            dense_units: of the hidden dense layers.
            dropout_rate: before the last layer.
            rngs: its ``params`` stream starts the parameters.

        Raises:
            ValueError: not as many kernel sizes as convolutions, or an image that is
                too small for the pooling.
        """
        if len(kernel_sizes) != len(conv_channels):
            raise ValueError(
                f"{len(conv_channels)} conv_channels but {len(kernel_sizes)} "
                "kernel_sizes; give each convolution one"
            )
        H, W, C = image_shape
        he_normal = jax.nn.initializers.he_normal()
        channels = [C, *conv_channels]
        self.convs = nnx.List(
            Conv(
                n_in,
                n_out,
                size,
                padding="SAME",
                kernel_init=he_normal,
                bias_init=jax.nn.initializers.zeros,
                rngs=rngs,
            )
            for (n_in, n_out), size in zip(
                itertools.pairwise(channels), kernel_sizes, strict=True
            )
        )
        self.pool = pool
        halvings = len(conv_channels) if pool else 0
        H, W = H >> halvings, W >> halvings
        if min(H, W) < 1:
            raise ValueError(
                f"images of {image_shape[0]}x{image_shape[1]} pixels cannot be halved "
                f"{halvings} times; use fewer conv_channels or no pool"
            )
        units = [H * W * channels[-1], *dense_units]
        self.dense = nnx.List(
            nnx.Linear(n_in, n_out, kernel_init=he_normal, rngs=rngs)
            for n_in, n_out in itertools.pairwise(units)
        )
        self.dropout = nnx.Dropout(dropout_rate)
        self.logits = nnx.Linear(units[-1], num_classes, rngs=rngs)

    def __call__(
        self,
        images: Float[Array, "B H W C"],
        labels: Int[Array, "B *K"] | None = None,
        *,
        dropout_keys: Key[Array, " B"] | None = None,
    ) -> ModelOutput:
        """Classifies a batch; with dropout where its keys are given, one an example."""
        del labels
        x = images
        for conv in self.convs:
            x = relu(conv(x))
            if self.pool:
                x = nnx.max_pool(x, (2, 2), strides=(2, 2))
        x = x.reshape(x.shape[0], -1)
        for dense in self.dense:
            x = relu(dense(x))
        if dropout_keys is not None:
            x = jax.vmap(lambda x, key: self.dropout(x, rngs=key))(x, dropout_keys)
        return ModelOutput(self.logits(x))


MODELS: dict[str, type[CapsNet] | type[BaselineCNN]] = {
    "capsnet": CapsNet,
    "baseline_cnn": BaselineCNN,
}


def build(
    config: ConfigDict,
    image_shape: tuple[int, int, int],
    num_classes: int,
    rngs: nnx.Rngs,
) -> nnx.Module:
    """Builds the model that ``config`` (a run's ``config.model``) describes.

    Args:
        config: ``name`` and that model's keyword arguments, one field each.
        image_shape: (H, W, C) as the model sees images.
        num_classes: of the data set.
        rngs: starts the parameters.

    Raises:
        UserError: unknown name, or settings that do not fit together.
    """
    options = config.to_dict()
    name = options.pop("name")
    if name not in MODELS:
        raise UserError(
            f"unknown model {name!r} in config.model.name; "
            f"choose one of {', '.join(MODELS)}"
        )
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    try:
        model = MODELS[name](image_shape, num_classes, **options, rngs=rngs)
        # What only shows when the model is called should show before training starts.
        jax.eval_shape(lambda images: model(images).scores, images)
        return model
    except (ArithmeticError, NotImplementedError, TypeError, ValueError) as error:
        raise UserError(f"config.model does not fit: {error}") from error


def apply(
    graphdef: nnx.GraphDef,
    params: nnx.State,
    images: Float[Array, "B H W C"],
    labels: Int[Array, "B *K"] | None,
    dtype: DTypeLike,
    *,
    dropout_keys: Key[Array, " B"] | None = None,
) -> ModelOutput:
    """What a model says of a batch, computed in a dtype.

    Args:
        graphdef: the model's structure.
        params: its parameters, float32.
        images: float32.
        labels: the class of each image, or its K classes, whose capsules the decoder
            reads; None for the longest capsule.
        dtype: of all layers; half precision is summed in float32.
        dropout_keys: one for each example in training; None in evaluation.

    Returns:
        Scores, poses and reconstructions in float32.
    """
    params, images = jax.tree.map(lambda x: x.astype(dtype), (params, images))
    output = nnx.merge(graphdef, params)(images, labels, dropout_keys=dropout_keys)
    return jax.tree.map(_at_least_float32, output)


def _at_least_float32(x: Array) -> Array:
    return x.astype(accumulation_dtype(x.dtype))


def num_parameters(model: nnx.Module) -> int:
    """How many numbers the model learns."""
    return sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))
