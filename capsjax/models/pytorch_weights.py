"""Parameters from the files of PyTorch's libraries: torchvision, timm and others.

Networks say in `Config.reference_layers` which of their layers is which in such a file.
Images must be scaled as they were for the file's network. For torchvision and timm that
is (x - mean) / deviation of pixels x in [0, 1], with mean (0.485, 0.456, 0.406) and
deviation (0.229, 0.224, 0.225); but (x - 0.5) / 0.5 for torchvision's GoogLeNet.
"""

import pathlib
import pickle
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError, safe_open

from capsjax import models
from capsjax.errors import SettingsError, UserError
from capsjax.layers import BatchNorm, Conv
from capsjax.models.base import Config, ImageShape, Model, ReferenceLayer


class _Entry(NamedTuple):
    """An array of a file.

    Attributes:
        variable: ours, which it becomes.
        shapes: shapes that it may have in the file.
        convert: brings it into our shape.
    """

    variable: nnx.Variable
    shapes: Sequence[tuple[int, ...]]
    convert: Callable[[np.ndarray], np.ndarray]


def build(config: Config, image_shape: ImageShape, path: pathlib.Path) -> Model:
    """Builds the network of a file, with as many classes as it has there.

    Args:
        config: the network's config.
        image_shape: shape (H, W, C) of the images that the network sees.
        path: see `load`.

    Raises:
        UserError: see `load`; or the images do not suit the config.
    """

    def built(num_classes: int) -> Model:
        return models.build(config, image_shape, num_classes, nnx.Rngs(params=0))

    arrays = read(path)
    try:
        layers = config.reference_layers(nnx.eval_shape(lambda: built(2)))
    except SettingsError:
        layers = ()  # Which `load` explains.
    sizes = [
        len(arrays[f"{name}.weight"])
        for layer in layers
        for name in (layer.name, layer.other_name)
        if layer.is_classifier and f"{name}.weight" in arrays
    ]
    model = built(sizes[0] if sizes else 2)
    load(config, model, path)
    return model


def load(config: Config, model: Model, path: pathlib.Path) -> None:
    """Gives a network the parameters and running averages of a file.

    Where there is an error, nothing has changed.

    Args:
        config: the network's config.
        model: the module that it built.
        path: a ``.safetensors`` file; or a state dict that ``torch.save`` wrote, which
            needs PyTorch.

    Raises:
        UserError: the file cannot be read, or holds another network; or the network has
            no counterpart in those libraries.
    """
    try:
        layers = config.reference_layers(model)
    except SettingsError as error:
        raise UserError(f"{path} does not suit config.model: {error}") from error
    if not layers:
        raise UserError(
            f"PyTorch's libraries have no {config.name}, whose parameters it could take"
        )
    found = read(path)
    entries: dict[str, _Entry] = {}
    left = []
    for layer in layers:
        name = layer.name
        if f"{name}.weight" not in found and f"{layer.other_name}.weight" in found:
            name = layer.other_name
        if layer.layer is None:
            left.append(name)
            continue
        entries |= {
            f"{name}.{suffix}": entry for suffix, entry in _entries(layer, found)
        }
    absorbed = {f"{layer.absorbs}.bias" for layer in layers}
    unused = [
        key
        for key in found.keys() - entries.keys() - absorbed
        if not key.endswith(".num_batches_tracked")
        and key.rpartition(".")[0] not in left
    ]
    problems = _problems(found, entries, unused)
    if problems:
        raise UserError(
            f"{path} does not hold {config.name} with these settings and classes: "
            + "; ".join(problems)
        )
    converted = [(x.variable, x.convert(found[key])) for key, x in entries.items()]
    for variable, value in converted:
        variable[...] = jnp.asarray(value, variable.dtype)


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a file by name, float32.

    Raises:
        UserError: the file is missing or cannot be read, or needs PyTorch, which is not
            installed.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    if path.suffix != ".safetensors":
        arrays = _read_pytorch(path)
    else:
        try:
            with safe_open(path, framework="numpy") as file:
                arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, TypeError) as error:
            raise UserError(f"cannot read {path} as safetensors: {error}") from error
    # So are the names of a network that was trained on several devices.
    return {
        key.removeprefix("module."): np.asarray(value, np.float32)
        for key, value in arrays.items()
    }


def _read_pytorch(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"reading {path} needs PyTorch: pip install -e '.[torch]'; or give a "
            ".safetensors file"
        ) from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.PickleError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"cannot read {path} with PyTorch: {reason}") from error
    if isinstance(state, Mapping):
        state = state.get("state_dict", state)
    if not isinstance(state, Mapping) or not all(
        isinstance(value, torch.Tensor) for value in state.values()
    ):
        raise UserError(f"{path} does not hold the state dict of a network")
    return {key: value.detach().float().numpy() for key, value in state.items()}


def _entries(
    layer: ReferenceLayer, found: Mapping[str, np.ndarray]
) -> list[tuple[str, _Entry]]:
    """The arrays of a layer, by their name within the layer."""

    def same(variable: Any) -> _Entry:
        return _Entry(variable, [variable.shape], lambda x: x)

    own: Any = layer.layer
    if isinstance(own, BatchNorm):
        bias = found.get(f"{layer.absorbs}.bias", np.zeros((), np.float32))
        mean = same(own.norm.mean)._replace(convert=lambda x: x - bias)
        return [
            ("weight", same(own.norm.scale)),
            ("bias", same(own.norm.bias)),
            ("running_mean", mean),
            ("running_var", same(own.norm.var)),
        ]
    if isinstance(own, Conv):
        K, _, C_in, C_out = own.kernel.shape
        weight = _Entry(
            own.kernel, [(C_out, C_in, K, K)], lambda x: x.transpose(2, 3, 1, 0)
        )
    else:
        n_in, n_out = own.kernel.shape
        H, W = layer.grid
        C = n_in // (H * W)
        # Flattened with the channels first there, last here; timm has convolutions.
        weight = _Entry(
            own.kernel,
            [(n_out, n_in), (n_out, C, H, W)],
            lambda x: (
                x.reshape(n_out, C, H, W).transpose(2, 3, 1, 0).reshape(n_in, n_out)
            ),
        )
    if own.bias is None:
        return [("weight", weight)]
    return [("weight", weight), ("bias", same(own.bias))]


def _problems(
    found: Mapping[str, np.ndarray],
    entries: Mapping[str, _Entry],
    unused: Collection[str],
) -> list[str]:
    """What does not suit, in words."""
    missing = [key for key in entries if key not in found]
    misshapen = [
        f"{key} is {_in_words(found[key].shape)} instead of "
        f"{_in_words(entry.shapes[0])}"
        for key, entry in entries.items()
        if key in found and found[key].shape not in entry.shapes
    ]
    return [
        words + _few(each)
        for words, each in (
            ("it lacks ", missing),
            ("", misshapen),
            ("nothing here takes ", sorted(unused)),
        )
        if each
    ]


def _few(texts: Sequence[str]) -> str:
    more = len(texts) - 2
    return ", ".join(texts[:2]) + (f" and {more} more" if more > 0 else "")


def _in_words(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"
