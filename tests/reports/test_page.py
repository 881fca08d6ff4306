"""Reports: numbers against those computed by hand, and what their readers are told."""

import json
import pathlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from capsjax.errors import UserError
from capsjax.reports import figures as plots_report
from capsjax.reports import page as report
from capsjax.reports import runs as report_runs
from capsjax.reports.runs import Group, Run
from capsjax.runs.folder import RunFolder, write_json
from tests.launching import assert_one_line, run
from tests.reports.page import Page
from tests.reports.test_document import png
from tests.runs.test_results import COMMAND, ENV, RESULT, made_run

ROWS: list[dict[str, Any]] = [
    {"step": 5, "split": "train", "loss": 2.0, "accuracy": 0.5},
    {"step": 5, "split": "routing", "entropy": 1.0},
    {"step": 10, "split": "train", "loss": 1.0, "accuracy": 0.75},
    {"step": 10, "split": "validation", "loss": 1.5, "accuracy": 0.6},
    {"step": 10, "split": "test", "loss": 1.2, "accuracy": 0.9, "digit_accuracy": 0.95},
]


def made(
    path: pathlib.Path,
    *,
    seed: int = 0,
    error: float = 1.0,
    iterations: int = 3,
    steps: int = 10,
    ended: bool = True,
    rows: list[dict[str, Any]] = ROWS,
    **env: Any,
) -> RunFolder:
    """A run's folder without any training."""
    # How often it is logged makes no other group.
    changes = {"log_every_steps": 5 + seed, "model.routing.iterations": iterations}
    folder = made_run(path, seed, error, steps=steps, rows=rows, env=env, **changes)
    if not ended:
        folder.result.unlink()
    return folder


CNN = {"name": "baseline_cnn", "dropout_rate": 0.5}


def change_config(folder: RunFolder, change: Callable[[dict], object]) -> None:
    config = json.loads(folder.config.read_text())
    change(config)
    write_json(folder.config, config)


def page_of(tmp_path: pathlib.Path, *given: pathlib.Path) -> Page:
    output = tmp_path / "out" / "report.html"
    report.write(given or (tmp_path / "runs",), output)
    texts = [output.read_text(), output.with_suffix(".md").read_text()]
    assert not any(str(tmp_path) in text or "/home" in text for text in texts)
    return Page(texts[0])


def groups_of(*runs: pathlib.Path) -> tuple[list[str], list[Group]]:
    return report_runs.group(report_runs.find(runs))


def test_summary_takes_seeds_together(tmp_path):
    for iterations, errors in {3: (1.0, 2.0, 6.0), 1: (4.0,)}.items():
        for seed, error in enumerate(errors):
            path = tmp_path / "runs" / f"r{iterations}" / str(seed)
            made(path, seed=seed, error=error, iterations=iterations)
    page = page_of(tmp_path)
    header, *rows = page.rows[:3]
    one, three = (dict(zip(header, row, strict=True)) for row in rows)
    # (4 + 1 + 9) / 2 = 7, whose root is 2.6458.
    for expected in (
        {"model.routing.iterations": "3", "runs": "3", "test error, %": "3.00"},
        {"± std": "2.65", "each": "1.00, 2.00, 6.00", "steps": "10"},
        {"examples seen": "1,280", "s per step": "0.25"},
    ):
        assert three.items() >= expected.items()
    expected = {"model.routing.iterations": "1", "runs": "1", "test error, %": "4.00"}
    assert one.items() >= (expected | {"± std": "\N{EN DASH}"}).items()
    assert "agree in commit" in page.text
    assert ["digit_accuracy", "\N{EN DASH}", "\N{EN DASH}", "0.95"] in page.rows
    assert "--workdir=DIR" in page.text


def test_what_is_compared_and_the_result_come_first(tmp_path):
    """Settings by the dozen stand behind them, where a screen may hide them."""
    for index in range(3):
        settings = (
            "augment.shift",
            "model.routing.iterations",
            "optimizer.decay_steps",
        )
        made_run(tmp_path / "runs" / str(index), **dict.fromkeys(settings, index + 1))
    header, first, *_ = page_of(tmp_path).rows
    assert header[:4] == ["group", "test error, %", "± std", "runs"]
    assert {"augment.shift", "optimizer.decay_steps"} < {*header[5:]}
    assert first[:2] == ["1: shift=1", "1.00"]


