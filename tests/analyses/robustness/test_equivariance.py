"""Whether poses turn with images: on poses that are known to, and of networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.decomposition
from flax import nnx

from capsjax import models
from capsjax.analyses.robustness import equivariance, poses, ridge
from capsjax.analyses.robustness.cells import Cells
from capsjax.analyses.robustness.equivariance import of_amount, of_move
from capsjax.analyses.robustness.poses import MOVES
from capsjax.analyses.robustness.subjects import Subject, choose
from capsjax.analyses.robustness.warps import warped
from capsjax.config import Config
from capsjax.errors import NotApplicableError
from capsjax.inference.predict import predict
from capsjax.models.capsules import capsnet
from capsjax.models.cnns import baseline_cnn, nin
from capsjax.runs.folder import RunFolder
from capsjax.training.trained import TrainedModel

RNG = np.random.default_rng(0)
N, Q = 600, 6
CLASSES = np.arange(N) % 3
HALF = poses.training_half(N, seed=0)
BEFORE = RNG.normal(size=(N, Q)) + 3 * np.eye(3, Q)[CLASSES]
NOISE = RNG.normal(size=(N, Q))


def turns(classes=CLASSES):
    """An orthogonal matrix for each image: its class's."""
    drawn = np.random.default_rng(1).normal(size=(3, Q, Q))
    return np.stack([np.linalg.qr(one)[0] for one in drawn])[classes]


def test_halves_are_halves_and_the_same_for_all_networks():
    assert HALF.sum() == N // 2
    np.testing.assert_array_equal(HALF, poses.training_half(N, seed=0))
    assert (poses.training_half(N, seed=1) != HALF).any()


def test_poses_that_turn_are_equivariant():
    after = np.einsum("nq,nqp->np", BEFORE, turns())
    found = of_move(BEFORE, after, CLASSES, HALF)
    for r2 in (found.change, found.beyond_mean, found.pose):
        assert r2.value == pytest.approx(1, abs=1e-6)
    # What turns has a mean change, too, but that is not all of it.
    assert 0 < found.mean.value < 0.9
    assert found.images == N // 2
    # Every class turns in its own way: one map for all of them finds less.
    one_map = of_move(BEFORE, after, np.zeros_like(CLASSES), HALF)
    assert one_map.change.value < 0.9


def test_trainings_of_a_network_are_averaged():
    def made(value):
        r2 = equivariance.R2(value, value - 0.1, value + 0.1)
        moved = equivariance.Moved(r2, r2, r2, r2, images=50)
        return equivariance.Equivariance("x", {MOVES[0]: moved}, {"shift": r2}, 8, "")

    mean = equivariance.over_trainings("both", [made(0.4), made(0.6)])
    assert mean.run == "both"
    moved = mean.moved[MOVES[0]]
    half = np.hypot(0.1, 12.706 * 0.1)
    for r2 in (moved.change, moved.pose, mean.amounts["shift"]):
        assert r2 == pytest.approx((0.5, 0.5 - half, 0.5 + half), rel=1e-3)
    assert (moved.images, mean.width) == (50, 8)


def test_noise_is_not_equivariant():
    found = of_move(BEFORE, BEFORE + NOISE, CLASSES, HALF)
    for r2 in (found.change, found.mean, found.beyond_mean):
        assert -0.1 < r2.value < 0.05
        assert r2.low < r2.value < r2.high
    # Other poses altogether: their change is predictable, since they forget the old
    # ones, and the third reading tells.
    found = of_move(BEFORE, NOISE, CLASSES, HALF)
    assert found.change.value > 0.5
    assert found.beyond_mean.value == pytest.approx(0.5, abs=0.1)
    assert -0.1 < found.pose.value < 0.05


