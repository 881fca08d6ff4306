"""The routing sweep: its trainings, its table, its figures, and one small sweep."""

import json
import math
import shlex

import numpy as np
import pytest

from capsjax.analyses import routing_sweep as sweep
from capsjax.analyses.figures import routing_sweep as plots_sweep
from capsjax.analyses.routing_sweep import Cell
from capsjax.config import Config
from capsjax.data import names
from capsjax.errors import UserError
from capsjax.losses import cross_entropy
from capsjax.models.cnns import baseline_cnn
from capsjax.runs import grid, results
from capsjax.runs.folder import RunFolder
from capsjax.runs.grid import FINISHED, SKIPPED, Run
from capsjax.runs.metrics import read_metrics
from tests.launching import TINY, comparable, run
from tests.runs import test_results
from tests.tables import committed_columns, unpadded

WITHOUT, WITH = Cell(1, False), Cell(3, True)


def made_run(
    workdir, cell: Cell, seed: int, error: float, steps: int = 10, routing: bool = True
) -> RunFolder:
    """A run that has ended, with metrics of two logged steps."""
    rows: list[dict] = [
        {"step": step, "split": "train", "margin_loss": 1 / step}
        for step in (steps // 2, steps)
    ]
    if routing:
        rows.append({"step": steps, "split": "routing", **of_routing(cell.iterations)})
    return test_results.made_run(
        workdir / cell.name(seed),
        seed,
        error,
        steps=steps,
        decoder=cell.reconstruction,
        rows=rows,
        **{"model.routing.iterations": cell.iterations},
    )


def of_routing(count: int) -> dict[str, float]:
    numbers = {}
    for i in range(1, count + 1):
        numbers[f"logit_change_{i}"] = 10.0**-i
        numbers[f"coupling_entropy_{i}"] = 2.3 - 0.1 * i
    return numbers


# What is trained.


def test_flags_are_read():
    cells = sweep.cells(["3", "1", "10"], ["true", "false"])
    assert cells == [(r, decoder) for r in (1, 3, 10) for decoder in (False, True)]


@pytest.mark.parametrize(
    ("iterations", "reconstruction", "flag"),
    [
        *(
            (text, "true", "iterations")
            for text in ("", "0", "1,x", "-1", "1.5", "1,1")
        ),
        *(("1", text, "reconstruction") for text in ("", "yes", "true,true")),
    ],
)
def test_bad_flags_are_refused(iterations, reconstruction, flag):
    given = {"iterations": iterations, "reconstruction": reconstruction}
    with pytest.raises(UserError, match=f"--{flag}={given[flag]} "):
        sweep.cells(*(text.split(",") if text else [] for text in given.values()))


def test_each_run_gets_the_flags_of_its_cell():
    words = ["--config=a.py", "--config.model.decoder_units=(8,)", "--data_dir=/d"]
    runs = sweep.runs(Config(), [WITHOUT, WITH], 2, words)
    assert [run.name for run in runs] == [
        f"{cell}_seed{seed}"
        for seed in (0, 1)
        for cell in ("r1_no_decoder", "r3_decoder")
    ]
    assert runs[0].flags == [
        *("--config=a.py", "--data_dir=/d"),
        *("--config.model.routing.iterations=1", "--config.seed=0"),
        *("--config.model.decoder_units=()", "--config.diagnose_routing=true"),
    ]
    assert runs[3].flags == [
        *(*words, "--config.model.routing.iterations=3", "--config.seed=1"),
        "--config.diagnose_routing=true",
    ]
    (chosen,) = sweep.runs(Config(), [WITH], 1, ["--noconfig.diagnose_routing"])
    assert "--config.diagnose_routing=true" not in chosen.flags


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--config.seed=1", "--seeds instead"),
        ("--config.model.routing.iterations=1", "--iterations instead"),
        ("--config.model.routing_iterations=1", "--iterations instead"),
    ],
)
def test_what_the_sweep_sets_is_not_set_beside_it(word, message):
    with pytest.raises(UserError, match=message):
        sweep.check(Config(), ["--config=a.py", word], [WITH])


