"""Confidence intervals against their formulas, and what they promise."""

import numpy as np
import pytest
import scipy.stats

from capsjax.analyses import intervals
from capsjax.analyses.intervals import Interval


def test_wilson_by_hand():
    """Wilson 1927: the solutions p of |p_hat - p| = z sqrt(p (1 - p) / n)."""
    right = np.arange(200) < 150
    found = intervals.accuracy(right)
    assert found.value == 0.75
    z, n = 1.959963984540054, 200
    for end in (found.low, found.high):
        assert abs(0.75 - end) == pytest.approx(z * (end * (1 - end) / n) ** 0.5)
    assert found.low < 0.75 < found.high
    assert intervals.accuracy(np.ones(50, bool)).high == pytest.approx(1)


def test_copies_of_an_image_add_no_certainty():
    rng = np.random.default_rng(0)
    right = rng.random(300) < 0.7
    once = intervals.accuracy(np.tile(right, 8), np.tile(np.arange(300), 8))
    # The t interval of the mean of 300 numbers that are 0 or 1.
    half = 1.967903 * right.std(ddof=1) / 300**0.5
    assert once.value == pytest.approx(right.mean())
    assert once.high - once.value == pytest.approx(half, rel=1e-4)
    pretended = intervals.accuracy(np.tile(right, 8))
    assert pretended.high - pretended.low < 0.5 * (once.high - once.low)


def test_a_difference_is_taken_image_by_image():
    """Two models that fail on nearly the same images differ with near certainty."""
    first = np.arange(1000) < 800
    second = np.arange(1000) < 780
    found = intervals.difference(first, second)
    assert found.value == pytest.approx(0.02)
    assert 0.01 < found.low < found.high < 0.03
    assert intervals.difference(second, first).value == pytest.approx(-0.02)


def test_95_of_100_intervals_hold_the_truth():
    rng = np.random.default_rng(1)
    trials, hits = 400, 0
    for _ in range(trials):
        ease = rng.random(100)  # Of the originals; versions of one are alike.
        right = rng.random((5, 100)) < ease
        found = intervals.accuracy(right.ravel(), np.tile(np.arange(100), 5))
        hits += found.low <= 0.5 <= found.high
    assert 0.92 < hits / trials < 0.98


def test_networks_that_never_differ_may_differ_in_three_of_n():
    right = np.arange(60) < 40
    assert intervals.difference(right, right) == (0.0, -0.05, 0.05)
    # Of the images made from 20 originals, only those are independent.
    groups = np.repeat(np.arange(20), 3)
    assert intervals.difference(right, right, groups) == (0.0, -0.15, 0.15)


def test_trainings_and_images_are_both_random():
    """Where only one of the two varies, the interval is that one's."""
    alike = intervals.over_trainings([Interval(0.5, 0.4, 0.7)] * 3)
    assert alike == pytest.approx((0.5, 0.4, 0.7))
    exact = intervals.over_trainings([Interval(x, x, x) for x in (0.1, 0.4, 0.7)])
    half = scipy.stats.t.ppf(0.975, 2) * 0.3 / 3**0.5
    assert exact == pytest.approx((0.4, 0.4 - half, 0.4 + half))
    assert intervals.over_trainings([Interval(0.5, 0.4, 0.7)]) == (0.5, 0.4, 0.7)
    shares = intervals.of_share(exact)
    assert shares == pytest.approx((0.4, 0.0, 1.0))
    assert intervals.of_share(Interval(0.5, -np.inf, np.inf)).low == -np.inf


def test_intervals_over_trainings_hold_the_truth():
    rng = np.random.default_rng(2)
    trials, hits = 400, 0
    for _ in range(trials):
        images = rng.normal(0, 0.15, 200)  # The same for all trainings.
        skills = rng.normal(0.6, 0.02, 4)
        right = rng.random((4, 200)) < skills[:, None] + images
        found = intervals.over_trainings([*map(intervals.accuracy, right)])
        hits += found.low <= 0.6 <= found.high
    assert hits / trials > 0.94
