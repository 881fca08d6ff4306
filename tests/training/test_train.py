"""Training as a whole, on a tiny network and real digits."""

import functools
import gzip
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax import data, fields, losses
from capsjax.analyses.figures import run as figures
from capsjax.config import Config
from capsjax.data import Dataset, ImageSet
from capsjax.errors import UserError
from capsjax.runs.folder import RunFolder
from capsjax.runs.metrics import read_metrics
from capsjax.training import step as train_step
from capsjax.training.parallel import Devices
from capsjax.training.train import train
from experiments.configs import cifar10, digits, mnist, smallnorb, svhn
from tests.launching import comparable
from tests.launching import losses as rows_of
from tests.stepping import ONE, take_steps
from tests.test_config import IMAGE_SHAPES, NUM_CLASSES


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory, digits_data) -> RunFolder:
    """A run that was not interrupted; read only."""
    config = digits.get_config("quick")
    config.batch_size, config.max_steps, config.log_every_steps = 16, 6, 2
    config.checkpoint_every_steps = 4
    config.num_devices = 1
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "whole")
    trained = train(config, digits_data, folder)
    assert trained is not None
    figures.write_all(folder, digits_data, trained)
    return folder


def test_a_run_leaves_what_the_folder_promises(finished_run, digits_data):
    result = finished_run.load_result()
    assert result["steps"] == 6
    assert result["test_examples"] == len(digits_data.test)
    wrong = result["test_error_percent"] / 100 * len(digits_data.test)
    assert wrong == pytest.approx(round(wrong))
    assert result["test_accuracy"] == pytest.approx(
        1 - result["test_error_percent"] / 100
    )
    assert result["final_train_loss"] > 0
    assert result["seconds"] > 0
    assert len(result["params_sha256"]) == 64
    config = finished_run.load_config()
    assert config.model == digits.get_config("quick").model
    assert fields.flatten(config)["model.routing.iterations"] == 3
    env = finished_run.load_env()
    assert env["versions"]["jax"] == jax.__version__
    assert env["data"] == digits_data.provenance
    assert [path.name for path in sorted(finished_run.plots.iterdir())] == [
        "confusion_matrix.png",
        "curves.png",
        "errors.png",
        "reconstructions.png",
    ]
    assert any(finished_run.tensorboard.iterdir())
    rows = read_metrics(finished_run.metrics)
    assert [(row["step"], row["split"]) for row in rows] == [
        (2, "train"),
        (4, "train"),
        (6, "train"),
        (6, "validation"),
        (6, "test"),
    ]
    assert rows[0]["learning_rate"] == pytest.approx(
        config.optimizer.learning_rate
        * config.optimizer.decay_rate ** (1 / config.optimizer.decay_steps)
    )


def test_result_counts_the_models_parameters(finished_run, digits_data):
    _, state = train_step.create(finished_run.load_config(), (8, 8, 1), 10)
    counted = sum(x.size for x in jax.tree.leaves(state.params))
    assert finished_run.load_result()["num_parameters"] == counted


def test_the_same_seed_gives_the_same_run(finished_run, digits_data, tmp_path):
    config = finished_run.load_config()
    train(config, digits_data, RunFolder(tmp_path / "again"))
    assert comparable(RunFolder(tmp_path / "again")) == comparable(finished_run)
    config.seed = 1
    train(config, digits_data, RunFolder(tmp_path / "other"))
    other = comparable(RunFolder(tmp_path / "other"))
    assert other["params_sha256"] != comparable(finished_run)["params_sha256"]


def test_a_resumed_run_equals_an_uninterrupted_one(finished_run, digits_data, tmp_path):
    """Stopped where no epoch ends, in the midst of a log interval."""
    config = finished_run.load_config()
    folder = RunFolder(tmp_path / "parts")
    config.max_steps = 3
    train(config, digits_data, folder)
    config.max_steps = 6
    train(config, digits_data, folder, resume=True)
    whole, parts = comparable(finished_run), comparable(folder)
    # The first part ends with an evaluation that the whole run does not have, and the
    # next log interval begins there.
    different = {"best_validation_accuracy", "best_validation_step", "final_train_loss"}
    for key in whole.keys() - different:
        assert whole[key] == parts[key], key
    assert folder.load_env()["resumes"][0]["step"] == 3