def test_a_config_that_cannot_be_swept_is_refused():
    config = Config()
    sweep.check(config, [], [WITHOUT, WITH])
    config.batch_size = 0
    with pytest.raises(UserError, match="batch_size is 0"):
        sweep.check(config, [], [WITHOUT])
    config = Config()
    config.model = config.model.without_decoder()
    sweep.check(config, [], [WITHOUT])
    with pytest.raises(UserError, match="has no decoder"):
        sweep.check(config, [], [WITHOUT, WITH])
    config.model, config.loss = baseline_cnn.Config(), cross_entropy.Softmax()
    with pytest.raises(UserError, match="'baseline_cnn', which has no routing"):
        sweep.check(config, [], [WITHOUT])


# What it shows.


def test_the_table_has_mean_and_deviation_and_says_what_is_missing(tmp_path):
    for seed, error in enumerate((1.0, 2.0, 4.5)):
        made_run(tmp_path, WITHOUT, seed, error)
    made_run(tmp_path, WITH, 0, 0.25)
    made_run(tmp_path, WITH, 2, 0.35, steps=14)
    absent = Cell(7, True)
    cells = [WITHOUT, WITH, absent]
    rows = sweep.rows(tmp_path, cells, 3)
    columns = committed_columns("sweep_digits/sweep.csv")
    assert all(columns <= row.keys() for row in rows)
    assert [row["reconstruction"] for row in rows] == ["false"] * 3 + ["true"] * 2
    lines, text = sweep.table(rows, cells, 3)
    # By hand: deviations -1.5, -0.5, 2 give sqrt(6.5 / 2); +-0.05 gives sqrt(0.005).
    assert [list(line.values()) for line in lines] == [
        ["1", "false", "3", "0", "2.5", "1.80278", "10"],
        ["3", "true", "2", "1", "0.3", "0.0707107", "10 14"],
        ["7", "true", "0", "3", "", "", ""],
    ]
    text = unpadded(text)
    assert "| 1 | without | 3 | 2.50 ± 1.803 | 10 |" in text
    assert "| 3 | with | 2 of 3 | 0.30 ± 0.071 | 10, 14 |" in text
    assert "| 7 | with | 0 of 3 | missing | |" in text
    assert "4 of 9 runs are missing" in text
    assert "different numbers of steps, 10 to 14" in text
    assert "Commit abc, on 2 cores of a cpu" in text


def test_of_one_run_there_is_no_deviation(tmp_path):
    made_run(tmp_path, WITH, 0, 1.0)
    rows = sweep.rows(tmp_path, [WITH], 1)
    (line,), text = sweep.table(rows, [WITH], 1)
    assert line["std_error_percent"] == ""
    assert "| 1.00 |" in unpadded(text)
    assert "missing" not in text
    assert "different" not in text


def written(workdir) -> set[str]:
    """Names of the files, without hidden ones such as locks."""
    return {path.name for path in workdir.glob("[!.]*") if path.is_file()}


TABLES = {"sweep.csv", "sweep_table.csv", "sweep.md", "captions.json"}


