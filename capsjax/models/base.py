"""The interface between models and everything that trains, runs or measures them.

A model is a typed config and a module. The config declares what the model offers. Code
that needs capsules, a decoder, routing or stages asks the config, and does not know the
fields of any model.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Self

import flax.struct
import jax
from flax import nnx
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Int, Key

from capsjax import fields, routings
from capsjax.errors import NotApplicableError, SettingsError
from capsjax.layers import MaskedDecoder
from capsjax.losses.base import Scores
from kernels.dtypes import at_least_float32
from kernels.routing import Diagnosis

Gradient = Literal["routing", "held", "votes"]
"""What a gradient of scores goes through, see `Config.with_gradient`."""

ImageShape = tuple[int, int, int]
"""Shape (H, W, C) of an image, in pixels and channels."""


@flax.struct.dataclass
class ModelOutput:
    """Results of a model for a batch.

    Attributes:
        scores: [B, J], of the kind that the model's config declares; the largest is the
            prediction.
        poses: [B, J, Q] of the class capsules, or None.
        reconstructions: [B, H, W, C] in [0, 1], or [B, K, H, W, C] of K classes; or
            None.
        auxiliary_scores: [B, J] of each further classifier on inner features, which
            only training uses.
        auxiliary_weight: weight of their losses beside that of ``scores``.
    """

    scores: Array
    poses: Array | None = None
    reconstructions: Array | None = None
    auxiliary_scores: tuple[Array, ...] = ()
    auxiliary_weight: float = flax.struct.field(pytree_node=False, default=0.0)


class Published(NamedTuple):
    """An error that authors report of a preset, for the table of networks.

    Attributes:
        preset: name of the preset.
        data: name of the data set, such as ``"mnist"``; ``"imagenet"`` for the top-5
            error on ILSVRC's validation images.
        error_percent: error on the test images, in percent, of this network or of a
            near one that ``note`` names; None if there is none.
        note: what else belongs to the number, in a few words.
        side: pixels along the images' sides, if not as they are stored.
    """

    preset: str
    data: str
    error_percent: float | None
    note: str = ""
    side: int = 0


class Variables(flax.struct.PyTreeNode):
    """All that a model's results depend on besides images and structure.

    Attributes:
        step: number of training steps taken.
        params: learned parameters, float32.
        model_state: variables that training changes without gradients, such as the
            running averages of batch normalisation; empty for most models.
    """

    step: Int[Array, ""]
    params: nnx.State
    model_state: nnx.State


class Stage(NamedTuple):
    """A part of a model that can be timed by itself.

    Attributes:
        name: name in tables.
        layer: attribute of the model that holds the stage's parameters.
        takes: names of its inputs: ``"images"``, ``"labels"``, or earlier outputs.
        makes: names of its outputs; ``"scores"`` and ``"reconstructions"`` go into the
            loss.
        call: function from the layer and the inputs to a tuple of the outputs.
    """

    name: str
    layer: str
    takes: tuple[str, ...]
    makes: tuple[str, ...]
    call: Callable[..., tuple[Array, ...]]


class ReferenceLayer(NamedTuple):
    """A layer, and where its parameters are in the files of PyTorch's libraries.

    Attributes:
        layer: a `Conv`, `BatchNorm` or `nnx.Linear`; None for a layer that only the
            other library's network may have, whose parameters are left.
        name: the layer's name.
        other_name: its name in another library, or "".
        grid: height and width of the features that a dense layer sees flattened.
        is_classifier: whether the number of classes determines its shape.
        absorbs: name of the convolution before a normalisation, whose bias the
            normalisation's mean takes up, because our convolution has none; or "".
    """

    layer: nnx.Module | None
    name: str
    other_name: str = ""
    grid: tuple[int, int] = (1, 1)
    is_classifier: bool = False
    absorbs: str = ""


class Model(nnx.Module):
    """Base class of the models' modules.

    Attributes:
        decoder: makes images from the poses of the class capsules, or None.
    """

    decoder: MaskedDecoder | None = None

    def __call__(
        self,
        images: Float[Array, "B H W C"],
        labels: Int[Array, "B *K"] | None = None,
        *,
        train: bool = False,
        step: Int[Array, ""] | int = 0,
        keys: Key[Array, " B"] | None = None,
    ) -> ModelOutput:
        """Classifies a batch, and reconstructs it if there is a decoder.

        Args:
            images: images from `capsjax.training.augment`.
            labels: class of each image, or its K classes, whose capsules a decoder
                reads; by default the class with the largest score.
            train: whether the call is part of a train step. Models with batch
                normalisation allow it only inside one.
            step: number of training steps taken so far, for annealing.
            keys: random keys for training, one for each example; or None.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be called")

    def decode(
        self, poses: Float[Array, "B J Q"], labels: Int[Array, "B *K"]
    ) -> Float[Array, "B *K H W C"]:
        """Reconstructions from the poses of the classes in ``labels``."""
        if self.decoder is None:
            raise NotImplementedError(f"{type(self).__name__} has no decoder")
        return self.decoder(poses, labels)

    def diagnose_routing(self, images: Float[Array, "B H W C"]) -> Diagnosis:
        """Diagnoses each routing iteration on a few dozen images."""
        raise NotImplementedError(f"{type(self).__name__} has no routing")

    def stages(self) -> list[Stage]:
        """The model's parts in order; empty for models that are not divided."""
        return []

    def convolutions(
        self,
    ) -> tuple[tuple[nnx.Module, ...], Callable[..., Array]] | None:
        """The convolutions, and the function from them and images to features.

        Every implementation has this part, so that times can be compared. None for
        models that are not divided.
        """
        return None