def replace_step(monkeypatch, replacement) -> None:
    """Trains with ``replacement(step, state, batch)`` in place of each step."""
    make = train_step.make_train_step
    monkeypatch.setattr(
        train_step,
        "make_train_step",
        lambda *arguments: functools.partial(replacement, make(*arguments)),
    )
    monkeypatch.setattr(Devices, "compile", lambda self, step, state, batch: step)


def test_a_run_killed_between_checkpoints_repeats_its_lost_steps(
    finished_run, digits_data, tmp_path, monkeypatch
):
    """It dies in step 6 with a checkpoint of step 4; metrics hold no row twice."""
    config = finished_run.load_config()
    folder = RunFolder(tmp_path / "killed")

    def dying(step_fn, state, batch):
        if int(state.step) == 5:
            raise KeyboardInterrupt
        return step_fn(state, batch)

    replace_step(monkeypatch, dying)
    with pytest.raises(KeyboardInterrupt):
        train(config, digits_data, folder)
    monkeypatch.undo()
    assert not folder.result.exists()
    train(config, digits_data, folder, resume=True)
    assert comparable(folder) == comparable(finished_run)
    assert rows_of(folder) == rows_of(finished_run)


def test_resume_without_a_checkpoint_starts_anew(finished_run, digits_data, tmp_path):
    folder = RunFolder(tmp_path / "new")
    train(finished_run.load_config(), digits_data, folder, resume=True)
    assert comparable(folder) == comparable(finished_run)


def test_an_occupied_folder_is_left_alone(finished_run, digits_data):
    before = finished_run.result.stat().st_mtime_ns
    with pytest.raises(UserError, match="--resume"):
        train(finished_run.load_config(), digits_data, finished_run)
    assert finished_run.result.stat().st_mtime_ns == before


def test_resume_with_another_config_is_refused(finished_run, digits_data):
    config = finished_run.load_config()
    config.batch_size = 32
    with pytest.raises(UserError, match=r"batch_size was 16 and is now 32"):
        train(config, digits_data, finished_run, resume=True)
    assert finished_run.load_config().batch_size == 16


def test_resume_beyond_the_last_step_is_refused(finished_run, digits_data):
    config = finished_run.load_config()
    config.max_steps = 3
    with pytest.raises(UserError, match=r"6 steps already.* 3 "):
        train(config, digits_data, finished_run, resume=True)
    assert finished_run.load_config().max_steps == 6


def test_a_trace_of_some_steps_is_written(tiny_config, digits_data, tmp_path):
    """Of those asked for, for Perfetto and for TensorBoard; also where the run ends."""
    folder = RunFolder(tmp_path / "run")
    tiny_config.max_steps = 4
    train(tiny_config, digits_data, folder, profile_steps=range(2, 9))
    (perfetto,) = folder.profile.rglob("perfetto_trace.json.gz")
    with gzip.open(perfetto) as file:
        events = json.load(file)["traceEvents"]
    marks = [event for event in events if event.get("name") == "train"]
    assert sorted(int(mark["args"]["step_num"]) for mark in marks) == [2, 3]
    assert list(folder.profile.rglob("*.xplane.pb"))


def test_steps_that_overflow_stop_the_run(tiny_config, digits_data, tmp_path):
    folder = RunFolder(tmp_path)
    tiny_config.optimizer.learning_rate = 1e38
    tiny_config.optimizer.name = "sgd"
    with pytest.raises(UserError, match=r"(loss|gradient norm) of step \d+ is"):
        train(tiny_config, digits_data, folder)
    assert not folder.result.exists()
    for row in read_metrics(folder.metrics):
        assert math.isfinite(row["loss"])


