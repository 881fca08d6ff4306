"""The seam between models and everything that trains, runs or measures them.

A model is a typed config and a module. The config says what the model offers; whoever
needs capsules, a decoder, routing or stages asks it, and knows no field of any model.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Self

import flax.struct
import jax
from flax import nnx
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Int, Key

from capsjax import fields, routings
from capsjax.losses.base import Scores
from kernels.dtypes import at_least_float32
from kernels.routing import Diagnosis


@flax.struct.dataclass
class ModelOutput:
    """Results of a model for a batch.

    Attributes:
        scores: [B, J], of the kind that the model's config declares; the largest is the
            prediction.
        poses: [B, J, Q] of the class capsules, or None.
        reconstructions: [B, H, W, C] in [0, 1], or [B, K, H, W, C] of K classes; or
            None.
    """

    scores: Array
    poses: Array | None = None
    reconstructions: Array | None = None


class Variables(flax.struct.PyTreeNode):
    """All that a model's results depend on besides images and structure.

    Attributes:
        step: training steps that made them.
        params: learned parameters, float32.
        model_state: what training changes without gradients, such as the running
            averages of batch normalisation; empty for most models.
    """

    step: Int[Array, ""]
    params: nnx.State
    model_state: nnx.State


class Stage(NamedTuple):
    """A part of a model that can be timed by itself.

    Attributes:
        name: name in tables.
        layer: attribute of the model that holds the stage's parameters.
        takes: names of what it takes: ``"images"``, ``"labels"``, or made before.
        makes: names of what it makes; ``"scores"`` and ``"reconstructions"`` go into
            the loss.
        call: from the layer and what the stage takes to a tuple of what it makes.
    """

    name: str
    layer: str
    takes: tuple[str, ...]
    makes: tuple[str, ...]
    call: Callable[..., tuple[Array, ...]]


class Model(nnx.Module):
    """Base class of the models' modules."""

    def __call__(
        self,
        images: Float[Array, "B H W C"],
        labels: Int[Array, "B *K"] | None = None,
        *,
        train: bool = False,
        step: Int[Array, ""] | int = 0,
        keys: Key[Array, " B"] | None = None,
    ) -> ModelOutput:
        """Classifies a batch, and what else the model does.

        Args:
            images: as `capsjax.training.augment` makes them.
            labels: class of each image, or its K classes, whose capsules a decoder
                reads; by default the class with the largest score.
            train: whether the call is a step of training. Only inside a train step, for
                models with batch normalisation.
            step: training steps taken so far, for what is annealed.
            keys: randomness of training, one key for each example; or None.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be called")

    def decode(
        self, poses: Float[Array, "B J Q"], labels: Int[Array, "B *K"]
    ) -> Float[Array, "B *K H W C"]:
        """Reconstructions from the poses of the classes in ``labels``."""
        raise NotImplementedError(f"{type(self).__name__} has no decoder")

    def diagnose_routing(self, images: Float[Array, "B H W C"]) -> Diagnosis:
        """What each routing iteration does to a few dozen images."""
        raise NotImplementedError(f"{type(self).__name__} has no routing")

    def stages(self) -> list[Stage]:
        """The parts of the model in order; empty for models that are not divided."""
        return []

    def convolutions(
        self,
    ) -> tuple[tuple[nnx.Module, ...], Callable[..., Array]] | None:
        """The convolutions, and their features as a function of them and of images.

        Any implementation has this part, so that times can be compared. None for models
        that are not divided.
        """
        return None


@dataclasses.dataclass(kw_only=True, slots=True)
class Config(fields.Named):
    """Base class of the models' configs, and what a model offers.

    Attributes:
        decoder_off: values of fields that leave the decoder out; empty for models
            without a decoder.
    """

    decoder_off: ClassVar[Mapping[str, Any]] = {}

    @property
    def scores(self) -> Scores:
        """Kind of the model's scores."""
        return "logits"

    @property
    def has_capsules(self) -> bool:
        """Whether the model returns poses of class capsules."""
        return False

    @property
    def has_decoder(self) -> bool:
        """Whether the model reconstructs images from the poses of class capsules."""
        return False

    @property
    def has_stages(self) -> bool:
        """Whether `Model.stages` and `Model.convolutions` divide the model."""
        return False

    @property
    def routing(self) -> routings.Config | None:
        """Config of the routing between capsules, or None for a model without."""
        return None

    def build(
        self, image_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs
    ) -> Model:
        """The model's module.

        Args:
            image_shape: (H, W, C) as the model sees images.
            num_classes: number of classes J.
            rngs: its ``params`` stream starts the parameters.

        Raises:
            ValueError: settings that do not fit together or with the images.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be built")

    def smaller(self, size: Literal["quick", "cpu"]) -> Self:
        """A smaller network: to try things out, or one that a CPU trains well."""
        raise NotImplementedError(f"{self.name} has no {size} size")

    def without_decoder(self) -> Self:
        """The same network without its decoder."""
        return self.replace(**self.decoder_off)

    def routed_by(self, implementation: str) -> Self:
        """The same network with another implementation of its routing.

        Raises:
            ValueError: its routing does not have that implementation.
        """
        if self.routing is None:
            raise ValueError(f"{self.name} has no routing")
        return self.replace(routing=self.routing.implemented_by(implementation))

    def portable(self) -> Self:
        """The same network in plain XLA operations, which run on every platform."""
        routing = self.routing
        return self.replace(
            **({} if routing is None else {"routing": routing.portable()})
        )

    def columns(self) -> dict[str, str]:
        """Cells of this network in rows of results."""
        routing = self.routing
        return {
            "model": self.name,
            **(
                {
                    "routing": "none",
                    "routing_iterations": "",
                    "routing_implementation": "none",
                }
                if routing is None
                else routing.columns()
            ),
        }


def split(model: nnx.Module) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """A model's structure, its parameters, and its other state."""
    graphdef, state = nnx.split(model)
    params, model_state = nnx.split_state(state, nnx.Param, ...)
    return graphdef, params, model_state


