"""Artefacts say what the model says, where nothing of this project is loaded."""

import dataclasses
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import nnx

from capsjax import data, fields
from capsjax.data import Dataset, ImageSet
from capsjax.errors import UserError
from capsjax.inference import export
from capsjax.losses import cross_entropy
from capsjax.models.cnns import baseline_cnn
from capsjax.runs.folder import RunFolder
from capsjax.training import step as train_step
from capsjax.training.checkpoint import Checkpoints, Record
from capsjax.training.evaluate import make_reconstruct
from capsjax.training.trained import TrainedModel, evaluate, restore
from experiments.configs import digits
from tests.launching import ROOT, run

B = 3

# What a user of an artefact runs: ARTEFACT IMAGES RESULTS.
LOAD_AND_CALL = """
import sys
import jax, numpy as np
model = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
results = model.call(np.load(sys.argv[2]))
np.savez(sys.argv[3], **results)
loaded = {name.split(".")[0] for name in sys.modules}
assert not loaded & {"capsjax", "kernels", "experiments", "flax"}, loaded
"""


@pytest.fixture(scope="module")
def digits_data() -> Dataset:
    return data.load("digits", validation_examples=180)


def made(**changes) -> TrainedModel:
    """A model with its first parameters."""
    config = digits.get_config("quick")
    fields.update(config, changes)
    graphdef, state = train_step.create(config, (8, 8, 1), 10)
    return TrainedModel(config, graphdef, jax.device_get(state.variables))


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    return made()


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """A folder with no more than a config and a checkpoint, and its exported model."""
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "untrained")
    config = digits.get_config("quick")
    config.model = config.model.routed_by("reference")
    _, state = train_step.create(config, (8, 8, 1), 10)
    with folder.open(config, resume=False), Checkpoints(folder) as checkpoints:
        checkpoints.save("last", jax.device_get(state), Record())
    flags = (f"--workdir={folder.path}", f"--batch_size={B}", "--reconstruct")
    return folder, run("export", *flags)


def test_it_runs_without_this_project(launched, digits_data, tmp_path):
    """Scores, poses and reconstructions of a process that has only the artefact."""
    folder, process = launched
    assert process.returncode == 0, process.stderr
    artefact = folder.path / "exported" / f"model_b{B}.jaxexport"
    images = digits_data.test.images[:B]
    np.save(tmp_path / "images.npy", images)
    empty = tmp_path / "empty"
    empty.mkdir()
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    others = [path for path in paths if path and pathlib.Path(path).resolve() != ROOT]
    loaded = subprocess.run(
        [
            *(sys.executable, "-W", "error", "-c", LOAD_AND_CALL),
            *(artefact, tmp_path / "images.npy", tmp_path / "results.npz"),
        ],
        cwd=empty,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(others),
            "JAX_PLATFORMS": "cpu",
        },
        capture_output=True,
        text=True,
    )
    assert loaded.returncode == 0, loaded.stderr
    found = np.load(tmp_path / "results.npz")
    assert sorted(found) == ["poses", "reconstructions", "scores"]

    model = restore(folder, digits_data, "last")
    scores = evaluate(model, ImageSet(images, digits_data.test.labels[:B])).scores
    np.testing.assert_allclose(found["scores"], scores, atol=1e-5)
    assert np.ptp(scores, axis=0).max() > 1e-3  # Each image has its own.

    @jax.jit
    def poses(params, images):
        return nnx.merge(model.graphdef, params)(images).poses

    seen = np.float32(images / 255)
    np.testing.assert_allclose(
        found["poses"], poses(model.variables.params, seen), atol=1e-5
    )
    classes = np.argmax(scores, axis=1)
    _, drawn = make_reconstruct(model.graphdef, model.config)(
        model.variables, images, classes
    )
    assert drawn is not None
    np.testing.assert_allclose(found["reconstructions"], drawn, atol=1e-5)


def test_the_launcher_says_what_it_wrote(launched, digits_data):
    folder, process = launched
    assert process.returncode == 0, process.stderr
    artefact = folder.path / "exported" / f"model_b{B}.jaxexport"
    (lies,) = re.findall(rf"{artefact} \((.*) MB\)", process.stdout)
    assert float(lies) == pytest.approx(artefact.stat().st_size / 1e6, abs=0.06)
    assert "scores: float32 [3, 10]" in process.stdout
    (difference,) = re.findall(r"difference .*: (\S+)", process.stdout)
    assert float(difference) <= export.TOLERANCE

    description = json.loads(artefact.with_suffix(".json").read_text())
    assert description.pop("commit")
    assert description == {
        "batch_size": B,
        "class_names": list(digits_data.class_names),
        "data": "digits",
        "input": {"shape": [B, 8, 8, 1], "dtype": "uint8"},
        "jax": jax.__version__,
        "model": "capsnet",
        "outputs": {
            "poses": {"shape": [B, 10, 16], "dtype": "float32"},
            "reconstructions": {"shape": [B, 8, 8, 1], "dtype": "float32"},
            "scores": {"shape": [B, 10], "dtype": "float32"},
        },
        "platforms": ["cpu", "cuda"],
        "run": "untrained",
        "run_folder": "..",
        "sha256": hashlib.sha256(artefact.read_bytes()).hexdigest(),
        "step": 0,
    }
    assert len(list(artefact.parent.iterdir())) == 2  # Nothing temporary.