def test_hundreds_of_runs_have_a_page_of_bounded_size(tmp_path):
    """It says what it leaves out; 130 groups, one of them with 15 runs."""
    runs = tmp_path / "runs"
    for index in range(130):
        folder = made(runs / f"r{index}", iterations=index + 1, commit=str(index))
        if index > 100:
            folder.env.unlink()
    for seed in range(1, 15):
        made(runs / f"seed{seed}", seed=seed, commit="0")
    plots = RunFolder(runs / "r0").plots
    plots.mkdir()
    for index in range(25):
        (plots / f"{index:02}.png").write_bytes(png(3))
    page = page_of(tmp_path)
    header = page.rows[0]
    groups = [row for row in page.rows if row[0].endswith("iterations=1")]
    assert sum(len(row) == len(header) for row in page.rows) == 1 + 100
    third = dict(zip(header, page.rows[3], strict=True))
    assert third["each"].endswith("1.00 and 5 more")
    assert groups
    for sentence in (
        "The first 100 of 130 groups; a report on some of the folders alone shows",
        "The first 20 of 130 groups; ",
        "The first 50 of 144 runs; ",
        "Left out: 5 more figures, in the run's folder plots.",
        "Damaged too: r107, r108, r109, r110, r111, r112 and 17 more.",
        "95 others",
    ):
        assert sentence in page.text
    assert page.text.count("Provenance") == 50
    # The 20 small pictures of a run, and the two of the report.
    assert len(page.images) == 22
    assert max(image.height for image in page.images) < 1500


def test_fields_of_one_model_only_are_no_columns(tmp_path):
    """The name of the baseline implies that it lacks a CapsNet's fields."""
    made(tmp_path / "a")
    change_config(made(tmp_path / "b"), lambda config: config.update(model=CNN))
    columns, groups = groups_of(tmp_path)
    assert columns == ["model.name"]
    assert [group.label for group in groups] == ["baseline_cnn", "capsnet"]


def test_runs_of_earlier_versions_are_in_the_groups_of_todays(tmp_path):
    """They lack fields, and have routing's under other names."""

    def make_old(config):
        routing = config["model"].pop("routing")
        config["model"]["routing_iterations"] = routing["iterations"]
        del config["augment"]["rotation"]

    made(tmp_path / "a")
    change_config(made(tmp_path / "b", seed=1), make_old)
    columns, groups = groups_of(tmp_path)
    assert columns == []
    assert [len(group.runs) for group in groups] == [2]


def test_a_label_has_no_more_than_it_takes(tmp_path):
    for index in range(3):
        change = {
            "augment.shift": min(index, 1),
            "model.routing.iterations": 10 - index,
        }
        made_run(tmp_path / f"r{index}", **change)
    columns, groups = groups_of(tmp_path)
    assert columns == ["augment.shift", "model.routing.iterations"]
    labels = [group.label for group in groups]
    assert labels == ["iterations=10", "iterations=8", "iterations=9"]