def apply(
    graphdef: nnx.GraphDef,
    variables: Variables,
    images: Float[Array, "B H W C"],
    labels: Int[Array, "B *K"] | None,
    dtype: DTypeLike,
    *,
    train: bool = False,
    keys: Key[Array, " B"] | None = None,
) -> tuple[ModelOutput, nnx.State]:
    """Results of a model for a batch, computed in a dtype.

    Args:
        graphdef: the model's structure.
        variables: its parameters and state.
        images: float32.
        labels: class of each image, or its K classes, whose capsules the decoder reads;
            None for the class with the largest score.
        dtype: dtype of all layers; half precision is summed in float32.
        train: see `Model.__call__`.
        keys: one for each example in training; None in evaluation.

    Returns:
        The results in float32, and the model's state after the call.
    """
    params, images = jax.tree.map(lambda x: x.astype(dtype), (variables.params, images))
    # A copy, because a model may change its state here, inside of a gradient.
    model = nnx.merge(graphdef, params, variables.model_state, copy=True)
    output = model(images, labels, train=train, step=variables.step, keys=keys)
    return jax.tree.map(at_least_float32, output), split(model)[2]


def decode(
    graphdef: nnx.GraphDef,
    variables: Variables,
    poses: Float[Array, "B J Q"],
    labels: ArrayLike,
    dtype: DTypeLike,
) -> Float[Array, "B H W C"]:
    """What a model's decoder draws from poses, computed in a dtype; see `apply`."""
    params, poses = jax.tree.map(lambda x: x.astype(dtype), (variables.params, poses))
    return nnx.merge(graphdef, params, variables.model_state).decode(poses, labels)


def num_parameters(model: nnx.Module) -> int:
    """Number of the numbers that the model learns."""
    return sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))
