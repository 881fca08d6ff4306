"""Other programs compared with our step, and those that are refused."""

import json
import shlex
import sys
from unittest.mock import Mock

import pytest
from matplotlib.patches import Rectangle

from capsjax.benchmarks import against as benchmark_against
from capsjax.benchmarks.against import Comparison, Report
from capsjax.benchmarks.figures import stages as plots_stages
from capsjax.benchmarks.programs import Problem
from capsjax.errors import UserError
from capsjax.runs import results
from tests.benchmarks.test_routing import ENV
from tests.launching import DIGITS, run
from tests.tables import committed_columns


def program(code: str) -> str:
    return shlex.join([sys.executable, "-S", "-c", code])


def printing(**values) -> str:
    return program(f"print('warming up'); print({json.dumps(values)!r})")


@pytest.fixture
def comparison(monkeypatch) -> Comparison:
    """Two rounds, in which the other program always goes first."""
    reports = [
        Report(None, {"full_s": 4.0, "part_s": 1.0}, 300.0),
        Report(16, {"step_s": 2.0}, 100.0),
        Report(None, {"full_s": 12.0, "part_s": 1.0}, 200.0),
        Report(16, {"step_s": 3.0}, 120.0),
    ]
    monkeypatch.setattr(benchmark_against, "run", Mock(side_effect=reports))
    return benchmark_against.compare(["ours"], "python other.py", rounds=2)


def test_ratios_are_of_the_same_round(comparison):
    assert [*map(comparison.ratios, comparison.theirs)] == [[0.5, 0.25], [2.0, 3.0]]
    _, ours, full, part = comparison.table().splitlines()
    assert ours.split() == ["capsjax", "step_s", "2.5000", "120"]
    assert full.split()[:4] == ["other.py", "full_s", "8.0000", "300"]
    assert full.endswith("0.38 times as long (0.25 to 0.50)")
    assert part.endswith("2.50 times as long (2.00 to 3.00)")


def test_rows_of_both(tiny_config, comparison):
    rows = comparison.rows(Problem(tiny_config, (8, 8, 1), 10), ENV)
    assert [row["model"] for row in rows] == ["capsnet", "other.py", "other.py"]
    assert [row["stage"] for row in rows] == ["step", "full", "part"]
    ours, full, _ = rows
    assert full.keys() >= committed_columns("benchmark_training.csv")
    assert (full["median_s"], full["min_s"], full["repeats"]) == ("8", "4", "2")
    assert (full["images_per_s"], full["peak_rss_mb"]) == ("2", "300")
    assert (ours["dtype"], ours["peak_rss_mb"]) == ("float32", "120")
    assert {row["mode"] for row in rows} == {"against"}
    # The other program's dtype is unknown.
    assert full["dtype"] == full["routing_implementation"] == full["peak_mb"] == ""


def test_programs_take_turns(tmp_path):
    log = tmp_path / "log"

    def noting(letter, **values):
        note = f"open({str(log)!r}, 'a').write({letter!r})"
        return program(f"{note}; print({json.dumps(values)!r})")

    found = benchmark_against.compare(
        shlex.split(noting("o", step_s=1.5, batch=8)),
        noting("t", full_s=3, name="x", batch=8),
        rounds=2,
    )
    assert log.read_text() == "toto"
    (full,) = found.theirs
    assert (full.stage, full.seconds) == ("full", (3.0, 3.0))
    assert found.ratios(full) == [0.5, 0.5]


def test_the_name_is_the_scripts(tmp_path):
    script = tmp_path / "torch_step.py"
    script.write_text("print('{\"step_s\": 1}')")
    command = shlex.join([sys.executable, str(script), "--compile"])
    found = benchmark_against.compare(shlex.split(command), command, rounds=1)
    assert found.name == "torch_step.py"


def test_memory_is_the_commands_own():
    """It excludes this process, and includes the command's peak."""
    here = bytearray(400 * 10**6)  # noqa: F841
    small = benchmark_against.run(shlex.split(printing(step_s=1)))
    large = benchmark_against.run(
        shlex.split(program("x = b'x' * 150 * 10**6; print('{\"step_s\": 1}')"))
    )
    assert small.peak_rss_mb < 60
    assert 150 < large.peak_rss_mb - small.peak_rss_mb + 5 < 170


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("", "--against is empty"),
        ("/no/such/program x", "there is no program /no/such/program"),
        (program("raise SystemExit('no torch')"), "failed with status 1: no torch"),
        (program("print('1.5 s')"), "printed no line of JSON"),
        (printing(step=1), "printed no line of JSON"),
        (printing(step_s=1, batch=64), "takes batches of 64, ours are of 8"),
    ],
)
def test_bad_commands_are_refused(command, message):
    ours = shlex.split(printing(step_s=1, batch=8))
    with pytest.raises(UserError, match=message):
        benchmark_against.compare(ours, command, rounds=1)


def test_the_command_prints_compares_and_draws(tmp_path):
    """Stages, both programs' steps, their rows and the figure of all of them."""
    output = tmp_path / "rows.csv"
    against = f"--against={printing(full_s=1000, batch=4)}"
    size = ("--config.batch_size=4", "--repeats=1", "--rounds=1")
    process = run("benchmark_training", DIGITS, *size, against, f"--output={output}")
    assert process.returncode == 0, process.stderr
    for words in ("the stages add up to", "the convolutions alone", "our step takes"):
        assert words in process.stdout
    assert (tmp_path / "rows_stages.png").stat().st_size > 10_000
    rows = results.read(output)
    # Five stages forward and backward, optimizer, convolutions, step; both programs.
    assert len(rows) == 2 * 5 + 3 + 2
    ours, theirs = rows[-2:]
    assert (ours["mode"], ours["stage"]) == ("against", "step")
    assert (theirs["median_s"], theirs["images_per_s"]) == ("1000", "0.004")
    figure = plots_stages.draw(rows)
    (axes,) = figure.axes
    our_name, their_name = (label.get_text() for label in axes.get_yticklabels())
    assert our_name == "capsnet, default\n8x8x1, 10 classes\nbatch 4, float32"
    assert their_name.endswith("\nfull")
    # One image of theirs took 250 s.
    bar = axes.patches[-1]
    assert isinstance(bar, Rectangle)
    assert bar.get_width() == pytest.approx(250e3)
