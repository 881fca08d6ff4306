"""Attacks on a linear network, where the best possible is known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax import attacks
from capsjax.attacks import balls
from tests.attacks.linear import Linear

NORMS = ("linf", "l2")


def flat_changes(found, linear):
    changes = np.asarray(found.images, np.float64) - np.asarray(linear.images)
    return changes.reshape(len(changes), -1)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("make", [attacks.fgsm, attacks.bim, attacks.pgd])
def test_gradient_attacks_succeed_exactly_beyond_the_nearest_boundary(make, norm):
    linear = Linear()
    smallest, attacked = linear.smallest(norm), linear.attacked()
    attack = make(norm)
    # Random starts leave a part of the change that points elsewhere.
    for factor in (0.98, 1.06 if make is attacks.pgd else 1.02):
        # One image at a time, each with its own radius.
        for i, radius in enumerate(factor * smallest):
            one = slice(i, i + 1)
            found = attack(
                attacked,
                linear.images[one],
                linear.labels[one],
                linear.keys[one],
                jnp.float32(radius),
            )
            assert bool(found.success[0]) == (factor > 1), (i, radius)


@pytest.mark.parametrize("norm", NORMS)
def test_pgd_reaches_the_optimum_of_a_linear_network(norm):
    linear = Linear()
    radius = float(np.median(linear.smallest(norm)))
    found = attacks.pgd(norm)(
        linear.attacked("margin"),
        linear.images,
        linear.labels,
        linear.keys,
        jnp.float32(radius),
    )
    margins, normals = linear.boundaries()
    gained = np.sum(flat_changes(found, linear) * normals[:, 0], axis=1)
    best = radius * np.linalg.norm(normals[:, 0], 1 if norm == "linf" else 2, axis=1)
    # The one that the network errs on first is kept; the others are optima.
    kept = ~np.asarray(found.success)
    # In an L2 ball a part of the random start's change is left.
    tolerance = 1e-5 if norm == "linf" else 0.05
    np.testing.assert_allclose(gained[kept], best[kept], rtol=tolerance)
    assert not np.any(~kept & (best < margins[:, 0]))
    assert not np.any(kept & ((1 - tolerance) * best > margins[:, 0]))
    assert 0 < kept.sum() < len(kept)


@pytest.mark.parametrize("classes", [2, 5])
def test_deepfool_steps_to_the_nearest_boundary(classes):
    linear = Linear(classes)
    found = attacks.DeepFool()(
        linear.attacked(), linear.images, linear.labels, linear.keys
    )
    assert np.all(found.success)
    lengths = np.linalg.norm(flat_changes(found, linear), axis=1)
    # The overshoot is part of the method, as is 1e-4 that keeps steps from vanishing.
    smallest = linear.smallest("l2") + 1e-4
    np.testing.assert_allclose(lengths, 1.02 * smallest, rtol=1e-4)


@pytest.mark.parametrize("classes", [2, 5])
def test_carlini_and_wagner_find_the_smallest_change(classes):
    linear = Linear(classes)
    attack = attacks.CarliniWagner(steps=300, searches=8, learning_rate=0.002)
    found = attack(linear.attacked(), linear.images, linear.labels, linear.keys)
    assert np.all(found.success)
    lengths = np.linalg.norm(flat_changes(found, linear), axis=1)
    smallest = linear.smallest("l2")
    assert np.all(lengths > 0.999 * smallest)
    assert np.all(lengths < 1.02 * smallest)


@pytest.mark.parametrize("targeted", [False, True])
def test_targets_are_reached_and_labels_left(targeted):
    linear = Linear(4)
    labels = (linear.labels + int(targeted)) % 4
    attacked = linear.attacked("cross_entropy", targeted=targeted)
    for attack in (attacks.pgd("l2"), attacks.CarliniWagner(steps=100, searches=6)):
        bounded = () if isinstance(attack, attacks.CarliniWagner) else (jnp.float32(4),)
        found = attack(attacked, linear.images, labels, linear.keys, *bounded)
        predictions = np.argmax(linear.scores(found.images), axis=1)
        assert np.all(found.success)
        assert np.all((predictions == labels) == targeted)


def test_deepfool_has_no_targets():
    linear = Linear()
    with pytest.raises(ValueError, match="no targets"):
        attacks.DeepFool()(
            linear.attacked(targeted=True), linear.images, linear.labels, linear.keys
        )


@pytest.mark.parametrize("norm", NORMS)
def test_noise_is_far_weaker_than_gradients(norm):
    linear = Linear(count=40)
    radius = jnp.float32(1.02 * np.median(linear.smallest(norm)))
    arguments = (linear.images, linear.labels, linear.keys, radius)
    noise = attacks.Noise(norm, 20)(linear.attacked(), *arguments)
    pgd = attacks.pgd(norm)(linear.attacked(), *arguments)
    assert np.mean(pgd.success) >= 0.5
    assert np.mean(noise.success) < 0.5 * np.mean(pgd.success)


def test_the_square_attack_comes_near_the_optimum_without_gradients():
    linear = Linear()
    smallest = linear.smallest("linf")
    attacked = linear.attacked("margin")
    attack = attacks.Square(300)
    for factor, wanted in ((0.98, False), (1.6, True)):
        for i, radius in enumerate(factor * smallest):
            one = slice(i, i + 1)
            found = attack(
                attacked,
                linear.images[one],
                linear.labels[one],
                linear.keys[one],
                jnp.float32(radius),
            )
            assert bool(found.success[0]) == wanted


def test_every_pixel_is_the_optimum_and_evolution_never_beats_it():
    linear = Linear(count=4)
    attacked = linear.attacked("margin")
    arguments = (linear.images, linear.labels, linear.keys)
    exact = attacks.EveryPixel((0.0, 1.0))(attacked, *arguments)
    evolved = attacks.FewPixels(1, population=60, generations=30)(attacked, *arguments)
    _, normals = linear.boundaries()
    flat = np.asarray(linear.images).reshape(4, -1)
    # One pixel to 0 or 1, the one that helps most.
    gains = np.maximum(-flat * normals[:, 0], (1 - flat) * normals[:, 0])
    best = gains.max(axis=1)
    for found, tolerance in ((exact, 1e-5), (evolved, 0.02)):
        gained = np.sum(flat_changes(found, linear) * normals[:, 0], axis=1)
        assert np.all(np.sum(flat_changes(found, linear) != 0, axis=1) == 1)
        kept = ~np.asarray(found.success)
        assert np.all(gained <= best * (1 + 1e-5) + 1e-6)
        np.testing.assert_allclose(gained[kept], best[kept], rtol=tolerance)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [2, 3])
def test_momentum_matters_only_where_gradients_turn(classes, norm):
    linear, radius = Linear(classes), jnp.float32(0.3)
    arguments = (linear.images, linear.labels, linear.keys, radius)
    plain = attacks.ProjectedGradient(norm, 5, 0.2, random_start=False)
    moved = attacks.ProjectedGradient(norm, 5, 0.2, random_start=False, momentum=1.0)
    # Both keep their last images: they never succeed.
    never = dataclasses.replace(
        linear.attacked(), evades=lambda _, images: jnp.zeros(len(images), bool)
    )
    first, second = (x(never, *arguments).images for x in (plain, moved))
    apart = float(jnp.max(balls.distances(first, second, norm)))
    assert (apart < 1e-6) == (classes == 2)


@pytest.mark.parametrize(
    "attack",
    [
        attacks.pgd(steps=4),
        attacks.pgd("l2", steps=20),
        attacks.mi_fgsm(steps=4),
        attacks.Noise(draws=4),
        attacks.Square(5),
        attacks.DeepFool(steps=3),
        attacks.CarliniWagner(steps=3, searches=3),
    ],
    ids=lambda attack: type(attack).__name__,
)
def test_loops_on_the_host_and_in_a_program_find_the_same(attack):
    linear = Linear(4)
    radius = jnp.float32(np.median(linear.smallest("linf")))
    attacked = linear.attacked("margin")
    given = (linear.images, linear.labels, linear.keys, radius)
    on_host = attack(attacked, *given)
    in_program = jax.jit(lambda *given: attack(attacked, *given))(*given)
    np.testing.assert_array_equal(on_host.success, in_program.success)
    np.testing.assert_allclose(on_host.images, in_program.images, atol=1e-6)
    assert on_host.trace.shape == in_program.trace.shape


def test_a_step_is_compiled_once_for_all_batches_and_radii():
    linear, calls = Linear(4), []

    def scores(_, images):
        calls.append(images.shape)  # While a program is traced, and never again.
        return linear.scores(images)

    attacked = linear.attacked("margin").replace(scores=scores)
    attack = attacks.pgd(steps=5)
    given = (linear.images, linear.labels, linear.keys)
    attack(attacked, *given, jnp.float32(0.1))
    before = len(calls)
    images, labels, keys = (x[::-1] for x in given)
    attack(attacked, images, labels, keys, jnp.float32(0.2))
    assert len(calls) == before > 0
