"""Training starts from what another training has found."""

import pathlib
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from capsjax import models
from capsjax.config import Config
from capsjax.errors import UserError
from capsjax.inference import pretrained
from capsjax.losses import cross_entropy
from capsjax.models.cnns import deep_convnet, lenet, resnet
from capsjax.runs.folder import RunFolder
from capsjax.runs.provenance import sha256
from capsjax.training import initial, parameter_names
from capsjax.training import step as train_step
from capsjax.training.train import train
from capsjax.training.trained import restore
from tests.models.test_pytorch_weights import SMALL, in_pytorchs_form

SHAPE = (8, 8, 1)


def config_of(model: models.Config) -> Config:
    config = Config(model=model, loss=cross_entropy.Softmax())
    config.data.name, config.data.validation_examples = "digits", 100
    config.augment.shift = 0
    config.batch_size, config.max_steps, config.log_every_steps = 8, 2, 2
    config.num_devices = 1
    return config


@pytest.fixture(scope="module")
def run(digits_data, tmp_path_factory) -> pathlib.Path:
    """A run of a CNN without a second pair of convolutions."""
    config = config_of(deep_convnet.Config(channels=(4,), dense_units=8))
    folder = tmp_path_factory.mktemp("source") / "run"
    train(config, digits_data, folder)
    return folder


def arrays(variables: models.Variables) -> dict[str, np.ndarray]:
    pairs = parameter_names.by_path(variables.params)
    pairs += parameter_names.by_path(variables.model_state)
    return {path: np.asarray(x) for path, x in pairs}


def start(config: Config, num_classes: int = 10, shape=SHAPE):
    _, state = train_step.create(config, shape, num_classes)
    state_then, source = initial.taken(config, state, shape)
    return state, state_then, source.in_words


def test_all_that_fits_is_taken_and_the_rest_named(run, digits_data):
    config = config_of(deep_convnet.Config(channels=(4,), dense_units=8))
    config.init_from, config.seed = str(run), 5
    config.optimizer.average_decay = 0.9
    before, state, said = start(config, num_classes=3)
    source, found = arrays(restore(run, digits_data).variables), arrays(state.variables)
    new = [path for path in found if path.startswith("logits")]
    for path, array in found.items():
        expected = arrays(before.variables) if path in new else source
        np.testing.assert_array_equal(array, expected[path], err_msg=path)
    assert said == (
        f"starts from {run}: {len(found) - 2} of {len(found)} arrays; new are logits"
    )
    for a, b in zip(*map(jax.tree.leaves, (state.averages, state.params)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_only_the_named_layers_are_taken(run, digits_data):
    config = config_of(deep_convnet.Config(channels=(4, 4), dense_units=8))
    config.init_from, config.init_layers = str(run), ("pairs.0.*", "logits.bias")
    before, state, _ = start(config)
    source, found = arrays(restore(run, digits_data).variables), arrays(state.variables)
    taken = {p for p in found if p.startswith("pairs.0.")} | {"logits.bias"}
    assert len(taken) > 3
    for path, array in found.items():
        expected = source if path in taken else arrays(before.variables)
        np.testing.assert_array_equal(array, expected[path], err_msg=path)


def test_a_training_goes_on_from_it(run, digits_data, tmp_path, capsys):
    """With layers that are kept; and resuming does not need the source any more."""
    source = tmp_path / "source"
    shutil.copytree(run, source)
    config = config_of(deep_convnet.Config(channels=(4,), dense_units=8))
    config.init_from = str(source)
    config.optimizer.rates = ("pairs=0",)
    result = train(config, digits_data, tmp_path / "run")
    assert result is not None
    assert f"starts from {source}" in capsys.readouterr().out
    found = arrays(result.model.variables)
    expected = arrays(restore(run, digits_data).variables)
    same = {p for p in found if np.array_equal(found[p], expected[p])}
    assert same == {p for p in found if p.startswith("pairs.")}
    assert RunFolder(tmp_path / "run").load_env()["init_from"] == {
        "path": str(source),
        "sha256": sha256(expected),
    }
    shutil.rmtree(source)
    train(config.replace(max_steps=3), digits_data, tmp_path / "run", resume=True)


def test_an_error_leaves_no_folder(digits_data, tmp_path):
    config = config_of(deep_convnet.Config(channels=(4,), dense_units=8))
    config.init_from = str(tmp_path / "none")
    with pytest.raises(UserError, match="there is no file"):
        train(config, digits_data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_published_file(run, digits_data, tmp_path):
    path = tmp_path / "net.safetensors"
    pretrained.pack(RunFolder(run), digits_data, path, {})
    config = config_of(deep_convnet.Config(channels=(4,), dense_units=8))
    config.init_from = str(path)
    _, state, said = start(config)
    assert said.endswith("new are none")
    source, found = arrays(restore(run, digits_data).variables), arrays(state.variables)
    for name, array in found.items():
        np.testing.assert_array_equal(array, source[name], err_msg=name)


def test_a_pytorch_file_of_other_classes(tmp_path):
    _, tensors = in_pytorchs_form(SMALL)
    path = tmp_path / "net.safetensors"
    save_file(tensors, path)
    config = config_of(resnet.Config(channels=(2, 4), blocks=1))
    config.init_from = str(path)
    _, state, said = start(config, num_classes=3, shape=(8, 8, 3))
    assert said.endswith("new are logits")
    found = arrays(state.variables)
    expected = tensors["conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(found["conv.kernel"], expected)
    np.testing.assert_array_equal(found["norm.norm.var"], tensors["bn1.running_var"])


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (("conv9",), r"has 'conv9', which is no layer of this network; it has dense, "),
        (("pairs.1",), r"names pairs\.1\.\S+, which is .* here; .* lacks it"),
        (("logits",), r"names logits\.bias, which is \(3,\) here; .* has \(10,\)"),
    ],
)
def test_layers_that_cannot_be_taken(run, layers, message):
    config = config_of(deep_convnet.Config(channels=(4, 4), dense_units=8))
    config.init_from, config.init_layers = str(run), layers
    with pytest.raises(UserError, match=message):
        start(config, num_classes=3)


def test_nothing_to_take(run, tmp_path):
    config = config_of(lenet.Config.preset("dense"))
    config.init_from = str(run)
    with pytest.raises(UserError, match=r"no layer with a name and shapes of this"):
        start(config, num_classes=3, shape=(32, 32, 1))
    for path, message in (
        (tmp_path / "none", "there is no file"),
        (tmp_path, "is it the --workdir of a run"),
    ):
        config.init_from = str(path)
        with pytest.raises(UserError, match=message):
            start(config)
