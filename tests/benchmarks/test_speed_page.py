"""The tables of docs/speed.md, from made rows and from the committed ones."""

import pytest

from capsjax.benchmarks import programs as benchmark
from capsjax.benchmarks import speed_page
from capsjax.benchmarks.programs import Problem, Timing
from capsjax.errors import UserError
from capsjax.runs import results
from tests.benchmarks.test_routing import ENV
from tests.launching import ROOT
from tests.tables import unpadded

MODEL = "| capsnet | default | 8x8x1 | 16 | float32 |"


def row(config, *seconds, stage="step", mode="train", rss=None, **columns):
    measured = Timing(seconds, "wall", stage, mode, 1.0, 345.6, rss)
    return benchmark.row(Problem(config, (8, 8, 1), 10), ENV, measured, **columns)


def test_the_last_of_equal_rows_counts(tiny_config):
    rows = [
        row(tiny_config, 9.0),
        row(tiny_config, 0.001, stage="conv1", mode="forward"),
        row(tiny_config, 0.1, 0.2, 0.4),
    ]
    text = unpadded(speed_page.section(rows))
    assert f"{MODEL} 200 (100 to 400) | 80 | 346 |" in text
    assert "9e+03" not in text
    assert "conv1" not in text
    assert "2 cores of a cpu" in text


def test_another_program_beside_our_step(tiny_config):
    other = {"model": "other.py", "routing_implementation": "", "dtype": ""}
    rows = [
        row(tiny_config, 0.2, mode="against", rss=900.0),
        row(tiny_config, 0.8, mode="against", stage="full_step", rss=1e3, **other),
    ]
    text = unpadded(speed_page.section(rows))
    ours = "capsjax, default routing, whole step"
    assert f"| {ours} | 16 | 200 (200 to 200) | 1.00 | 900 |" in text
    assert "| other.py, full step | 16 | 800 (800 to 800) | 0.25 | 1000 |" in text


def test_inference_and_memory(tiny_config):
    rows = [
        row(tiny_config, 0.00412, 1.2, 0.003, mode="inference", stage="predict"),
        row(tiny_config, mode="memory"),
    ]
    text = unpadded(speed_page.section(rows))
    assert f"{MODEL} 4.12 (3 to 1200) | 3884 |" in text
    assert f"{MODEL} 10 | 346 |" in text


def test_a_section_replaces_the_one_before():
    text = f"before\n{speed_page.BEGIN}\nold\n{speed_page.END}\nafter\n"
    once = results.insert(text, speed_page.BEGIN, speed_page.END, "new")
    assert once == f"before\n{speed_page.BEGIN}\n\nnew\n\n{speed_page.END}\nafter\n"
    assert results.insert(once, speed_page.BEGIN, speed_page.END, "new") == once


@pytest.mark.parametrize(
    "text", ["", speed_page.BEGIN, f"{speed_page.END}\n{speed_page.BEGIN}"]
)
def test_a_document_without_marks(text):
    with pytest.raises(UserError, match="there are no lines"):
        results.insert(text, speed_page.BEGIN, speed_page.END, "new")


def test_the_page_says_what_the_rows_say():
    rows = results.read(ROOT / "results/benchmark_training.csv")
    page = (ROOT / "docs/speed.md").read_text()
    section = speed_page.section(rows)
    assert results.insert(page, speed_page.BEGIN, speed_page.END, section) == page