@pytest.mark.parametrize("routing", [True, False])
def test_write_leaves_rows_table_figures_and_captions(tmp_path, routing):
    for cell in (WITHOUT, WITH):
        made_run(tmp_path, cell, 0, 1.0, routing=routing)
    text = sweep.write(tmp_path, [WITHOUT, WITH], 2)
    figures = {"sweep_error.png", "sweep_loss.png"}
    if routing:
        figures.add("sweep_logits.png")
    assert written(tmp_path) == TABLES | figures
    captions = json.loads((tmp_path / "captions.json").read_text())
    assert captions.keys() == figures
    assert "on MNIST, 10 training steps" in captions["sweep_error.png"]
    # The margin loss of made runs is 1 / step, and they take ten.
    ends = "0.1 without (r = 1), 0.1 with (r = 3)"
    assert "The panels differ in the networks" in captions["sweep_loss.png"]
    assert f"At the end: {ends}." in captions["sweep_loss.png"]
    if routing:
        assert "3 routing iterations, with" in captions["sweep_logits.png"]
    for name in figures:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "sweep.md").read_text() == text
    lines, rows = (
        results.read(tmp_path / f"{name}.csv") for name in ("sweep_table", "sweep")
    )
    assert [line["n"] for line in lines] == ["1", "1"]
    assert [row["reconstruction"] for row in rows] == ["false", "true"]


def test_where_nothing_has_ended_there_is_a_table_without_figures(tmp_path):
    text = unpadded(sweep.write(tmp_path, [WITH], 2))
    assert "| 3 | with | 0 of 2 | missing |" in text
    assert written(tmp_path) == TABLES
    assert json.loads((tmp_path / "captions.json").read_text()) == {}


# The figures.


def test_the_figure_of_errors_shows_means_deviations_and_seeds():
    columns = ("routing_iterations", "reconstruction", "test_error_percent")
    rows = [
        dict(zip(columns, values, strict=True), test_examples="360")
        for values in (
            *(("1", "false", "1.0"), ("1", "false", "2.0")),
            *(("3", "false", "0.5"), ("3", "true", "1.5")),
        )
    ]
    figure = plots_sweep.errors(rows, "MNIST")
    (axes,) = figure.axes
    without, with_decoder = axes.containers
    x, y = np.asarray(without[0].get_xydata(), float).T
    np.testing.assert_array_equal(np.round(x), [1, 3])
    np.testing.assert_allclose(y, [1.5, 0.5])
    bars = np.asarray(without[2][0].get_segments(), float)[:, :, 1]
    std = math.sqrt(0.5)
    np.testing.assert_allclose(bars, [[1.5 - std, 1.5 + std], [0.5, 0.5]])
    np.testing.assert_allclose(np.asarray(with_decoder[0].get_ydata(), float), [1.5])
    faint = [line for line in axes.lines if line.get_alpha() is not None]
    dots = sorted(y for line in faint for y in np.asarray(line.get_ydata()))
    assert dots == [0.5, 1.0, 1.5, 2.0]
    assert list(axes.get_xticks()) == [1, 3]
    assert axes.get_ylabel() == "test error, %"
    assert "up to 2 seeds; one of 360 test images is 0.28 %" in axes.get_title()


def test_the_figure_of_losses_shows_one_and_about_three_iterations():
    def rows(factor: float) -> list[dict]:
        train = [
            {"step": step, "split": "train", "margin_loss": factor * step}
            for step in range(1, 101)
        ]
        return [*train, {"step": 100, "split": "test", "margin_loss": 1e9}]

    # The seeds' mean is 2; the second one has a step more, which is left out.
    longer = [*rows(3.0), {"step": 101, "split": "train", "margin_loss": 1.0}]
    runs = {
        (r, setting): [rows(1.0), longer] if r < 5 else [rows(50.0)]
        for r in (2, 4, 7)
        for setting in (False, True)
    }
    figure = plots_sweep.losses(runs, "MNIST")
    assert len(figure.axes) == 2
    for axes, title in zip(figure.axes, ("Without", "With"), strict=True):
        assert axes.get_title() == f"{title} reconstruction"
        assert axes.get_yscale() == "log"
        _, labels = axes.get_legend_handles_labels()
        assert labels == ["r = 2", "r = 4"]
        for line in axes.lines:  # A moving average does not change a straight line.
            x, y = np.asarray(line.get_xydata(), float).T
            np.testing.assert_array_equal(x, np.arange(1, 101))
            np.testing.assert_allclose(y, 2 * x)