def test_labels_name_the_data_in_words(tmp_path):
    for name in ("mnist", "digits"):
        made_run(tmp_path / "several" / name, **{"data.name": name})
        both = tmp_path / "both"
        made_run(both / name, **{"data.name": name, "augment.shift": 2})
        cnn = made_run(both / f"{name}_cnn", **{"data.name": name})
        change_config(cnn, lambda config: config.update(model=CNN))
    _, groups = groups_of(tmp_path / "both")
    assert [group.label for group in groups] == [
        f"{name}, {model}"
        for name in ("scikit-learn's digits", "MNIST")
        for model in ("baseline_cnn", "capsnet")
    ]
    one = made_run(tmp_path / "one" / "run", **{"data.name": "affnist"})
    write_json(one.data, {"title": "generated affNIST"})
    _, groups = groups_of(tmp_path / "several")
    assert [group.label for group in groups] == ["scikit-learn's digits", "MNIST"]
    _, (group,) = groups_of(tmp_path / "one")
    assert group.label == "capsnet on generated affNIST"
    one.data.write_text("{")
    _, (group,) = groups_of(tmp_path / "one")
    assert group.label == "capsnet on affnist"


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"steps": 7}, ["number of steps: 10 (1 run); 7 (1 run)", "7 to 10 steps"]),
        ({"commit": "abc-dirty"}, ["commit: abc (1", "no commit (-dirty)", "other"]),
        ({"data": "EMNIST"}, ["data: EMNIST (1 run); MNIST (1 run)"]),
        ({"device": "H200"}, ["device: 1 x H200 (1 run); 2 cores of a cpu (1 run)"]),
        ({"ended": False}, ["Not ended", "other", "1 of 2"]),
        ({"seed": 0}, ["more than one run of seed 0"]),
        (
            {"resumes": [ENV | {"command": COMMAND, "commit": "later", "step": 4}]},
            ["commit: abc (2 runs); later (1 run)", "resumed at step"],
        ),
    ],
)
def test_what_differs_is_said(tmp_path, other, words):
    made(tmp_path / "runs" / "one", seed=0)
    made(tmp_path / "runs" / "other", **({"seed": 1} | other))
    page = page_of(tmp_path)
    assert "Before you compare" in page.text
    for word in words:
        assert word in page.text


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("config.json", "{", "config.json cannot be read"),
        ("config.json", "[]", "config.json does not hold"),
        ("config.json", '{"batch_size": "x"}', "config.json does not hold"),
        ("env.json", None, "there is no env.json"),
        ("env.json", '{"commit": "abc"}', "env.json does not hold"),
        ("result.json", "null", "result.json does not hold"),
        ("result.json", '{"steps": 3}', "result.json holds no test error"),
        ("metrics.jsonl", b"\xff\xfe", "metrics.jsonl cannot be read"),
        ("metrics.jsonl", '"train"\n{"step": "a", "split": "train"}', "no metrics in"),
    ],
)
def test_a_damaged_folder_is_reported(tmp_path, file, content, words):
    made(tmp_path / "runs" / "good")
    path = made(tmp_path / "runs" / "damaged", seed=1).path / file
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    page = page_of(tmp_path)
    (note,) = (text for text in page.texts if text.startswith("Run damaged is damaged"))
    assert words in note


def test_a_run_alone_that_has_just_begun(tmp_path):
    made(tmp_path / "runs", ended=False, rows=[])
    assert "Not ended" in page_of(tmp_path).text


def test_runs_are_found_at_any_depth_once(tmp_path):
    for path in ("x/r10/s", "x/r2/s", "y/r2/s", "y/checkpoints"):
        made(tmp_path / path)
    (tmp_path / "x" / "r2" / "s" / "checkpoints" / "last").mkdir(parents=True)
    (tmp_path / "x" / "r2" / "s" / "checkpoints" / "config.json").write_text("{}")
    x, y = tmp_path / "x", tmp_path / "y"
    runs = report_runs.find([x, y, x / "r2", y / "r2" / "s"])
    names = [run.name for run in runs]
    assert names == ["x/r2/s", "x/r10/s", "y/checkpoints", "y/r2/s"]
    assert [run.name for run in report_runs.find([x / "r2" / "s"])] == ["s"]


def test_without_its_runs_it_keeps_the_summary(tmp_path):
    made(tmp_path / "runs" / "a")
    runs, output = [tmp_path / "runs"], tmp_path / "report.html"
    for each_run in (True, False):
        said = report.write(runs, output, each_run=each_run)
        assert said.startswith("1 run in 1 group: ")
        assert ("Each run" in output.read_text()) is each_run
        assert "Results" in output.read_text()


def test_no_runs_are_refused(tmp_path):
    with pytest.raises(UserError, match="no runs in"):
        report.write([tmp_path], tmp_path / "report.html")
    with pytest.raises(UserError, match=r"no folder .*absent"):
        report.write([tmp_path / "absent"], tmp_path / "report.html")


def test_no_file_of_others_is_replaced(tmp_path):
    made(tmp_path / "run")
    readme = tmp_path / "README.md"
    readme.write_text("mine")
    with pytest.raises(UserError, match=r"README\.md .* another --output"):
        report.write([tmp_path / "run"], tmp_path / "README.html")
    assert readme.read_text() == "mine"
    assert not (tmp_path / "README.html").exists()
    with pytest.raises(UserError, match=r"does not end in \.html"):
        report.write([tmp_path / "run"], readme)
    report.write([tmp_path / "run"], tmp_path / "report.html")
    report.write([tmp_path / "run"], tmp_path / "report.html")