def test_a_loss_that_is_not_finite_leaves_the_last_good_checkpoint(
    tiny_config, digits_data, tmp_path, monkeypatch
):
    """NaN in step 6, when step 4 is saved; the next checkpoint is due after step 8."""

    def step_with_nan(step_fn, state, batch):
        state, metrics = step_fn(state, batch)
        if int(state.step) == 6:
            metrics["loss"] = jnp.asarray(jnp.nan)
        return state, metrics

    replace_step(monkeypatch, step_with_nan)
    folder = RunFolder(tmp_path)
    tiny_config.max_steps, tiny_config.checkpoint_every_steps = 12, 4
    tiny_config.log_every_steps = 100
    with pytest.raises(UserError, match=r"loss of step 6 is nan.*step 4 .*is good"):
        train(tiny_config, digits_data, folder)
    saved = [path.name for path in (folder.checkpoints / "last").iterdir()]
    assert saved == ["4"]


def test_eight_examples_can_be_learnt_by_heart(tiny_config):
    images = data.load("digits").train
    few = ImageSet(images.images[:8], images.labels[:8])
    batch = {"image": few.images, "label": few.labels}
    tiny_config.augment.shift = 0
    graphdef, state = train_step.create(tiny_config, (8, 8, 1), 10)
    step_fn = train_step.make_train_step(graphdef, tiny_config, ONE)
    for _ in range(150):
        state, metrics = step_fn(state, ONE.shard(batch))
    assert metrics["accuracy"] == 1
    assert metrics["margin_loss"] < 0.01


def test_the_step_is_traced_once(tiny_config, digits_data, monkeypatch):
    traces = []
    per_example = losses.per_example

    def counted(*arguments, **options):
        traces.append(arguments)
        return per_example(*arguments, **options)

    monkeypatch.setattr(losses, "per_example", counted)
    take_steps(tiny_config, digits_data, 3)
    assert len(traces) == 1


QUICK = {
    "digits": digits.get_config("quick"),
    "mnist:paper": mnist.get_config("paper,quick"),
    "mnist:authors_code": mnist.get_config("authors_code,quick"),
    "mnist:baseline": mnist.get_config("baseline,quick"),
    "cifar10": cifar10.get_config("quick"),
    "smallnorb": smallnorb.get_config("quick"),
    "svhn": svhn.get_config("quick"),
}


@pytest.mark.parametrize("config", QUICK.values(), ids=QUICK.keys())
def test_every_configs_quick_variant_runs_a_step(config: Config, tmp_path):
    """On random images of the right shape, from the first step to the plots."""
    config = config.replace()
    rng = np.random.default_rng(0)
    name = config.data.name
    names = tuple("0123456789"[: NUM_CLASSES[name]])

    def images(count: int) -> ImageSet:
        size = (count, *IMAGE_SHAPES[name])
        labels = np.arange(count, dtype=np.int32) % len(names)
        return ImageSet(rng.integers(0, 256, size, np.uint8), labels)

    made = Dataset(
        name=config.data.name,
        train=images(20),
        validation=images(10),
        test=images(12),
        class_names=names,
        provenance="random images",
    )
    config.max_steps, config.batch_size, config.num_devices = 1, 8, 1
    trained = train(config, made, RunFolder(tmp_path))
    assert trained is not None
    figures.write_all(RunFolder(tmp_path), made, trained)
    result = trained.record
    assert result["steps"] == 1
    assert math.isfinite(result["final_train_loss"])
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert (tmp_path / "plots" / "reconstructions.png").stat().st_size > 10_000


@pytest.mark.usefixtures("compilation_with_optimizations")
def test_real_mnist_trains(tfds_data_dir, tmp_path):
    """60 steps of a small CapsNet: far above chance on the 10,000 test images."""
    config = mnist.get_config("authors_code,quick")
    config.max_steps, config.num_devices = 60, 1
    made = data.load("mnist", data_dir=tfds_data_dir, validation_examples=200)
    assert len(made.train) == 59_800
    trained = train(config, made, RunFolder(tmp_path))
    assert trained is not None
    assert trained.record["test_accuracy"] > 0.6
