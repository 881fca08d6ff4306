"""What a trained model says of images: the function that is deployed and exported."""

from collections.abc import Callable

from flax import nnx
from jaxtyping import Array, UInt8
from ml_collections import ConfigDict

from capsjax import models
from capsjax.training import augment

Images = UInt8[Array, "B H W C"]
Predict = Callable[[nnx.State, Images], dict[str, Array]]


def make_predict(
    graphdef: nnx.GraphDef, config: ConfigDict, *, reconstruct: bool = False
) -> Predict:
    """The function, not yet compiled, from parameters and images to results.

    Images are uint8 [B, H, W, C], as the data set has them: what `augment` does in
    evaluation is part of the function. The results, in float32:

    - ``"scores"`` [B, J]: lengths of the class capsules, or the logits of a CNN;
    - ``"poses"`` [B, J, Q], of a CapsNet;
    - ``"reconstructions"`` of the longest capsule [B, h, w, c], if asked for and if the
      model has a decoder. Nothing is computed for what is left out.

    Args:
        graphdef: the model's structure.
        config: its run's.
        reconstruct: whether reconstructions are among the results.
    """

    def predict(params: nnx.State, images: Images) -> dict[str, Array]:
        seen = augment.for_evaluation(images, config)
        output = models.apply(graphdef, params, seen, None, config.dtype)
        results = {"scores": output.scores, "poses": output.poses}
        if reconstruct:
            results["reconstructions"] = output.reconstructions
        return {name: x for name, x in results.items() if x is not None}

    return predict
