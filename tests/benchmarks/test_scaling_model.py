"""Train steps on paper: counts against XLA's, times against sums by hand."""

import math
import re

import jax
import pytest

from capsjax.benchmarks import operations, scaling_model
from capsjax.benchmarks.operations import Operations
from capsjax.benchmarks.programs import Problem
from capsjax.benchmarks.routing import Peak
from capsjax.benchmarks.scaling_model import Costs, Machine
from capsjax.runs import results
from capsjax.training import parallel
from capsjax.training import step as train_step
from experiments import launch
from tests.launching import ROOT

MACHINE = Machine("made up", Peak(1e12, {"float32": 1e14}), 1e13, 4, 1e11, 1e10, 1e-6)


def step_of(config, count):
    graphdef, state = train_step.create(config, (28, 28, 1), 10)
    devices = parallel.Devices(jax.devices()[:count])
    step = train_step.make_train_step(graphdef, config, devices)
    batch = Problem(config, (28, 28, 1), 10).random_batch()
    return step, devices.replicate(state), devices.shard(batch), state


@pytest.mark.parametrize("name", ["mnist:paper,quick", "lenet"])
def test_products_of_a_train_step_are_those_of_xla(name):
    """Whose count has indices and comparisons, too, but nothing else."""
    flags = [f"--config={name}"]
    if name.startswith("mnist"):
        flags.append("--config.model.routing.implementation=reference")  # No loops.
    config = launch.config_of(flags).replace(batch_size=64)
    step, state, batch, _ = step_of(config, 1)
    found = operations.count(step, state, batch)
    lowered = step.trace(state, batch).lower(lowering_platforms=("cuda",))
    xla = lowered.cost_analysis()["flops"]
    assert found.products < xla < found.products + 3 * found.elementwise
    assert found.products > 0.7 * xla


@pytest.mark.parametrize("count", [2, 4])
def test_bytes_that_are_summed_are_those_of_the_compiled_program(count):
    """XLA joins the sums, and takes equal numbers, as some metrics are, once."""
    config = launch.config_of(["--config=lenet"]).replace(batch_size=8)
    step, state, batch, one_device = step_of(config, count)
    text = step.lower(state, batch).compile().as_text()
    lines = [line for line in text.splitlines() if re.search(r" all-reduce\(", line)]
    shapes = re.findall(
        r"f32\[([\d,]*)\]", "".join(x.split("all-reduce(")[0] for x in lines)
    )
    numbers = sum(math.prod(map(int, filter(None, x.split(",")))) for x in shapes)
    found = operations.count(step, state, batch)
    assert 4 * numbers <= found.reduced_bytes < 4 * numbers + 100
    parameters = sum(x.size for x in jax.tree.leaves(one_device.params))
    assert 4 * parameters <= found.reduced_bytes < 4 * parameters + 100


def test_a_sum_over_devices_by_hand():
    """Of a GB: two devices of a node send half of it twice; nodes share by GPU."""
    assert scaling_model.reduction(1e9, MACHINE, 1) == 0
    two = scaling_model.reduction(1e9, MACHINE, 2)
    assert two == pytest.approx(2 * (0.5e9 / 1e11 + 1e-6))
    four = 2 * 3 * (0.25e9 / 1e11 + 1e-6)
    eight = four + 2 * (0.125e9 / 1e10 + 1e-6)
    assert scaling_model.reduction(1e9, MACHINE, 8) == pytest.approx(eight)


def test_a_step_is_as_slow_as_its_limit():
    image = Operations(products=1e9, elementwise=1e7, product_bytes=1e6)
    step = Operations(elementwise=1e6, reduced_bytes=4e6)
    costs = Costs("made up", 10**6, image, step)
    alone = scaling_model.predict(costs, MACHINE, "float32", 1, 100)
    assert alone.products == pytest.approx(1e11 / 1e14)
    assert alone.elementwise == pytest.approx((1e9 + 1e6) / 1e13)
    assert alone.memory == pytest.approx((1e8 + 28e6) / 1e12)
    assert alone.seconds == pytest.approx(alone.products + alone.elementwise)
    assert (alone.limit, alone.efficiency) == ("products", 1)
    many = scaling_model.predict(costs, MACHINE, "float32", 64, 1)
    assert many.limit == "communication"
    left = many.reduction - 2 / 3 * many.compute
    assert many.seconds == pytest.approx(many.compute + left)
    least = scaling_model.hiding_batch(costs, MACHINE, "float32", 64)
    for batch, hidden in ((least - 1, False), (least, True)):
        found = scaling_model.predict(costs, MACHINE, "float32", 64, batch)
        assert (found.efficiency == 1) == hidden


def test_the_page_has_the_rows_numbers():
    """The committed rows and the committed tables are of one count."""
    rows = results.read(ROOT / "results/scaling_model.csv")
    text = (ROOT / "docs/scaling.md").read_text()
    section = text.partition(scaling_model.BEGIN)[2].partition(scaling_model.END)[0]
    for (name,), members in results.grouped(rows, "network").items():
        row = members[0]
        products = f"{row.number('product_mflop_per_image'):,.0f}"
        (line,) = [x for x in section.splitlines() if name in x and products in x]
        assert f"{int(row['num_parameters']):,}" in line