@pytest.mark.parametrize(
    ("iterations", "shown"),
    [([1], [1]), ([1, 2, 3, 5], [1, 3]), ([10, 3], [3, 10]), ([1, 7, 5], [1, 5])],
)
def test_fewest_and_about_three(iterations, shown):
    assert plots_sweep.fewest_and_about_three(iterations) == shown


def test_smoothing_is_a_mean_over_neighbours():
    values = np.random.default_rng(0).random(100)
    found = plots_sweep.smooth(values)
    assert found.shape == (100,)
    np.testing.assert_allclose(found[0], values[0])
    np.testing.assert_allclose(found[50], values[48:53].mean())
    np.testing.assert_allclose(found[98], values[97:].mean())
    np.testing.assert_allclose(plots_sweep.smooth(np.array([3.0])), [3.0])


def test_the_figure_of_logits_shows_each_iteration():
    rows = [
        {"step": 5, "split": "routing", **of_routing(3)},
        {"step": 9, "split": "routing", **{n: 2 * x for n, x in of_routing(3).items()}},
        {"step": 9, "split": "test", "loss": 1.0},
    ]
    figure = plots_sweep.logits(rows, "MNIST")
    changes, entropies, linear, log = figure.axes
    for i, (change, entropy) in enumerate(
        zip(changes.lines, entropies.lines, strict=True), start=1
    ):
        expected = [[5, 10.0**-i], [9, 2 * 10.0**-i]]
        np.testing.assert_allclose(np.asarray(change.get_xydata()), expected)
        first = 2.3 - 0.1 * i
        np.testing.assert_allclose(np.asarray(entropy.get_ydata()), [first, 2 * first])
    for axes in (linear, log):
        expected = [[1, 0.2], [2, 0.02], [3, 0.002]]
        np.testing.assert_allclose(np.asarray(axes.lines[0].get_xydata()), expected)
    scales = [axes.get_yscale() for axes in figure.axes]
    assert scales == ["log", "linear", "linear", "log"]
    assert len(figure.legends[0].get_texts()) == 3


def test_no_marker_or_tick_is_cut_off_and_steps_are_whole():
    """Changes of a millionth lie above the frame; steps have no halves."""
    rows = [
        {"step": step, "split": "routing", **of_routing(6)} for step in (10, 20, 30)
    ]
    figure = plots_sweep.logits(rows, "MNIST")
    changes, entropies, linear, log = figure.axes
    low, high = linear.get_ylim()
    assert low < -0.01 * high
    assert high > 1.03 * np.max(np.asarray(linear.lines[0].get_ydata()))
    for axes in figure.axes:
        assert all(float(tick).is_integer() for tick in axes.get_xticks())
    for axes in (changes, entropies):
        assert {10, 20, 30} <= {*axes.get_xticks()}
    for axes in (changes, log):
        labels = [label.get_text() for label in axes.get_yticklabels()]
        assert {"0.1", "0.001"} <= {*labels}
    train = [{"step": s, "split": "train", "margin_loss": 1 / s} for s in (10, 20, 30)]
    (axes,) = plots_sweep.losses({(1, True): [train]}, "MNIST").axes
    assert {10, 20, 30} <= {*axes.get_xticks()}
    assert all(float(tick).is_integer() for tick in axes.get_xticks())


def test_many_values_have_figures_and_a_table_of_bounded_size(tmp_path):
    cells = [Cell(r, decoder) for r in range(1, 31) for decoder in (False, True)]
    for cell in cells:
        made_run(tmp_path, cell, 0, 1.0)
    text = sweep.write(tmp_path, cells, 1)
    assert "The first 40 of 60 lines; all of them are in sweep_table.csv." in text
    assert sum(line.startswith("|") for line in text.splitlines()) == 2 + 40
    assert len(results.read(tmp_path / "sweep_table.csv")) == 60
    captions = json.loads((tmp_path / "captions.json").read_text())
    assert "The legend names 10 of them." in captions["sweep_logits.png"]
    rows = sweep.rows(tmp_path, cells, 1)
    (axes,) = plots_sweep.errors(rows, "MNIST").axes
    assert len(axes.get_xticks()) < 15
    routing = [{"step": 5, "split": "routing", **of_routing(30)}]
    (legend,) = plots_sweep.logits(routing, "MNIST").legends
    assert [text.get_text() for text in legend.get_texts()] == [
        *map(str, range(1, 31, 3))
    ]


