"""Primary capsules, the lowest layer: features become poses."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from capsjax.errors import SettingsError
from capsjax.layers.convolution import Conv
from capsjax.layers.initializers import Initializer, Initializers
from capsjax.layers.recording import Window
from capsjax.normalization import BatchNorm, PoseNorm
from capsjax.routings import Capsules
from kernels.convolution import output_size
from kernels.dtypes import accumulation_dtype, at_least_float32
from kernels.routing import exponential_squash, squash


class PrimaryCapsules(nnx.Module):
    """A convolution whose channels, in groups of P, are the first capsules.

    A capsule is the P channels of one type at one position; there are ``h * w *
    num_types`` of them, ordered by position (row, column) and then by type.

    Attributes:
        conv: the convolution, without its bias.
        bias: [num_types, P] float32.
        coupling: factor of the convolution's output.

    References:
        Sabour, Frosst and Hinton 2017, section 4. ``route`` is what the authors'
        released code does: the convolution's output is "routed" once to the
        ``num_types`` types with uniform coupling coefficients, and so divided by their
        number (by one more if leaky) before the bias is added.
    """

    def __init__(
        self,
        in_channels: int,
        num_types: int,
        dim: int,
        kernel_size: int,
        *,
        stride: int,
        padding: str,
        route: bool,
        leaky: bool,
        dimensions: int = 2,
        init: Initializers,
        rngs: nnx.Rngs,
    ):
        self.conv = Conv(
            in_channels,
            num_types * dim,
            kernel_size,
            stride=stride,
            padding=padding,
            dimensions=dimensions,
            kernel_init=init.primary,
            bias_init=None,
            rngs=rngs,
        )
        self.bias = nnx.Param(init.bias(rngs.params(), (num_types, dim), jnp.float32))
        self.coupling = 1 / (num_types + leaky) if route else 1.0

    @property
    def receptive_window(self) -> Window:
        """The pixels that one capsule sees."""
        return self.conv.receptive_window

    def __call__(self, x: Float[Array, "B *sizes C"]) -> Float[Array, "B I P"]:
        """Poses of the primary capsules, each of length below one."""
        num_types, dim = self.bias.shape
        s = self.conv(x) * self.coupling
        # Splitting the channel axis alone keeps a capsule's channels together.
        s = s.reshape(s.shape[0], -1, num_types, dim) + self.bias[...][None, None]
        return squash(s).reshape(s.shape[0], -1, dim)


class GridPrimaryCapsules(nnx.Module):
    """Capsules on the grid of the features, with poses and activations side by side.

    Two convolutions: one for the poses, which are not squashed, and one for the logits
    of the activations.

    Attributes:
        poses: convolution to the poses.
        activations: convolution to the activations' logits, or None.
        poses_norm: batch normalisation of the poses, or None.
        activations_norm: likewise of the logits.
        types: capsules at each place.
        pose: shape of a pose, (P,) or (d, d).

    References:
        Hinton, Sabour and Frosst 2018, section 4; with normalisation: Ribeiro,
        Leontidis and Kollias 2020 ("types"), Hahn, Pyeon and Kim 2019 ("elements").
    """

    def __init__(
        self,
        in_channels: int,
        types: int,
        pose: tuple[int, ...],
        kernel_size: int = 1,
        *,
        padding: str = "VALID",
        has_activations: bool = True,
        use_bias: bool = True,
        normalization: str | None = None,
        kernel_init: Initializer,
        rngs: nnx.Rngs,
    ):
        """Builds the layer.

        Args:
            in_channels: channels of the features.
            types: capsules at each place.
            pose: shape of a pose, (P,) or (d, d).
            kernel_size: size of both convolutions' kernel; their stride is 1.
            padding: ``"VALID"`` or ``"SAME"``.
            has_activations: whether the capsules have activations.
            use_bias: whether the convolutions have a bias.
            normalization: one of `POSE_NORMALIZATIONS`; None for no batch
                normalisation.
            kernel_init: initial kernels.
            rngs: generator whose ``params`` stream initialises the parameters.
        """

        def conv(channels: int) -> Conv:
            return Conv(
                in_channels,
                channels,
                kernel_size,
                padding=padding,
                kernel_init=kernel_init,
                bias_init=jax.nn.initializers.zeros if use_bias else None,
                rngs=rngs,
            )

        self.poses = conv(types * math.prod(pose))
        self.activations = conv(types) if has_activations else None
        poses_norm = activations_norm = None
        if normalization is not None:
            poses_norm = PoseNorm(types, pose, normalization, rngs=rngs)
            if has_activations:
                activations_norm = BatchNorm(types, rngs=rngs)
        # Flax takes an attribute that was None once for static.
        self.poses_norm, self.activations_norm = poses_norm, activations_norm
        self.types = types
        self.pose = pose

    def __call__(self, x: Float[Array, "B H W C"], *, train: bool) -> Capsules:
        """Primary capsules on the grid [B, h, w, types]."""
        poses = self.poses(x)
        poses = poses.reshape(*poses.shape[:3], self.types, *self.pose)
        if self.poses_norm is not None:
            poses = self.poses_norm(poses, train=train)
        if self.activations is None:
            return Capsules(poses)
        logits = self.activations(x)
        if self.activations_norm is not None:
            logits = self.activations_norm(logits, train=train)
        return Capsules(poses, jax.nn.sigmoid(at_least_float32(logits)))


class DepthwisePrimaryCapsules(nnx.Module):
    """A convolution of each channel by itself, and groups of P channels as capsules.

    The kernel usually covers the whole map, so that every channel becomes one number.
    Where it leaves several places, capsules are ordered by place and then by type.

    Attributes:
        kernel: [K, K, 1, C] float32.
        bias: [C] float32.
        dim: P, channels of a capsule.
        stride: along both axes.

    References:
        Mazzia, Salvetti and Chiaberge 2021, section 3.1.
    """

    def __init__(
        self, channels: int, kernel_size: int, dim: int, *, stride: int, rngs: nnx.Rngs
    ):
        """Builds the layer.

        Raises:
            SettingsError: ``dim`` does not divide the channels.
        """
        if channels % dim:
            raise SettingsError(
                f"{channels} channels cannot be divided into capsules of {dim} "
                "dimensions; choose a primary_dim that divides the last of channels"
            )
        shape = (kernel_size, kernel_size, 1, channels)
        init = jax.nn.initializers.glorot_uniform()
        self.kernel = nnx.Param(init(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(channels, jnp.float32))
        self.dim = dim
        self.stride = stride

    @property
    def receptive_window(self) -> Window:
        """The pixels that one capsule sees."""
        return Window(self.kernel.shape[0], self.stride)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B I P"]:
        """Poses of the primary capsules, each of length below one."""
        kernel = self.kernel[...]
        wide = accumulation_dtype(x.dtype)
        if x.shape[1:3] == kernel.shape[:2]:
            # XLA:CPU is slow at convolutions in groups.
            s = jnp.einsum(
                "bhwc,hwc->bc", x, kernel[:, :, 0], preferred_element_type=wide
            )
        else:
            s = jax.lax.conv_general_dilated(
                x,
                kernel,
                (self.stride, self.stride),
                "VALID",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=x.shape[3],
                preferred_element_type=wide,
            )
        s = s.reshape(len(x), -1, x.shape[3]) + self.bias[...].astype(wide)[None, None]
        return exponential_squash(s.reshape(len(x), -1, self.dim)).astype(x.dtype)


def primary_grid(
    image_shape: tuple[int, int, int],
    *,
    conv1_kernel: int,
    primary_kernel: int,
    primary_stride: int,
    padding: str,
) -> tuple[int, int]:
    """Returns the number of rows and columns of the primary capsules' grid.

    Raises:
        SettingsError: the image is too small for the kernels.
    """
    features = (output_size(size, conv1_kernel, 1, padding) for size in image_shape[:2])
    rows, columns = (
        output_size(size, primary_kernel, primary_stride, padding) for size in features
    )
    if min(rows, columns) < 1:
        raise SettingsError(
            f"images of {image_shape[0]}x{image_shape[1]} pixels are too small for "
            f"conv1 {conv1_kernel}x{conv1_kernel} and primary capsules "
            f"{primary_kernel}x{primary_kernel} with stride {primary_stride} "
            f"({padding} padding); use smaller kernels, SAME padding or larger images"
        )
    return rows, columns
