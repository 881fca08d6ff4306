"""Progress on a terminal and in a log."""

import io

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


def test_a_terminal_gets_a_bar():
    stream = Terminal()
    with Progress("training", 4, unit="images", scale=8, stream=stream) as shown:
        shown.show(loss="0.5")
        shown.advance(4)
    assert "training: 100%" in stream.getvalue()
    assert "32.0/32.0" in stream.getvalue()
    assert "loss 0.5" in stream.getvalue()


def test_slow_work_has_a_speed_too(now):
    stream = io.StringIO()
    with Progress("runs", 4, unit="runs", stream=stream) as shown:
        now[0] += 80.0
        shown.advance()
    (line, _) = stream.getvalue().splitlines()
    assert line == "runs: 1/4 (0.013 runs/s, 04:00 left)"
