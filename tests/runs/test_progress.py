"""Progress on a terminal and in a log."""

import io
import os

import pytest

from capsjax.runs import progress
from capsjax.runs.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def now(monkeypatch) -> list[float]:
    """The time, which stands still unless it is set."""
    seconds = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: seconds[0])
    return seconds


def test_a_log_gets_whole_lines_with_rate_and_time_left(now):
    stream = io.StringIO()
    with Progress(
        "training", 100, unit="images", done=20, scale=8, stream=stream
    ) as shown:
        shown.show(loss="0.5")
        for _ in range(40):
            now[0] += 1.0
            shown.advance()
            if now[0] == 120.0:
                shown.show(accuracy="0.9")
    lines = stream.getvalue().splitlines()
    # Every 15 seconds and at the end; one step, of 8 images, a second.
    assert lines == [
        "training: 35/100 (8 images/s, 01:05 left) loss 0.5",
        "training: 50/100 (8 images/s, 00:50 left) loss 0.5, accuracy 0.9",
        "training: 60/100 (8 images/s, 00:40 left) loss 0.5, accuracy 0.9",
    ]


def test_short_work_says_nothing_in_a_log():
    stream = io.StringIO()
    with Progress("quick", 3, unit="images", stream=stream) as shown:
        shown.advance(3)
    assert stream.getvalue() == ""


def test_a_terminal_gets_a_bar_that_counts_what_the_log_counts():
    stream = Terminal()
    with Progress("training", 4, unit="images", scale=8, stream=stream) as shown:
        shown.show(loss="0.5")
        shown.advance(4)
    assert "training 100% 4/4 [" in stream.getvalue()
    assert "loss 0.5" in stream.getvalue()


@pytest.mark.parametrize("columns", [80, 0])
def test_the_newest_number_is_within_80_columns(columns, monkeypatch):
    """Also on a terminal that does not tell its width, which counts as 80 columns."""
    size = os.terminal_size((columns, 24))
    monkeypatch.setattr(progress.os, "get_terminal_size", lambda number: size)
    stream = Terminal()
    monkeypatch.setattr(stream, "fileno", lambda: 1)
    with Progress("training", 14_040, unit="images", scale=128, stream=stream) as shown:
        shown.show(loss="0.0123", accuracy="0.9876")
        shown.show(validation="0.9912")
        shown.advance(14_000)
    *_, last = stream.getvalue().replace("\n", "\r").strip("\r").split("\r")
    assert "14000/14040" in last
    assert "validation 0.9912" in last
    assert len(last) <= 80


def test_preparation_is_said_and_not_timed(now):
    stream = Terminal()
    with Progress("training", 10, unit="images", stream=stream) as shown:
        with shown.preparing("compiling"):
            assert "training (compiling) 0% 0/10" in stream.getvalue()
            now[0] += 30.0
        now[0] += 2.0
        shown.advance(4)
        shown.show()
        assert shown._speed() == "2 images/s"
    assert "(compiling)" not in stream.getvalue().split("\r")[-1]


def test_a_log_can_be_read_back(now):
    stream = io.StringIO()
    shown = Progress("training", 10, unit="images", done=3, stream=stream)
    shown.line()
    shown.advance()
    shown.line()
    lines = ["training is fun", *stream.getvalue().splitlines(), "training: stopped"]
    assert progress.done_of(lines, "training") == "4/10"
    assert progress.done_of(lines, "testing") == ""


def test_slow_work_has_a_speed_too(now):
    stream = io.StringIO()
    with Progress("runs", 4, unit="runs", stream=stream) as shown:
        now[0] += 80.0
        shown.advance()
    (line, _) = stream.getvalue().splitlines()
    assert line == "runs: 1/4 (0.013 runs/s, 04:00 left)"