def test_a_constant_change_is_all_the_mean():
    steps = np.array([[1.0] * Q, [-2.0] * Q, [0.5] * Q])[CLASSES]
    found = of_move(BEFORE, BEFORE + steps + 0.01 * NOISE, CLASSES, HALF)
    assert found.mean.value == pytest.approx(1, abs=1e-3)
    assert found.change.value == pytest.approx(1, abs=1e-3)
    assert abs(found.beyond_mean.value) < 0.1
    assert found.pose.value == pytest.approx(1, abs=1e-3)


def test_a_pose_that_breaks_down_is_told_by_the_third_reading():
    found = of_move(BEFORE, 0.01 * NOISE, CLASSES, HALF)
    assert found.change.value > 0.99
    assert found.beyond_mean.value > 0.99
    assert abs(found.pose.value) < 0.1


def test_small_classes_are_left_out():
    few = np.where(np.arange(N) < 12, 5, 0)
    found = of_move(BEFORE, BEFORE + NOISE, few, HALF)
    assert found.images == np.sum(~HALF[12:])
    nothing = of_move(BEFORE, NOISE, np.arange(N), HALF)
    assert nothing.images == 0
    assert np.isnan(nothing.change.value)


def test_amounts_are_read_from_poses_that_hold_them():
    amounts = np.array([0.0, 5.0, 10.0, 30.0])
    direction = np.eye(Q)[0]
    views = BEFORE + 0.0 * amounts[:, None, None]
    views[..., 0] = 0
    marked = views + 0.2 * amounts[:, None, None] * direction
    assert of_amount(marked, amounts, CLASSES, HALF).value == pytest.approx(1, abs=1e-6)
    assert abs(of_amount(views, amounts, CLASSES, HALF).value) < 0.01
    # Noise of the same variance as what the amounts make: half is explained.
    noise = np.random.default_rng(4).normal(size=marked.shape)
    blurred = marked + np.std(0.2 * amounts) * noise
    r2 = of_amount(blurred, amounts, CLASSES, HALF)
    # Over draws of the noise, R2 has a standard deviation of 0.02.
    assert r2.value == pytest.approx(0.5, abs=0.06)
    assert r2.high - r2.low == pytest.approx(2 * 1.96 * 0.02, rel=0.3)


def test_intervals_are_those_of_a_mean_of_many():
    """Where the baseline is constant, R2 is one less a mean."""
    error = np.random.default_rng(2).exponential(size=400)
    found = equivariance.share(error, np.full(400, 2.0))
    assert found.value == pytest.approx(1 - error.mean() / 2)
    half = 1.96 * error.std() / 20 / 2
    assert found.high - found.value == pytest.approx(half, rel=0.15)
    assert found.value - found.low == pytest.approx(half, rel=0.15)


@pytest.mark.parametrize("views", [1, 3])
def test_the_penalty_is_that_of_brute_force(views):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(24, 15)) @ np.diag(np.geomspace(1, 0.01, 15))
    y = x[:, :2] + 0.5 * rng.normal(size=(24, 2))

    def solved(x, y, penalty):
        centred = x - x.mean(axis=0)
        gram = centred.T @ centred + penalty * np.eye(15)
        weights = np.linalg.solve(gram, centred.T @ (y - y.mean(axis=0)))
        return lambda given: (given - x.mean(axis=0)) @ weights + y.mean(axis=0)

    largest = np.linalg.norm(x - x.mean(axis=0), 2) ** 2
    penalties = largest * 10.0 ** np.arange(-8, 4)

    def error(penalty):
        # The mean and the penalty's scale stay those of all, but for the mean's part.
        total = 0.0
        for start in range(0, 24, views):
            rest = np.delete(np.arange(24), range(start, start + views))
            own = slice(start, start + views)
            total += np.sum((solved(x[rest], y[rest], penalty)(x[own]) - y[own]) ** 2)
        return total

    best = min(penalties, key=error)
    assert best not in (penalties[0], penalties[-1])
    new = rng.normal(size=(5, 15))
    np.testing.assert_allclose(
        ridge.fit(x, y, views=views)(new), solved(x, y, best)(new), rtol=1e-6
    )