@dataclasses.dataclass(kw_only=True, slots=True)
class Config(fields.Named):
    """Base class of the models' configs, which declare what a model offers.

    Attributes:
        has_capsules: whether the model returns poses of class capsules.
        has_stages: whether `Model.stages` and `Model.convolutions` divide the model.
        decoder_off: values of fields that leave the decoder out; empty for models
            without a decoder.
        PUBLISHED: what authors report of presets.
    """

    has_capsules: ClassVar[bool] = False
    has_stages: ClassVar[bool] = False
    decoder_off: ClassVar[Mapping[str, Any]] = {}
    PUBLISHED: ClassVar[Sequence[Published]] = ()

    @property
    def scores(self) -> Scores:
        """Kind of the model's scores."""
        return "logits"

    @property
    def has_decoder(self) -> bool:
        """True if the model reconstructs images from the poses of class capsules."""
        return False

    @property
    def routing(self) -> routings.Config | None:
        """Config of the routing between capsules, or None for a model without."""
        return None

    def build(self, image_shape: ImageShape, num_classes: int, rngs: nnx.Rngs) -> Model:
        """The model's module.

        Args:
            image_shape: shape of the images that the model sees.
            num_classes: number of classes J.
            rngs: generator whose ``params`` stream initialises the parameters.

        Raises:
            SettingsError: settings that do not fit together or with the images.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be built")

    def reference_layers(self, model: Any) -> Sequence[ReferenceLayer]:
        """Where the parameters are in files of PyTorch's libraries.

        Empty for networks that those do not have; see
        `capsjax.models.pytorch_weights`.

        Args:
            model: the module that this config built.

        Raises:
            SettingsError: their network computes something else than this one, which
                the shapes do not show.
        """
        return ()

    def smaller(self, size: Literal["quick", "cpu"]) -> Self:
        """A smaller network: for a quick trial, or for training on a CPU."""
        raise NotImplementedError(f"{self.name} has no {size} size")

    def divided(self, share: int, *names: str) -> Self:
        """The same network with a share of some fields' numbers, at least 1 of each."""

        def part(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(map(part, value))
            return max(value // share, 1)

        return self.replace(**{name: part(getattr(self, name)) for name in names})

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
        if self.routing is None:
            return self.replace()
        return self.replace(routing=self.routing.portable())

    def with_gradient(self, gradient: Gradient) -> Self:
        """A network of the same parameters, for the sake of its gradient.

        Args:
            gradient: ``"routing"``, through all routing iterations; ``"held"``, with
                coupling coefficients as constants; ``"votes"``, of the scores that
                equal weights of all votes give, before routing.

        Raises:
            NotApplicableError: its routing does not have that gradient, or it has
                none.
        """
        if self.routing is None:
            if gradient == "routing":
                return self.replace()
            raise NotApplicableError(f"{self.name} has no routing")
        if gradient == "routing":
            return self.replace(routing=self.routing.couplings_followed())
        if gradient == "held":
            return self.replace(routing=self.routing.couplings_held())
        return self.replace(routing=self.routing.couplings_equal())

    def columns(self) -> dict[str, str]:
        """Cells of this network in rows of results."""
        no_routing = {
            "routing": "none",
            "routing_iterations": "",
            "routing_implementation": "none",
        }
        routing = self.routing.columns() if self.routing else no_routing
        return {"model": self.name, **routing}


def check_counts(config: Config, *names: str, of: str, least: int = 1) -> None:
    """Refuses fields with lists of different lengths.

    Args:
        config: config of the network.
        names: fields that have one item for each part of the network.
        of: what the parts are, in messages.
        least: the smallest number of parts.

    Raises:
        SettingsError: the lengths differ, or there are too few parts.
    """
    counts = [len(getattr(config, name)) for name in names]
    if len(set(counts)) > 1 or counts[0] < least:
        *others, last = [
            f"{count} {name}" for count, name in zip(counts, names, strict=True)
        ]
        raise SettingsError(
            f"{', '.join(others)} and {last}; give each {of} one of each"
            + (f", and at least {least}" if counts[0] < least else "")
        )


def check_reference(config: Config, **wanted: Any) -> None:
    """Refuses settings with which parameters of another library mean something else.

    Args:
        config: config of the network.
        **wanted: values of fields that the other library's network has.

    Raises:
        SettingsError: names the first field that differs.
    """
    for name, value in wanted.items():
        if getattr(config, name) != value:
            raise SettingsError(
                f"{name} is {getattr(config, name)}, and {value} where the parameters "
                f"come from; set config.model.{name} to that"
            )


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
    """Computes the results of a model for a batch in a given dtype.

    Args:
        graphdef: the model's structure.
        variables: its parameters and state.
        images: batch, float32.
        labels: class of each image, or its K classes, whose capsules the decoder reads;
            None for the class with the largest score.
        dtype: dtype of all layers; half precision is summed in float32.
        train: whether this is part of a train step, see `Model.__call__`.
        keys: random keys, one for each example in training; None in evaluation.

    Returns:
        The results in float32, and the model's state after the call.
    """
    params, images = jax.tree.map(lambda x: x.astype(dtype), (variables.params, images))
    # A copy, because a model may change its state here, inside a gradient.
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
    """Computes a model's reconstructions from poses in a given dtype; see `apply`."""
    params, poses = jax.tree.map(lambda x: x.astype(dtype), (variables.params, poses))
    return nnx.merge(graphdef, params, variables.model_state).decode(poses, labels)


def num_parameters(model: nnx.Module) -> int:
    """Returns the number of learned parameters."""
    return sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))
