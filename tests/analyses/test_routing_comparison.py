"""The comparison of routing algorithms: its trainings, its table and its intervals."""

import numpy as np
import pytest
import scipy.stats

from capsjax import fields
from capsjax.analyses import routing_comparison as comparison
from capsjax.analyses.figures import routing_comparison as plots
from capsjax.analyses.routing_comparison import Cost
from capsjax.errors import UserError
from capsjax.models.cnns import baseline_cnn
from capsjax.routings import ROUTINGS, em
from capsjax.runs import results
from capsjax.training.train import train
from experiments import launch
from experiments.configs import digits
from tests.launching import assert_one_line, run

WORDS = ["--config=digits:quick"]


def test_each_algorithm_is_trained_with_its_own_defaults():
    """Also where the network's own routing has a field of the same name."""
    config = launch.config_of([*WORDS, "--config.model.routing.iterations=7"])
    expected = {name: config() for name, config in ROUTINGS.items()}
    expected["em:authors_code"] = em.Config.preset("authors_code")
    made = comparison.runs(config, list(expected), 2, WORDS)
    assert [run.name for run in made] == [
        f"{name.replace(':', '_')}_seed{seed}" for seed in (0, 1) for name in expected
    ]
    for one, routing in zip(made, [*expected.values()] * 2, strict=True):
        found = launch.config_of(one.flags)
        seed = one.name.rpartition("_seed")[2]
        assert found.model.routing == routing
        assert found.seed == int(seed)
        assert found.model.scores in found.loss.takes
        rest = {
            path: value
            for path, value in fields.flatten(found).items()
            if not path.startswith(("model.routing", "loss", "seed"))
        }
        assert rest == {path: fields.flatten(config)[path] for path in rest}


def test_networks_without_routing_and_unknown_algorithms_are_refused():
    config = digits.get_config("quick")
    with pytest.raises(UserError, match=r"'fastest' in --routings; choose from dyn"):
        comparison.routed(config, "fastest")
    with pytest.raises(UserError, match=r"em routing has no preset 'fast', .* paper, "):
        comparison.routed(config, "em:fast")
    with pytest.raises(UserError, match=r"uniform routing has no .* choose from none"):
        comparison.routed(config, "uniform:paper")
    config.model = baseline_cnn.Config()
    with pytest.raises(UserError, match=r"'baseline_cnn', which has no routing"):
        comparison.routed(config, "uniform")


def test_differences_to_the_control():
    """Of errors, over images and over seeds."""
    rng = np.random.default_rng(0)
    right = {
        (name, seed): rng.uniform(size=400) < share
        for name, share in (("dynamic", 0.9), ("uniform", 0.8))
        for seed in ("0", "1", "2")
    }
    images, seeds = comparison.differences(right, "dynamic")
    wrong = {
        name: np.array([~right[name, seed] for seed in "012"], float)
        for name in ("dynamic", "uniform")
    }
    paired = 100 * (wrong["dynamic"] - wrong["uniform"])
    for found, values in ((images, paired.mean(0)), (seeds, paired.mean(1))):
        assert found is not None
        expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
        np.testing.assert_allclose(found.value, values.mean())
        np.testing.assert_allclose((found.low, found.high), expected)
    assert comparison.differences(right, "uniform") == (None, None)
    one = {key: value for key, value in right.items() if key[1] == "0"}
    assert comparison.differences(one, "dynamic")[1] is None


def test_the_table_of_runs(digits_data, tmp_path):
    """Errors of the runs' own results; missing runs are said to be missing."""
    config = digits.get_config("quick")
    config.data.validation_examples = 100
    config.model = config.model.without_decoder()
    config.max_steps, config.batch_size = 3, 16
    for name in ("em:few_children", "uniform"):
        one = comparison.routed(config, name)
        train(one, digits_data, tmp_path / comparison.run_name(name, 0))
    costs = {"uniform": Cost(1234, 5.0, 6.0)}
    routings = ["em:few_children", "uniform", "em"]
    text = comparison.write(tmp_path, tmp_path / "out", routings, 1, digits_data, costs)
    assert "Unfinished: 1 of 3 runs are missing" in text
    assert "1,234" in text
    lines = {
        row["routing"]: row for row in results.read(tmp_path / "out/routings_table.csv")
    }
    rows = {row["routing"]: row for row in results.read(tmp_path / "out/routings.csv")}
    errors = {name: row.number("test_error_percent") for name, row in rows.items()}
    difference = errors["em:few_children"] - errors["uniform"]
    found = lines["em:few_children"].number("difference")
    assert found == pytest.approx(difference, abs=1e-3)
    assert lines["em"]["n"] == "0"
    assert (tmp_path / "out/routings.png").stat().st_size > 10_000


@pytest.mark.parametrize(("worst", "scale"), [(1.5, "linear"), (8.0, "log")])
def test_one_algorithm_that_fails_does_not_squeeze_the_others(worst, scale):
    lines = [
        {
            "routing": name,
            "n": 1,
            "errors_percent": str(error),
            "mean_error_percent": error,
            "difference": error - 1.2 if name != "uniform" else None,
            "difference_low": error - 1.3,
            "difference_high": error - 1.1,
        }
        for name, error in (("uniform", 1.2), ("em:fast", 0.8), ("dynamic", worst))
    ]
    figure = plots.errors(lines, "MNIST")
    left, right = figure.axes
    assert left.get_xscale() == scale
    for axes in (left, right):
        low, high = axes.get_xlim()
        values = np.concatenate([np.asarray(x.get_xdata(), float) for x in axes.lines])
        assert low <= values.min() <= values.max() <= high
    assert [x.get_text() for x in left.get_yticklabels()][1] == "em, fast"


def test_the_launcher_wants_the_control_and_shows_its_trainings(tmp_path):
    folder = f"--workdir={tmp_path}"
    without = run("compare_routing", folder, "--routings=em")
    assert_one_line(without, "leaves out uniform, the control")
    shown = run(
        "compare_routing",
        folder,
        "--routings=em,uniform",
        "--seeds=1",
        "--backbone=matrix_capsules",
        "--scale=smoke",
        "--images=digits",
        "--dry_run",
    )
    assert shown.returncode == 0, shown.stderr
    first, second = shown.stdout.splitlines()
    assert "matrix_capsules.py:mnist,quick" in first
    assert "--config.model.routing.name=em" in first
    assert "--config.model.routing.name=uniform" in second
