"""Normalisation of features: over the whole batch, each image or each pose."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from kernels.dtypes import accumulation_dtype

BATCH_AXIS = "data"
"""Name of the axis of devices that share a batch, inside a train step."""


class BatchNorm(nnx.Module):
    """Batch normalisation over all axes but the last.

    In training, mean and variance are those of the whole batch: they are averaged over
    the devices, so that any number of devices trains alike, and the running averages
    move towards them. In evaluation the running averages are used.

    Attributes:
        norm: Flax's layer; its ``mean`` and ``var`` are state, not parameters.

    References:
        Ioffe and Szegedy 2015, "Batch Normalization", algorithms 1 and 2.
    """

    def __init__(
        self,
        features: int,
        *,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        affine: bool = True,
        rngs: nnx.Rngs,
    ):
        self.norm = nnx.BatchNorm(
            features,
            momentum=momentum,
            epsilon=epsilon,
            use_scale=affine,
            use_bias=affine,
            axis_name=BATCH_AXIS,
            rngs=rngs,
        )

    def __call__(
        self, x: Float[Array, "B *n C"], *, train: bool
    ) -> Float[Array, "B *n C"]:
        """Normalises features; statistics are float32 at least.

        Args:
            x: features, channels last.
            train: whether to use the batch's statistics, and to update the running
                averages. Inside a train step only: it is a sum over `BATCH_AXIS`.
        """
        # Parameters of half precision meet float32 statistics.
        with jax.numpy_dtype_promotion("standard"):
            wide = x.astype(accumulation_dtype(x.dtype))
            y = self.norm(wide, use_running_average=not train)
        return jnp.asarray(y, x.dtype)


POSE_NORMALIZATIONS = ("types", "elements")
"""What has a mean and a variance of its own: each type of capsules, over all elements
of its poses; or each element of the poses of each type."""


class PoseNorm(nnx.Module):
    """Batch normalisation of the poses of capsules.

    Attributes:
        norm: the normalisation.
        pose: shape of a pose.
        by: one of `POSE_NORMALIZATIONS`.
    """

    def __init__(
        self,
        types: int,
        pose: tuple[int, ...],
        by: str,
        *,
        rngs: nnx.Rngs,
    ):
        features = types if by == "types" else types * math.prod(pose)
        self.norm = BatchNorm(features, rngs=rngs)
        self.pose = pose
        self.by = by

    def __call__(self, poses: Float[Array, "..."], *, train: bool) -> Array:
        """Normalises poses [B, *N, types, *pose]; see `BatchNorm`."""
        shape = poses.shape
        lead = shape[: len(shape) - len(self.pose) - 1]
        if self.by == "elements":
            return self.norm(poses.reshape(*lead, -1), train=train).reshape(shape)
        x = jnp.swapaxes(poses.reshape(*lead, self.norm.norm.num_features, -1), -1, -2)
        return jnp.swapaxes(self.norm(x, train=train), -1, -2).reshape(shape)


class LayerNorm(nnx.Module):
    """Normalisation over the last axis, such as the elements of each pose.

    Attributes:
        norm: Flax's layer.

    References:
        Ba, Kiros and Hinton 2016, "Layer Normalization".
    """

    def __init__(self, features: int, *, epsilon: float = 1e-5, rngs: nnx.Rngs):
        self.norm = nnx.LayerNorm(
            features, epsilon=epsilon, use_fast_variance=False, rngs=rngs
        )

    def __call__(self, x: Float[Array, "*n Q"]) -> Float[Array, "*n Q"]:
        """Normalised features; statistics are float32 at least."""
        with jax.numpy_dtype_promotion("standard"):
            y = self.norm(x.astype(accumulation_dtype(x.dtype)))
        return jnp.asarray(y, x.dtype)


class InstanceNorm(nnx.Module):
    """Normalisation of each channel of each image over its places.

    Attributes:
        norm: Flax's layer.

    References:
        Ulyanov, Vedaldi and Lempitsky 2016, "Instance Normalization".
    """

    def __init__(self, features: int, *, epsilon: float = 1e-5, rngs: nnx.Rngs):
        self.norm = nnx.InstanceNorm(features, epsilon=epsilon, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B H W C"], *, train: bool
    ) -> Float[Array, "B H W C"]:
        """Normalised features; the same in training and evaluation."""
        with jax.numpy_dtype_promotion("standard"):
            y = self.norm(x.astype(accumulation_dtype(x.dtype)))
        return jnp.asarray(y, x.dtype)