def test_the_runs_fused_kernels_are_left_out(model, digits_data):
    """Its config may name them: it stays, and the artefact has plain operations."""
    config = model.config.replace(model=model.config.model.routed_by("mosaic_gpu"))
    before = fields.to_json(config)
    fused = dataclasses.replace(model, config=config)
    # From one place, which the programs remember.
    program, plain = (
        export.export(each, digits_data).mlir_module() for each in (fused, model)
    )
    assert fields.to_json(config) == before
    assert "custom_call" not in program
    assert program == plain


def test_the_baseline_has_no_poses(digits_data, tmp_path):
    model = made(
        model=baseline_cnn.Config(),
        loss=cross_entropy.Softmax(),
        **{
            "model.conv_channels": (4,),
            "model.kernel_sizes": (3,),
            "model.dense_units": (8,),
        },
    )
    exported = export.export(model, digits_data, batch_size=B, platforms=["cpu"])
    assert list(export.outputs(exported)) == ["scores"]
    some = ImageSet(digits_data.test.images[:B], digits_data.test.labels[:B])
    found = exported.call(some.images)
    np.testing.assert_allclose(found["scores"], evaluate(model, some).scores, atol=1e-5)
    with pytest.raises(UserError, match="baseline_cnn has no decoder"):
        export.export(model, digits_data, reconstruct=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "batch size is 0; choose at least 1"),
        ({"platforms": ["cpu", "gpu"]}, "unknown platform 'gpu'.*cpu, cuda, rocm, tpu"),
        ({"platforms": []}, "no platform is given.*cpu, cuda, rocm, tpu"),
    ],
)
def test_bad_arguments_are_refused(model, digits_data, options, words):
    with pytest.raises(UserError, match=words):
        export.export(model, digits_data, **options)


def test_other_files_are_not_overwritten(model, digits_data, tmp_path):
    """An export of the same run is, also after the run's folder was moved."""
    folder = RunFolder(tmp_path / "a" / "run")
    exported = export.export(model, digits_data, platforms=["cpu"])
    path = folder.path / "exported" / "model.jaxexport"
    export.save(exported, {}, path, folder)
    (tmp_path / "a").rename(tmp_path / "b")
    moved = RunFolder(tmp_path / "b" / "run")
    path = moved.path / "exported" / "model.jaxexport"
    export.save(exported, {"step": 7}, path, moved)
    assert json.loads(path.with_suffix(".json").read_text())["step"] == 7
    with pytest.raises(UserError, match=r"not an export of .*other; remove it"):
        export.save(exported, {}, path, RunFolder(tmp_path / "other"))

    moved.result.write_text("{}")
    for name in ("result.jaxexport", "result.json"):
        with pytest.raises(UserError, match=r"result\.json"):
            export.save(exported, {}, moved.path / name, moved)
    assert moved.result.read_text() == "{}"
    with pytest.raises(UserError, match="cannot write"):
        export.save(exported, {}, path / "below" / "model.jaxexport", moved)


def test_an_artefact_of_another_model_does_not_pass(model, digits_data, tmp_path):
    """And it is removed. Fewer test images than it takes will do."""
    path, folder = tmp_path / "model.jaxexport", RunFolder(tmp_path)
    exported = export.export(model, digits_data, batch_size=B, platforms=["cpu"])
    export.save(exported, {}, path, folder)
    images = digits_data.test.images[:2]
    assert export.check(path, model, digits_data, images) <= 1e-5
    other = dataclasses.replace(model, variables=made(seed=1).variables)
    with pytest.raises(RuntimeError, match="differ from the model's own"):
        export.check(path, other, digits_data, images)
    assert not list(tmp_path.iterdir())


def test_an_artefact_for_other_platforms_is_known(model, digits_data):
    for platforms, here in ((["tpu"], False), (["tpu", "cpu"], True)):
        exported = export.export(model, digits_data, platforms=platforms)
        assert export.runs_here(exported) == here
