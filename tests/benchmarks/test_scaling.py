"""The scaling benchmark: its times, its rows, and the figure."""

from unittest.mock import Mock

import jax
import numpy as np
import pytest

from capsjax import fields
from capsjax.benchmarks import choices
from capsjax.benchmarks import programs as benchmark
from capsjax.benchmarks import scaling as benchmark_scaling
from capsjax.benchmarks.figures import scaling as plots_scaling
from capsjax.benchmarks.programs import Problem, Program, Timing
from capsjax.errors import UserError
from capsjax.losses import cross_entropy
from capsjax.models.cnns import baseline_cnn
from capsjax.runs import results
from capsjax.runs.results import Row
from capsjax.training import parallel
from kernels.tools import timing
from tests.benchmarks.test_routing import ENV as COMMON_ENV
from tests.launching import DIGITS, run
from tests.tables import committed_columns, unpadded

ENV = COMMON_ENV | {"num_devices": 4}


def problems_of(configs) -> list[Problem]:
    return [Problem(config, (8, 8, 1), 10) for config in configs]


def rows_of(config, scaling, *medians, counts=(1, 2), **env) -> list[Row]:
    """Rows of steps on 1, 2, ... devices that took these seconds."""
    configs = benchmark_scaling.make_configs(config, counts[: len(medians)], scaling)
    timings = [timing.Timing((0.5 * s, s, 4 * s), "wall") for s in medians]
    problems = problems_of(configs)
    return benchmark_scaling.rows(problems, scaling, timings, {**ENV, **env})


def measured(configs, **options) -> list[benchmark.Timing]:
    """The times that the launcher measures."""
    steps = [
        benchmark.compile_step(problem, parallel.choose(problem.config))
        for problem in problems_of(configs)
    ]
    return benchmark.measure(steps, wall=True, **options)


@pytest.mark.parametrize(
    ("scaling", "parallelism", "batch_sizes"),
    [("weak", "jit", [4, 8]), ("strong", "pmap", [4, 4])],
)
def test_a_measurement(tiny_config, scaling, parallelism, batch_sizes):
    tiny_config.batch_size = 4
    tiny_config.parallelism = parallelism
    on_call = Mock()
    configs = benchmark_scaling.make_configs(tiny_config, [2, 1, 2], scaling)
    timings = measured(configs, repeats=3, on_call=on_call)
    assert on_call.call_count == 2 * (3 + 1)
    rows = benchmark_scaling.rows(problems_of(configs), scaling, timings, ENV)
    assert [row["devices"] for row in rows] == ["1", "2"]
    assert [int(row["batch_size"]) for row in rows] == batch_sizes
    for row in rows:
        assert row.keys() >= committed_columns("scaling.csv")
        assert (row["model"], row["routing_implementation"]) == ("capsnet", "default")
        assert (row["scaling"], row["parallelism"]) == (scaling, parallelism)
        assert (row["dtype"], row["repeats"]) == ("float32", "3")
        assert (row["jax"], row["num_devices"]) == ("1", "4")
        assert row["command"] == "python -m x --output=DIR"
        assert 0 < row.number("min_s") <= row.number("median_s") <= row.number("max_s")
        speed = int(row["batch_size"]) / row.number("median_s")
        assert row.number("images_per_s") == pytest.approx(speed, rel=1e-4)
    alone, both = (row.number("images_per_s") for row in rows)
    assert rows[0]["efficiency"] == "1"
    assert rows[1].number("efficiency") == pytest.approx(both / (2 * alone), rel=1e-4)


def test_the_numbers_of_devices_take_turns(tiny_config, monkeypatch):
    """After a first call of each that does not count."""
    order, arguments = [], []

    def compile_in_place(stage, mode, step, state, batch):
        arguments.append((state, batch))
        devices = len(batch["image"].sharding.device_set)
        return Program(lambda: order.append(devices), Timing((), "wall", stage, mode))

    monkeypatch.setattr(benchmark, "compile_in_place", compile_in_place)
    configs = benchmark_scaling.make_configs(tiny_config, [1, 2, 4], "weak")
    timings = measured(configs, repeats=2)
    assert order == [1, 2, 4] * 3
    assert [len(timing.seconds) for timing in timings] == [2] * 3
    for devices, (_, batch) in zip([1, 2, 4], arguments, strict=True):
        image, label = batch["image"], batch["label"]
        assert image.shape == (16 * devices, 8, 8, 1)
        assert (image.dtype, label.dtype) == (np.uint8, np.int32)
        assert {shard.data.shape[0] for shard in image.addressable_shards} == {16}
    # Donated memory may be in one state only.
    pointers = [
        shard.data.unsafe_buffer_pointer()
        for state, _ in arguments
        for leaf in jax.tree.leaves(state)
        for shard in leaf.addressable_shards
    ]
    assert len(set(pointers)) == len(pointers)


def test_efficiency_of_known_times(tiny_config):
    weak = rows_of(tiny_config, "weak", 1.0, 1.25)
    strong = rows_of(tiny_config, "strong", 1.0, 0.625)
    for rows in (weak, strong):
        assert [row["images_per_s"] for row in rows] == ["16", "25.6"]
        assert [row["efficiency"] for row in rows] == ["1", "0.8"]
    head, *lines = benchmark_scaling.table(weak).splitlines()
    assert head.split()[-3:] == ["images/s", "speed-up", "efficiency"]
    assert unpadded(lines[1]).strip() == "2 32 1.25 0.625 5 25.6 1.60 80.0%"