def test_what_stands_in_for_mnist_is_called_so(tmp_path):
    folder = test_results.made_run(
        tmp_path / WITH.name(0),
        decoder=True,
        rows=[{"step": 10, "split": "train", "margin_loss": 0.1}],
        **{"model.routing.iterations": 3, "data.name": "digits"},
    )
    sweep.write(tmp_path, [WITH], 1)
    captions = json.loads((tmp_path / "captions.json").read_text())
    for caption in captions.values():
        assert "on scikit-learn's digits, 10 training steps" in caption
    rows = sweep.rows(tmp_path, [WITH], 1)
    data = names.in_words("digits")
    (axes,) = plots_sweep.errors(rows, data).axes
    assert "on scikit-learn's digits" in axes.get_title()
    figure = plots_sweep.losses({(3, True): [read_metrics(folder.metrics)]}, data)
    assert figure.get_suptitle() == "Margin loss in training on scikit-learn's digits"


# The launcher.


def test_dry_run_prints_the_commands_and_trains_nothing(tmp_path):
    workdir = tmp_path / "sweep"
    own = ("--iterations=2", "--reconstruction=false", "--seeds=1", "--dry_run")
    words = ("--config.batch_size", "8", "--config.debug_nans", f"--workdir={workdir}")
    done = run("sweep_routing", TINY[0], *own, *words)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert shlex.split(line) == [
        *("python", "-m", "experiments.train", TINY[0]),
        "--config.batch_size=8",
        "--config.debug_nans=true",
        "--config.model.routing.iterations=2",
        "--config.seed=0",
        "--config.model.decoder_units=()",
        "--config.diagnose_routing=true",
        f"--workdir={workdir / 'r2_no_decoder_seed0'}",
        "--resume",
    ]
    assert not workdir.exists()


def test_a_small_sweep_and_once_more(tmp_path):
    own = ("--iterations=1", "--reconstruction=false", "--seeds=2", "--jobs=2")
    done = run("sweep_routing", *TINY, *own, f"--workdir={tmp_path}")
    assert done.returncode == 0, (done.stdout, done.stderr)
    names = ["r1_no_decoder_seed0", "r1_no_decoder_seed1"]
    folders = [RunFolder(tmp_path / name) for name in names]
    before = [comparable(folder) for folder in folders]
    errors = [result["test_error_percent"] for result in before]
    for name, error in zip(names, errors, strict=True):
        assert f"{name}: {error:.2f} % test error after" in done.stdout
    assert f"| 1 | without | 2 | {np.mean(errors):.2f} ± " in unpadded(done.stdout)
    assert not any(folder.load_config().model.has_decoder for folder in folders)
    assert TABLES | {"sweep_error.png", "sweep_loss.png"} <= written(tmp_path)

    folders[1].result.unlink()
    logs = [(tmp_path / f"{name}.log") for name in names]
    untouched = logs[0].read_text()
    flags = json.loads((tmp_path / "grid.json").read_text())
    outcomes = grid.run_all(
        [Run(name, flags[name]) for name in names], tmp_path, report=lambda _: None
    )
    assert [outcome.status for outcome in outcomes] == [SKIPPED, FINISHED]
    assert [comparable(folder) for folder in folders] == before
    assert logs[0].read_text() == untouched
    assert "resumed at step 12" in logs[1].read_text()
