"""What all models share: what they return, and how they are called in a dtype."""

import flax.struct
import jax
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

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
    return jax.tree.map(at_least_float32, output)


def at_least_float32(x: Array) -> Array:
    """The array in float32, or in its dtype if that is wider."""
    return x.astype(accumulation_dtype(x.dtype))


def num_parameters(model: nnx.Module) -> int:
    """How many numbers the model learns."""
    return sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))