def test_efficiency_is_relative_to_the_fewest_devices(tiny_config):
    rows = rows_of(tiny_config, "weak", 1.0, 2.0, counts=[4, 2])
    assert [row["devices"] for row in rows] == ["2", "4"]
    assert [row["efficiency"] for row in rows] == ["1", "0.5"]
    assert benchmark_scaling.table(rows).splitlines()[2].split()[-2] == "1.00"


def test_a_model_without_routing(tiny_config):
    tiny_config.model, tiny_config.loss = baseline_cnn.Config(), cross_entropy.Softmax()
    (row,) = rows_of(tiny_config, "weak", 1.0)
    assert (row["model"], row["routing_implementation"]) == ("baseline_cnn", "none")


@pytest.mark.parametrize(
    ("available", "counts"),
    [(1, [1]), (2, [1, 2]), (4, [1, 2, 4]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])],
)
def test_default_counts(available, counts):
    assert benchmark_scaling.default_counts(available) == counts


@pytest.mark.parametrize("text", ["", "0", "1,,2", "1,-2", "1,two", "1.5"])
def test_bad_counts_are_refused(text):
    words = text.split(",") if text else []
    with pytest.raises(UserError, match=f"--devices={text}:.* such as 1,2,4"):
        choices.counts("devices", words, "devices")


@pytest.mark.parametrize(
    ("counts", "scaling", "changes", "message"),
    [
        ([1, 8], "weak", {}, r"asks for 8, but there are 4 \(cpu\)"),
        ([1, 2, 3], "strong", {}, "batch_size is 16, which 3 .* multiple of 6 .* 18"),
        ([1], "weak", {"parallelism": "threads"}, "threads.*jit, pmap"),
        ([1], "weak", {"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_bad_settings_are_refused(tiny_config, counts, scaling, changes, message):
    fields.update(tiny_config, changes)
    with pytest.raises(UserError, match=message):
        benchmark_scaling.make_configs(tiny_config, counts, scaling)


@pytest.mark.parametrize("scaling", benchmark_scaling.SCALINGS)
@pytest.mark.parametrize("device", ["cpu", "NVIDIA H200"])
def test_figure_shows_speed_and_efficiency(tiny_config, scaling, device):
    rows = rows_of(tiny_config, scaling, 1.0, 1.25, device=device)
    figure = plots_scaling.scaling(rows[::-1])
    left, right = figure.axes
    (measured,) = left.containers
    speeds = [row.number("images_per_s") for row in rows]
    devices, shown = np.asarray(measured[0].get_xydata(), float).T
    np.testing.assert_allclose(devices, [1, 2])
    np.testing.assert_allclose(shown, speeds)
    # The bars: from the slowest step, 4 times the median, to the fastest, half of it.
    bars = np.asarray(measured[2][0].get_segments())[:, :, 1]
    np.testing.assert_allclose(bars, np.multiply.outer(speeds, [0.25, 2]))
    lines = {line.get_label(): line for line in left.lines}
    ideal = lines["ideal: each device adds as much"]
    np.testing.assert_allclose(np.asarray(ideal.get_ydata()), [16, 32])
    efficiency = [100 * row.number("efficiency") for row in rows]
    np.testing.assert_allclose(np.asarray(right.lines[0].get_ydata()), efficiency)
    assert (left.get_xscale(), left.get_yscale()) == ("log", "log")
    assert (left.get_xlabel(), right.get_xlabel()) == ("devices", "devices")
    assert left.get_ylabel() == "images per second"
    assert right.get_ylabel() == "efficiency, %"
    title = figure.get_suptitle()
    assert f"{scaling.capitalize()} scaling" in title
    assert ("2 cores of a cpu" if device == "cpu" else "4 x NVIDIA H200") in title
    assert "8x8x1 images, 10 classes" in title
    assert "batch of 16 images for" in title
    on_cpu = device == "cpu"
    assert (benchmark_scaling.SHARED_CORES in title) == on_cpu
    assert len(figure.legends[0].get_texts()) == 2 + on_cpu


def test_launcher_makes_rows_and_the_picture(tmp_path):
    """The CPU is split into as many devices as are asked for."""
    output = tmp_path / "results" / "rows.csv"
    flags = ("--config.batch_size=4", "--devices=1,3")
    to = ("--repeats=2", f"--output={output}")
    process = run("benchmark_scaling", DIGITS, *flags, *to)
    assert process.returncode == 0, process.stderr
    assert benchmark_scaling.SHARED_CORES in process.stdout
    rows = results.read(output)
    found = [(row["devices"], row["batch_size"], row["num_devices"]) for row in rows]
    assert found == [("1", "4", "3"), ("3", "12", "3")]
    # Those of the digits.
    assert {(row["image_shape"], row["num_classes"]) for row in rows} == {
        ("8x8x1", "10")
    }
    assert "capsnet, 8x8x1 images, 10 classes, " in process.stdout
    assert benchmark_scaling.table(rows) in process.stdout
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
