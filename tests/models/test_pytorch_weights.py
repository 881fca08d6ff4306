"""Parameters of other libraries' networks make their scores; see reference_weights."""

import sys
import types
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from capsjax.errors import UserError
from capsjax.models import pytorch_weights
from capsjax.models.cnns import alexnet, deep_convnet, googlenet, resnet, vgg
from tests.models.cnns import reference_weights
from tests.models.cnns.reference_weights import CLASSES, IMAGE_SIZES

_VGG16 = {"channels": (8, 16, 32, 64, 64), "dense_units": (32, 32)}
CONFIGS = {
    "alexnet": alexnet.Config.preset("one_tower", dense_units=(32, 32)),
    "vgg16": vgg.Config.preset("vgg16", **_VGG16),
    "vgg16_bn": vgg.Config.preset("vgg16", batch_norm=True, **_VGG16),
    "googlenet": googlenet.Config.preset("torchvision"),
    "resnet50": resnet.Config.preset("resnet50", stride_in_3x3=True),
    "resnet20": resnet.Config.preset("resnet20"),
}
SMALL = resnet.Config(channels=(2, 4), blocks=1)


def built(config, size=8, num_classes=CLASSES):
    """A network of zeros: random numbers take longer to compile."""
    graphdef, state = nnx.split(
        nnx.eval_shape(
            lambda: config.build((size, size, 3), num_classes, nnx.Rngs(params=0))
        )
    )
    zeros = jax.tree.map(lambda x: jax.numpy.asarray(np.zeros(x.shape, x.dtype)), state)
    return nnx.merge(graphdef, zeros)


def arrays_of(model):
    return [np.asarray(x) for x in jax.tree.leaves(nnx.state(model))]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_scores_are_those_of_the_reference(name, tmp_path):
    arrays, expected = reference_weights.recorded(name)
    save_file(arrays, tmp_path / "x.safetensors")
    size = IMAGE_SIZES[name]
    model = built(CONFIGS[name], size)
    pytorch_weights.load(CONFIGS[name], model, tmp_path / "x.safetensors")
    graphdef, state = nnx.split(model)
    images = reference_weights.image(size).transpose(1, 2, 0)[None]
    scores = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x).scores)(
        state, images
    )
    np.testing.assert_allclose(scores[0], expected, rtol=1e-4, atol=1e-4)


def in_pytorchs_form(config, size=8):
    """Random parameters in the shapes and names that `load` takes."""
    model = built(config, size)
    shapes = {}
    for layer in config.reference_layers(model):
        for suffix, entry in pytorch_weights._entries(layer, {}):
            shapes[f"{layer.name}.{suffix}"] = entry.shapes[0]
    return model, reference_weights.weights(shapes)


def test_timms_dense_layers_are_convolutions(tmp_path):
    """Of the same numbers: in its VGG they see the features of 7x7 as a kernel."""
    config = vgg.Config(channels=(4,), depths=(1,), dense_units=(5,))
    model, arrays = in_pytorchs_form(config)
    path = tmp_path / "x.safetensors"
    save_file(arrays, path)
    pytorch_weights.load(config, model, path)
    expected = arrays_of(model)
    dense = arrays.pop("classifier.0.weight")
    arrays["pre_logits.fc1.weight"] = dense.reshape(5, 4, 4, 4)
    arrays["pre_logits.fc1.bias"] = arrays.pop("classifier.0.bias")
    arrays["head.fc.weight"] = arrays.pop("classifier.3.weight")
    arrays["head.fc.bias"] = arrays.pop("classifier.3.bias")
    save_file(arrays, path)
    model = built(config)
    pytorch_weights.load(config, model, path)
    for a, b in zip(arrays_of(model), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_as_many_classes_as_in_the_file(tmp_path):
    expected, arrays = in_pytorchs_form(SMALL)
    path = tmp_path / "x.safetensors"
    save_file(arrays, path)
    with pytest.raises(UserError, match=r"fc\.weight is 7x4 instead of 3x4"):
        pytorch_weights.load(SMALL, built(SMALL, num_classes=3), path)
    model = pytorch_weights.build(SMALL, (8, 8, 3), path)
    assert isinstance(model, resnet.ResNet)
    assert model.logits.kernel.shape == (4, 7)
    pytorch_weights.load(SMALL, expected, path)
    for a, b in zip(arrays_of(model), arrays_of(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_does_not_suit(tmp_path):
    model, arrays = in_pytorchs_form(SMALL)
    path = tmp_path / "x.safetensors"
    with pytest.raises(UserError, match="there is no file"):
        pytorch_weights.load(SMALL, model, path)
    path.write_text("nothing")
    with pytest.raises(UserError, match=r"cannot read .*x.safetensors as safetensors"):
        pytorch_weights.load(SMALL, model, path)
    del arrays["conv1.weight"], arrays["bn1.bias"], arrays["fc.bias"]
    arrays["layer1.0.conv1.weight"] = arrays["layer1.0.conv1.weight"][:1]
    arrays["layer3.0.conv1.weight"] = np.zeros(1, np.float32)
    save_file(arrays, path)
    with pytest.raises(UserError) as error:
        pytorch_weights.load(SMALL, model, path)
    assert str(error.value) == (
        f"{path} does not hold resnet with these settings and classes: it lacks "
        "conv1.weight, bn1.bias and 1 more; layer1.0.conv1.weight is 1x2x3x3 instead "
        "of 2x2x3x3; nothing here takes layer3.0.conv1.weight"
    )
    assert not any(np.any(x) for x in arrays_of(model))
    config = deep_convnet.Config(channels=(4,))
    with pytest.raises(UserError, match="PyTorch's libraries have no deep_convnet"):
        pytorch_weights.load(config, built(config), path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            resnet.Config(blocks=1, bottleneck=True, projections=True),
            "stride_in_3x3 is False, and True where",
        ),
        (SMALL.replace(symmetric_padding=False), "symmetric_padding is False, and"),
        (
            alexnet.Config.preset("cifar10", dense_units=()),
            "response_normalization is True, and False where",
        ),
    ],
)
def test_settings_that_shapes_do_not_show(config, message, tmp_path):
    with pytest.raises(UserError, match=f"does not suit config.model: {message}"):
        pytorch_weights.load(config, built(config, 32), tmp_path / "x.safetensors")


class Tensor:
    """As far as needed here."""

    def __init__(self, array):
        self.array = array

    def detach(self):
        return self

    float = detach

    def numpy(self):
        return self.array


@pytest.mark.parametrize("wrapped", [False, True])
def test_files_of_pytorch(wrapped, tmp_path, monkeypatch):
    """A state dict by itself, or that of several devices in a checkpoint."""
    path = tmp_path / "x.pth"
    path.write_text("")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"needs PyTorch: pip install -e '.\[torch\]'"):
        pytorch_weights.read(path)
    state = {"module.a.weight" if wrapped else "a.weight": Tensor(np.ones(2))}
    results: list[Any] = [{"epoch": 3, "state_dict": state} if wrapped else state]

    def load(file, map_location, weights_only):
        assert (file, map_location, weights_only) == (path, "cpu", True)
        return results[0]

    torch = types.SimpleNamespace(load=load, Tensor=Tensor)
    monkeypatch.setitem(sys.modules, "torch", torch)
    found = pytorch_weights.read(path)
    assert found.keys() == {"a.weight"}
    np.testing.assert_array_equal(found["a.weight"], np.ones(2, np.float32))
    results[0] = {"epoch": 3}
    with pytest.raises(UserError, match="does not hold the state dict"):
        pytorch_weights.read(path)