def test_principal_components_are_scikit_learns():
    features = np.random.default_rng(5).normal(size=(50, 20)) * np.linspace(3, 0.5, 20)
    project = poses.principal_components(features[:30], 4)
    reference = sklearn.decomposition.PCA(4, svd_solver="full").fit(features[:30])
    np.testing.assert_allclose(
        np.abs(project(features)), np.abs(reference.transform(features)), rtol=1e-8
    )


def subject(model, data, tmp_path) -> Subject:
    """A network that was not trained."""
    config = Config(model=model, batch_size=32)
    built = models.build(model, data.image_shape, data.num_classes, nnx.Rngs(params=0))
    graphdef, params, state = models.split(built)
    variables = models.Variables(jnp.zeros((), jnp.int32), params, state)
    trained = TrainedModel(config, graphdef, jax.device_get(variables))
    return Subject("run", RunFolder(tmp_path / "run"), trained)


def test_the_winning_capsules_pose(digits_data, tmp_path):
    model = capsnet.Config.preset("digits_quick", conv1_channels=4, decoder_units=())
    one, chosen = subject(model, digits_data, tmp_path), choose(digits_data, 40)
    width = poses.width_of([one.model], digits_data.image_shape)
    seen: list[int] = []
    found = poses.measure(one, width, chosen, Cells(tmp_path), seen.append)
    assert sum(seen) == poses.image_count(chosen) == 40 * 16
    after = warped(chosen.images.images, "rotation", 30.0)
    both = predict(one.model, np.concatenate([chosen.images.images, after]))
    winners, later = np.argmax(both["scores"], axis=1).reshape(2, 40)
    np.testing.assert_array_equal(found.classes, winners)
    turned = MOVES.index(("rotation", 30.0))
    # The capsule that won before, also where another one wins now.
    assert (later != winners).any()
    np.testing.assert_allclose(
        found.moved[turned], both["poses"][np.arange(40, 80), winners], atol=1e-6
    )
    assert found.upright.shape == (40, width)
    kept = poses.finished(one, width, chosen, Cells(tmp_path))
    assert kept is not None
    np.testing.assert_array_equal(kept.moved, found.moved)
    assert poses.finished(one, width + 1, chosen, Cells(tmp_path)) is None


def test_dense_features_are_those_that_make_the_scores(digits_data, tmp_path):
    model = baseline_cnn.Config(
        conv_channels=(4,), kernel_sizes=(3,), dense_units=(20,)
    )
    one, chosen = subject(model, digits_data, tmp_path), choose(digits_data, 80)
    assert poses.width_of([one.model], digits_data.image_shape) == 16
    # In as many numbers as there are features, they are only turned.
    found = poses.measure(one, 20, chosen, Cells(tmp_path))
    features = np.concatenate([found.upright, np.ones((80, 1))], axis=1)
    assert features.shape == (80, 21)
    scores = predict(one.model, chosen.images.images)["scores"]
    residuals = scores - features @ np.linalg.lstsq(features, scores)[0]
    np.testing.assert_allclose(residuals, 0, atol=1e-5)
    np.testing.assert_array_equal(found.classes, np.argmax(scores, axis=1))
    turned = warped(chosen.images.images, "rotation", 30.0)
    scores = predict(one.model, turned)["scores"]
    features[:, :-1] = found.moved[MOVES.index(("rotation", 30.0))]
    residuals = scores - features @ np.linalg.lstsq(features, scores)[0]
    np.testing.assert_allclose(residuals, 0, atol=1e-5)


def test_networks_without_either_are_left_out(digits_data, tmp_path):
    one = subject(nin.Config().smaller("quick"), digits_data, tmp_path)
    with pytest.raises(NotApplicableError, match="nin has neither capsules nor a den"):
        poses.measure(one, 16, choose(digits_data, 8), Cells(tmp_path))
