"""The benchmark of routing algorithms: its rows, and the check before a time counts."""

from typing import Any

import jax.numpy as jnp
import pytest

from capsjax.benchmarks import algorithms
from capsjax.benchmarks.algorithms import Layer
from capsjax.errors import UserError
from capsjax.routings import uniform
from capsjax.routings.base import Capsules
from kernels.routing.votes import Windows
from tests.benchmarks.test_routing import ENV


@pytest.fixture(autouse=True)
def small(monkeypatch):
    layers = {
        "full": Layer((2, 2), 2, (3,), 4, 5),
        "windows": Layer((5, 5), 2, (2, 2), 3, 4, Windows(3, 2)),
    }
    monkeypatch.setattr(algorithms, "LAYERS", layers)


def rows(**asked):
    defaults: dict[str, Any] = {
        "layers": ["full", "windows"],
        "routings": ["uniform", "self_routing"],
        "batch_sizes": ["5"],
        "modes": ["forward+backward"],
        "repeats": 2,
    }
    plan = algorithms.make_plan(**(defaults | asked))
    return [row for rows in algorithms.run(plan, ENV) for row in rows]


def test_rows_have_time_memory_and_error():
    found = rows()
    assert [(row["layer"], row["routing"]) for row in found] == [
        ("full", "uniform"),
        ("full", "self_routing"),
        ("windows", "uniform"),
        ("windows", "self_routing"),
    ]
    for row in found:
        assert row["status"] == "ok"
        assert row.number("median_s") > 0
        assert row.number("temp_mb") > 0
        assert 0 <= row.number("max_error") < 1e-5
        assert row["repeats"] == "2"
    text = algorithms.table(found[:2])
    assert "full, B = 5, forward+backward" in text
    assert "self_routing" in text


def test_a_result_that_float64_does_not_confirm_gets_no_time(monkeypatch):
    right = uniform.Uniform.__call__

    def wrong(self, inputs, transform, **options) -> Capsules:
        found = right(self, inputs, transform, **options)
        narrow = found.poses.dtype == jnp.float32
        return found._replace(poses=found.poses * (1.01 if narrow else 1.0))

    monkeypatch.setattr(uniform.Uniform, "__call__", wrong)
    (row,) = rows(layers=["full"], routings=["uniform"], modes=["forward"])
    assert row["status"] == "wrong"
    assert "off by 0.01 of" in row["reason"]
    assert "median_s" not in row
    assert "wrong: off by" in algorithms.table([row])


@pytest.mark.parametrize("flag", ["layers", "routings", "modes"])
def test_unknown_names_are_refused_with_the_known_ones(flag):
    with pytest.raises(UserError, match=f"{flag}.*fastest"):
        rows(**{flag: ["fastest"]})