def test_hostile_text_is_escaped_everywhere(tmp_path):
    """Names, settings, provenance, commands, captions, tables and texts."""
    name = "<script>alert(1)</script> | `x` \n\n##### & \"'$x_{$ \x1b"
    word = name.replace("\n", "").replace("/", "\N{DIVISION SLASH}")
    runs = tmp_path / "runs"
    command, versions = ["python", name, "```"], {name: name}
    folder = made(runs / word, data=name, command=command, versions=versions)
    change_config(folder, lambda config: config["data"].update(name=name))
    write_json(folder.result, RESULT | {name: name})
    folder.plots.mkdir()
    (folder.plots / f"{word}.png").write_bytes(png(3))
    (folder.plots / f"{word}broken.png").write_bytes(b"no")
    made(runs / "other", rows=[{"step": 1, "split": "test", name: 1.0}])
    (runs / "f.png").write_bytes(png(3))
    write_json(runs / "captions.json", {"f.png": name, "t.csv": name})
    (runs / "t.csv").write_text(f'"{name.replace(chr(34), "")}",n\na,1\n')
    (runs / "t.md").write_text(f"```\n{name}\n```\n")
    (runs / f"{word}.csv").write_bytes(b"\xff")
    output = tmp_path / "my report.html"
    report.write([runs], output, title=name)
    page, text = Page(output.read_text()), output.with_suffix(".md").read_text()
    assert not page.tags & {"script", "em", "h5"}
    assert text.count("](my%20report_figures/") == len(page.images) == 4
    outside = re.sub(r"^(```+)text\n.*?\n\1$", "", text, flags=re.M | re.S)
    assert "<script" not in outside
    assert "\x1b" not in text
    assert page.text.count("<script>alert(1)</script> | `x` ##### &") == 19
    # In the command and the text of a file its lines stay.
    assert page.text.count("<script>alert(1)</script> | `x` \n\n##### &") == 2


def test_what_lies_beside_the_runs_is_shown(tmp_path):
    runs = tmp_path / "runs"
    folder = made(runs / "one")
    folder.plots.mkdir()
    (folder.plots / "a.png").write_bytes(png(3))
    (folder.plots / "cut.png").write_bytes(png(3)[:-20])
    (runs / "figure.png").write_bytes(png(5))
    (runs / "broken.png").write_bytes(b"no")
    (runs / "captions.json").write_text('{"figure.png": "What it shows"}')
    (runs / "few.csv").write_text("name,value\na,1.5\n/home/me/b,2\n")
    (runs / "many.csv").write_text("x\n" + "1\n" * 100)
    (runs / "binary.csv").write_bytes(b"\xff\x00")
    (runs / "notes.md").write_text("# Of /home/me/runs\n")
    page = page_of(tmp_path)
    assert [image.size for image in page.images if image.width < 9] == [(5, 5), (3, 3)]
    assert {"What it shows", "Cannot be shown: cut.png."} <= {*page.texts}
    assert {("name", "value"), ("b", "2")} <= {*map(tuple, page.rows)}
    for words in (
        "many.csv: 100 rows, too many to show",
        "In runs, broken.png cannot be shown",
        "In runs, binary.csv cannot be shown",
        "# Of runs",
    ):
        assert words in page.text

    files = {path.name for path in (tmp_path / "out" / "report_figures").iterdir()}
    names = ("figure", "learning_curves", "one_a", "test_error")
    assert files == {f"{name}.png" for name in names}
    # A report in the folder itself is not shown by the next one.
    lengths = set()
    for _ in range(2):
        report.write([runs], runs / "report.html")
        lengths.add((runs / "report.md").read_text().count("\n"))
    assert len(lengths) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("--data_dir=/home/me/data", "--data_dir=data"),
        ("cannot read '/tmp/a b/x.json'", "cannot read 'a b/x.json'"),
        ("~/runs/a", "a"),
        ("see https://host.org/a/b", "see https://host.org/a/b"),
        ("results/a.csv and 3/4 images/s", "results/a.csv and 3/4 images/s"),
    ],
)
def test_paths_of_the_machine_are_cut_down(text, expected):
    assert report_runs.without_paths(text) == expected


