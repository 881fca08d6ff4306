"""Trained networks as files: packed, unpacked, and used in place of a run."""

import json

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from capsjax import data
from capsjax.data import ImageSet
from capsjax.errors import UserError
from capsjax.inference import pretrained
from capsjax.losses import margin
from capsjax.models.capsules import efficient_capsnet
from capsjax.runs.folder import RunFolder
from capsjax.training.train import train
from capsjax.training.trained import evaluate, restore
from experiments.configs import digits
from tests.launching import assert_one_line, run


@pytest.fixture(scope="module")
def trained(tmp_path_factory, digits_data) -> RunFolder:
    """The folder of a run with running averages and a decoder."""
    config = small_config()
    folder = RunFolder(tmp_path_factory.mktemp("pretrained") / "run")
    assert train(config, digits_data, folder.path) is not None
    return folder


def small_config():
    config = digits.get_config("quick")
    config.model = efficient_capsnet.Config.preset("digits", decoder_units=(8,))
    config.loss = margin.Config()
    config.data.validation_examples = 100
    config.batch_size, config.max_steps = 32, 20
    return config


@pytest.fixture(scope="module")
def packed(trained, digits_data):
    path = trained.path / "small.safetensors"
    pretrained.pack(trained, digits_data, path, {"note": "small"})
    return path


def test_what_is_unpacked_is_the_best_of_the_run(
    trained, packed, digits_data, tmp_path
):
    folder = RunFolder(tmp_path / "unpacked")
    pretrained.unpack(str(packed), folder)
    found = restore(folder, digits_data)
    best = restore(trained, digits_data, "best")
    assert found.step == best.step
    a, b = (evaluate(model, digits_data.test) for model in (found, best))
    np.testing.assert_array_equal(a.scores, b.scores)


def test_the_file_has_no_decoder_unless_asked_for(trained, packed, digits_data):
    names = load_file(packed)
    assert any(name.startswith("params/convs") for name in names)
    assert any(name.startswith("state/") for name in names)
    assert not any("decoder" in name for name in names)
    whole = trained.path / "whole.safetensors"
    count = pretrained.pack(trained, digits_data, whole, {}, with_decoder=True)
    assert any("decoder" in name for name in load_file(whole))
    params = restore(trained, digits_data, "best").variables.params
    assert count == sum(x.size for x in jax.tree.leaves(params))


def test_metadata_say_what_it_is_and_nothing_of_the_machine(packed):
    with safe_open(packed, framework="numpy") as file:
        metadata = {name: json.loads(text) for name, text in file.metadata().items()}
    assert metadata["about"]["note"] == "small"
    assert metadata["config"]["model"]["decoder_units"] == []
    assert "data_dir" not in metadata["data"]


def test_other_files_are_refused(packed, tmp_path):
    target = RunFolder(tmp_path / "run")
    with pytest.raises(UserError, match=r"no pretrained network 'fastest'.*path of a"):
        pretrained.unpack("fastest", target)
    other = tmp_path / "other.safetensors"
    save_file({"x": np.zeros(3)}, other)
    with pytest.raises(UserError, match="does not hold a network"):
        pretrained.unpack(str(other), target)
    other.write_text("no tensors")
    with pytest.raises(UserError, match="does not hold a network"):
        pretrained.unpack(str(other), target)
    with safe_open(packed, framework="numpy") as file:
        metadata = file.metadata()
    tensors = load_file(packed)
    tensors.pop(next(name for name in tensors if name.startswith("params/convs")))
    save_file(tensors, other, metadata)
    with pytest.raises(UserError, match=r"params/convs.* is no such array"):
        pretrained.unpack(str(other), target)


def test_a_file_that_cannot_be_written_is_one_error(trained, digits_data, tmp_path):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "net.safetensors"
    with pytest.raises(UserError, match=r"cannot write .*net\.safetensors"):
        pretrained.pack(trained, digits_data, path, {})
    path = tmp_path / "new" / "net.safetensors"
    pretrained.pack(trained, digits_data, path, {})
    assert path.is_file()


def test_the_networks_that_come_with_capsjax(tfds_data_dir, tmp_path):
    """On the first thousand test images they err about as often as their cards say."""
    mnist = data.load("mnist", data_dir=tfds_data_dir, validation_examples=5_000)
    assert pretrained.names() == ["efficient_capsnet_mnist"]
    for name in pretrained.names():
        folder = RunFolder(tmp_path / name)
        pretrained.unpack(name, folder)
        model = restore(folder, mnist)
        few = ImageSet(mnist.test.images[:1000], mnist.test.labels[:1000])
        accuracy = evaluate(model, few).metrics["accuracy"]
        facts = pretrained.about(name)
        said = facts["test_errors"] / facts["test_examples"]
        assert 1 - accuracy < said + 0.01
        card = (pretrained.FOLDER / f"{name}.md").read_text()
        assert f"{100 * said:.2f} %" in card
        assert facts["commit"] in card


def test_the_launchers_take_it_in_place_of_a_run(trained, tmp_path, digits_data):
    path = tmp_path / "net.safetensors"
    done = run(
        "publish", f"--workdir={trained.path}", f"--output={path}", "--note=Toy."
    )
    assert done.returncode == 0, done.stderr
    card = path.with_suffix(".md").read_text()
    assert "Toy." in card
    assert str(tmp_path) not in card
    printed, _ = json.JSONDecoder().raw_decode(done.stdout)
    done = run("evaluate", f"--pretrained={path}")
    assert done.returncode == 0, done.stderr
    accuracy = json.loads(done.stdout)["accuracy"]
    wrong = printed["test_errors"] / len(digits_data.test)
    assert accuracy == pytest.approx(1 - wrong)
    assert f"{100 * wrong:.2f} %" in card
    output = tmp_path / "model_b1.jaxexport"
    done = run("export", f"--pretrained={path}", f"--output={output}")
    assert done.returncode == 0, done.stderr
    assert output.is_file()
    assert_one_line(run("evaluate"), "give --workdir=DIR of a run, or --pretrained")
    both = run("evaluate", f"--pretrained={path}", f"--workdir={trained.path}")
    assert_one_line(both, "not both")
