"""What is concluded from a network's scores of images cut into quarters."""

import numpy as np
import pytest

from capsjax import data
from capsjax.analyses.robustness import quarters
from capsjax.data import ImageSet
from capsjax.errors import UserError
from capsjax.runs import results
from capsjax.runs.folder import RunFolder
from capsjax.training.train import train


def test_thresholds_and_entropies():
    labels = np.zeros(100, np.int32)
    images = ImageSet(np.zeros((100, 2, 2, 1), np.uint8), labels)
    right = np.linspace(0.5, 0.99, 100)
    scores = np.stack([right, np.full(100, 0.1)], axis=1)
    limit = quarters.threshold(scores, images)
    assert np.sum(right > limit) == 95
    # Wrong ones do not count.
    scores[50:] = [0.0, 0.05]
    assert quarters.threshold(scores, images) < np.quantile(right[:50], 0.06)
    with pytest.raises(UserError, match="recognises no validation image"):
        quarters.threshold(scores[:, ::-1] * 0 + [0, 1], images)
    np.testing.assert_allclose(
        quarters.entropy(np.array([[0.2] * 4, [0.0, 0, 0, 3]])), [2, 0], atol=1e-9
    )
    logits = np.log(np.array([[1, 3]], np.float32))
    np.testing.assert_allclose(quarters.shares(logits, "logits"), [[0.25, 0.75]])


def test_quarters_of_a_trained_run(tmp_path, digits_data, tiny_config):
    tiny_config.max_steps = 30
    folder = RunFolder(tmp_path / "tiny_seed3_until_9")
    train(tiny_config, digits_data, folder)
    found = quarters.ask("tiny", folder, digits_data)
    assert found.network == "tiny"
    whole, cut = found.predicted
    above = found.scores > found.threshold
    np.testing.assert_array_equal(found.stays, (whole == cut) & above[1])
    np.testing.assert_array_equal(found.confident, above[0])
    labels = digits_data.test.labels
    assert np.mean(cut == labels) < np.mean(whole == labels) == found.right.mean()

    # Of two seeds that differ in all images, half is the mean.
    other = found._replace(stays=~found.stays)
    text = quarters.write(tmp_path, [found, other], digits_data.test, "some digits")
    rows = results.read(tmp_path / "quarters.csv")
    shares = [row.number("stays_confident") for row in rows]
    assert shares == pytest.approx([found.stays.mean(), other.stays.mean()], rel=1e-4)
    for words in ("some digits", " 50.0 (", "2x2"):
        assert words in text
    assert "quarters.png" in (tmp_path / "captions.json").read_text()
    assert (tmp_path / "quarters.png").stat().st_size > 10_000


def test_quarters_need_validation_images(tmp_path):
    loaded = data.load("digits")
    with pytest.raises(UserError, match="needs validation images"):
        quarters.ask("a", RunFolder(tmp_path), loaded)
