"""What the benchmarks share, the memory of a step, and the times of answers."""

import numpy as np
import pytest

from capsjax import fields
from capsjax.benchmarks import inference as benchmark_inference
from capsjax.benchmarks import memory as benchmark_memory
from capsjax.benchmarks import programs as benchmark
from capsjax.benchmarks import stages as benchmark_stages
from capsjax.errors import UserError
from capsjax.runs import results
from experiments.configs import mnist
from tests.benchmarks.test_routing import ENV
from tests.launching import run

SHAPE, NUM_CLASSES = (8, 8, 1), 10


def test_combinations_are_all_of_them(tiny_config):
    configs = benchmark.combinations(
        tiny_config,
        routing_implementations=["xla", "reference"],
        batch_sizes=["4", "2"],
        dtypes=["float32", "bfloat16"],
    )
    found = {
        (
            config.model.columns()["routing_implementation"],
            config.batch_size,
            config.dtype,
        )
        for config in configs
    }
    assert len(configs) == len(found) == 8
    assert ("reference", 2, "bfloat16") in found
    assert tiny_config.batch_size == 16


def test_by_default_the_config_alone(tiny_config):
    (config,) = benchmark.combinations(tiny_config)
    assert config == tiny_config
    (baseline,) = benchmark.combinations(mnist.get_config("baseline,quick"))
    assert baseline.model.routing is None


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"routing_implementations": ["fast"]}, "unknown routing implementation"),
        ({"routing_implementations": ["mosaic_gpu"]}, "runs in an interpreter"),
        ({"batch_sizes": ["0"]}, "'0' is not a number of images"),
        ({"batch_sizes": ["many"]}, "'many' is not a number of images"),
        ({"dtypes": ["float31"]}, "unknown dtype 'float31'"),
    ],
)
def test_combinations_that_cannot_be(tiny_config, asked, message):
    with pytest.raises(UserError, match=message):
        benchmark.combinations(tiny_config, **asked)


def test_a_baseline_has_no_routing_to_choose():
    with pytest.raises(UserError, match="has no routing"):
        benchmark.combinations(
            mnist.get_config("baseline"), routing_implementations=["xla"]
        )


def test_memory_is_that_of_the_step_which_runs(tiny_config):
    """Nothing is made for it, yet it is the same program."""
    measured = benchmark_memory.measure(tiny_config, SHAPE, NUM_CLASSES)
    program = benchmark_stages.compile_step(tiny_config, SHAPE, NUM_CLASSES)
    assert measured.peak_mb == program.peak_mb
    row = benchmark.row(
        tiny_config,
        SHAPE,
        NUM_CLASSES,
        ENV,
        stage="step",
        mode="memory",
        measured=measured,
    )
    assert row["median_s"] == row["images_per_s"] == ""
    assert float(row["peak_mb"]) > 0
    assert (row["repeats"], row["image_shape"]) == ("0", "8x8x1")


@pytest.mark.parametrize(
    ("image_shape", "num_classes"), [((96, 96, 2), 5), ((28, 28, 1), 100)]
)
def test_large_images_and_many_classes_fit_into_8_gb(image_shape, num_classes):
    """smallNORB at full size, and a hundred classes, at batch 128."""
    config = mnist.get_config("authors_code")
    config.model = config.model.routed_by("xla")
    measured = benchmark_memory.measure(config, image_shape, num_classes)
    assert measured.peak_mb is not None
    assert measured.peak_mb < 8e3


def test_answers_are_the_models(tiny_config):
    """Scores in host memory: lengths, below 1."""
    program = benchmark_inference.compile_predictor(tiny_config, SHAPE, NUM_CLASSES)
    scores = program.call()
    assert isinstance(scores, np.ndarray)
    assert scores.shape == (16, NUM_CLASSES)
    assert 0 < scores.min() <= scores.max() < 1
    (timing,) = benchmark_inference.measure([program], repeats=3)
    assert len(timing.seconds) == 3
    assert timing.peak_mb == program.peak_mb


def test_a_baselines_step_has_no_stages():
    config = mnist.get_config("baseline,quick")
    config.batch_size = 2
    fields.update(config, {"model.conv_channels": (4, 4, 4)})
    program = benchmark_stages.compile_step(config, SHAPE, NUM_CLASSES)
    ((key, timing),) = benchmark_stages.measure([program], repeats=1).items()
    assert key == ("step", "train")
    assert timing.seconds[0] > 0


def test_the_command_times_answers(tmp_path):
    output = tmp_path / "rows.csv"
    process = run(
        "benchmark_training",
        "--config=experiments/configs/digits.py:quick",
        "--image_shape=8,8,1",
        "--mode=inference",
        "--batch_sizes=1,3",
        "--repeats=2",
        f"--output={output}",
    )
    assert process.returncode == 0, process.stderr
    rows = results.read(output)
    assert [(row["mode"], row["batch_size"]) for row in rows] == [
        ("inference", "1"),
        ("inference", "3"),
    ]
    for row in rows:
        speed = int(row["batch_size"]) / float(row["median_s"])
        assert float(row["images_per_s"]) == pytest.approx(speed, rel=1e-4)
