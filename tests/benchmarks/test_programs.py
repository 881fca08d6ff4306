"""The combinations that are measured, a step's memory, and times of inference."""

from itertools import product

import numpy as np
import pytest

from capsjax import fields
from capsjax.benchmarks import programs as benchmark
from capsjax.benchmarks.programs import Problem
from capsjax.benchmarks.stages import compile_programs
from capsjax.errors import UserError
from capsjax.runs import results
from experiments.configs import mnist, multimnist
from tests.benchmarks.test_routing import ENV
from tests.launching import DIGITS, run

IMAGES = (8, 8, 1), 10


def test_combinations_are_all_of_them(tiny_config):
    configs = benchmark.combinations(
        tiny_config,
        routing_implementations=["xla", "reference"],
        batch_sizes=["4", "2"],
        dtypes=["float32", "bfloat16"],
    )
    asked = product(("xla", "reference"), (4, 2), ("float32", "bfloat16"))
    for config, (implementation, *rest) in zip(configs, asked, strict=True):
        assert config.model.columns()["routing_implementation"] == implementation
        assert [config.batch_size, config.dtype] == rest
    assert tiny_config.batch_size == 16


def test_by_default_the_config_alone(tiny_config):
    (config,) = benchmark.combinations(tiny_config)
    assert config == tiny_config
    (baseline,) = benchmark.combinations(mnist.get_config("baseline,quick"))
    assert baseline.model.routing is None


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"routing_implementations": ["fast"]}, "no 'fast'; choose from .*xla"),
        ({"routing_implementations": ["mosaic_gpu"]}, "runs in an interpreter"),
        ({"batch_sizes": ["0"]}, "'0' is not a number of images"),
        ({"batch_sizes": ["many"]}, "'many' is not a number of images"),
        ({"dtypes": ["float31"]}, "there is no 'float31'; choose from float32"),
    ],
)
def test_bad_combinations_are_refused(tiny_config, asked, message):
    with pytest.raises(UserError, match=message):
        benchmark.combinations(tiny_config, **asked)


def test_a_baseline_has_no_routing_to_choose():
    config = mnist.get_config("baseline")
    with pytest.raises(UserError, match="has no routing"):
        benchmark.combinations(config, routing_implementations=["xla"])


def test_memory_is_that_of_the_step_which_runs(tiny_config):
    """Its arguments are not allocated, yet it is the same program."""
    problem = Problem(tiny_config, *IMAGES)
    measured = benchmark.step_memory(problem)
    assert measured.peak_mb == benchmark.compile_step(problem).untimed.peak_mb
    row = benchmark.row(problem, ENV, measured)
    assert (row["stage"], row["mode"]) == ("step", "memory")
    assert row["median_s"] == row["images_per_s"] == ""
    assert row.number("peak_mb") > 0
    assert (row["repeats"], row["image_shape"]) == ("0", "8x8x1")


@pytest.mark.parametrize(
    ("image_shape", "num_classes"), [((96, 96, 2), 5), ((28, 28, 1), 100)]
)
def test_large_images_and_many_classes_fit_into_8_gb(image_shape, num_classes):
    """smallNORB at full size, and a hundred classes, at batch 128."""
    config = mnist.get_config("authors_code")
    config.model = config.model.routed_by("xla")
    measured = benchmark.step_memory(Problem(config, image_shape, num_classes))
    assert measured.peak_mb is not None
    assert measured.peak_mb < 8e3


def test_inference_returns_the_models_scores(tiny_config):
    """Scores in host memory: lengths, below 1."""
    program = benchmark.compile_predictor(Problem(tiny_config, *IMAGES))
    scores = program.call()
    assert isinstance(scores, np.ndarray)
    assert scores.shape == (16, 10)
    assert 0 < scores.min() <= scores.max() < 1
    (timing,) = benchmark.measure([program], repeats=3, wall=True)
    assert len(timing.seconds) == 3
    assert timing.peak_mb == program.untimed.peak_mb


def test_a_baselines_step_has_no_stages():
    config = mnist.get_config("baseline,quick")
    config.batch_size = 2
    fields.update(config, {"model.conv_channels": (4, 4, 4)})
    program = benchmark.compile_step(Problem(config, *IMAGES))
    (timing,) = benchmark.measure([program], repeats=1)
    assert (timing.stage, timing.mode) == ("step", "train")
    assert timing.seconds[0] > 0


def test_the_command_times_inference(tmp_path):
    output = tmp_path / "rows.csv"
    flags = ("--mode=inference", "--batch_sizes=1,3", "--repeats=2", "--num_classes=7")
    process = run("benchmark_training", DIGITS, *flags, f"--output={output}")
    assert process.returncode == 0, process.stderr
    rows = results.read(output)
    assert [row["mode"] for row in rows] == ["inference"] * 2
    assert [row["batch_size"] for row in rows] == ["1", "3"]
    assert process.stdout.count("8x8x1 images, 7 classes, ") == 2
    for row in rows:
        assert (row["image_shape"], row["num_classes"]) == ("8x8x1", "7")
        speed = int(row["batch_size"]) / row.number("median_s")
        assert row.number("images_per_s") == pytest.approx(speed, rel=1e-4)


def test_images_of_two_digits_have_two_labels_and_two_parts():
    """As in training, so that the decoder draws both digits of each."""
    config = multimnist.get_config("paper,quick")
    config.batch_size = 6
    problem = Problem(config, (36, 36, 1), 10)
    batch = problem.random_batch()
    assert batch["label"].shape == (6, 2)
    assert np.all(batch["label"][:, 0] != batch["label"][:, 1])
    assert batch["parts"].shape == (6, 2, 36, 36, 1)
    step = {x.stage: x for x in (p.untimed for p in compile_programs(problem))}
    assert "decoder" in step
    _, metrics = benchmark.compile_step(problem).call()
    assert "digit_accuracy" in metrics