def with_rows(rows: list[dict[str, Any]], *, ended: bool = True) -> Run:
    folder = RunFolder("/nonexistent")
    result = {"steps": 1, "test_error_percent": 1.0} if ended else {}
    return Run("run", folder, {}, {}, result, report_runs.numbers(rows))


def test_curves_are_means_at_common_steps():
    """The mean is over runs that have ended; the other one is a thin line."""

    def of(*points: tuple[int, float], ended: bool = True) -> Run:
        rows: list[dict[str, Any]] = [
            {"step": step, "split": split, "loss": loss, "accuracy": 1 - loss / 10}
            for step, loss in points
            for split in ("train", "validation")
        ]
        return with_rows(rows, ended=ended)

    runs = (
        of((1, 2.0), (2, 9.0), (2, 4.0)),
        of((2, 2.0), (3, 1.0)),
        of((1, 9.0), (2, 9.0), ended=False),
    )
    figure = plots_report.learning_curves([Group(1, "label", {}, runs)])
    loss, error = figure.axes
    for axes, factor in ((loss, 1), (error, 10)):
        lines = [np.asarray(line.get_xydata()).tolist() for line in axes.lines]
        assert [len(line) for line in lines] == [2, 2, 2, 1]
        np.testing.assert_allclose(lines[-1], [[2, 3 * factor]])


@pytest.mark.parametrize("accuracies", [(0.02, 0.01), (0.9, 1.0), (0.999, 0.9995)])
def test_no_curve_leaves_its_panel(accuracies):
    """Neither the worst run nor one without errors lies on the frame."""
    runs = [
        with_rows(
            [
                {"step": step, "split": "validation", "accuracy": accuracy}
                for step in (10, 20, 30)
            ]
        )
        for accuracy in accuracies
    ]
    groups = [Group(i, "g", {}, (run,)) for i, run in enumerate(runs)]
    _, axes = plots_report.learning_curves(groups).axes
    low, high = axes.get_ylim()
    errors = [100 * (1 - accuracy) for accuracy in accuracies]
    assert low < min(errors) <= max(errors) < high / 1.1
    assert all(float(tick).is_integer() for tick in axes.get_xticks())


def test_long_curves_are_thinned_to_means():
    rows = [{"step": i, "split": "train", "loss": 1.0 + i} for i in range(1, 1001)]
    figure = plots_report.learning_curves([Group(1, "a", {}, (with_rows(rows),))])
    (line,) = figure.axes[0].lines
    drawn = np.asarray(line.get_xydata())
    assert len(drawn) == 200
    np.testing.assert_allclose(drawn[0], [3, 4])  # Of steps 1 to 5.
    np.testing.assert_allclose(drawn.mean(axis=0), [500.5, 501.5])


@pytest.mark.parametrize("count", [1, 10, 11])
def test_every_group_has_a_color_of_its_own(count):
    rows = [{"step": 1, "split": "train", "loss": 1.0}]
    groups = [Group(i, f"g{i}", {}, (with_rows(rows),)) for i in range(count)]
    curves = plots_report.learning_curves(groups)
    colors = [tuple(line.get_color()) for line in curves.axes[0].lines]
    assert len(set(colors)) == count
    errors = plots_report.final_errors(groups)
    labels = [label.get_text() for label in errors.axes[0].get_yticklabels()]
    assert labels == [f"{i}: g{i}" for i in range(count)]


def test_the_title_names_a_few_of_many_folders(tmp_path):
    folders = [made(tmp_path / f"r{n}", seed=n).path for n in range(9)]
    report.write(folders, tmp_path / "report.html", each_run=False)
    text = (tmp_path / "report.md").read_text()
    assert "# Runs in r0, r1, r2, r3, r4, r5 and 3 more\n" in text


def test_the_launcher(tmp_path):
    made(tmp_path / "sweep" / "one")
    output = tmp_path / "report.html"
    process = run("report", str(tmp_path / "sweep"), f"--output={output}", "--title=T")
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("1 run in 1 group: ")
    assert "MB as PNG" in process.stdout
    assert Page(output.read_text()).texts.count("T") == 2
    assert_one_line(run("report"), "RUNS...")
