import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.attacks import balls

RADII = (1e-6, 0.003, 0.1, 0.3, 1.7)


def images(count=50, seed=0):
    rng = np.random.default_rng(seed)
    drawn = rng.uniform(size=(count, 5, 3, 2)).astype(np.float32)
    # Black and white pixels, and some next to them.
    drawn[0], drawn[1], drawn[2] = 0, 1, np.nextafter(np.float32(1), np.float32(0))
    return drawn


@pytest.mark.parametrize("radius", RADII)
@pytest.mark.parametrize("norm", balls.NORMS)
def test_projections_lie_in_the_ball_and_in_the_range_exactly(norm, radius):
    centres = images()
    rng = np.random.default_rng(1)
    anywhere = (centres + rng.normal(size=centres.shape) * 3).astype(np.float32)
    radius = np.float32(radius)
    found = jax.jit(balls.project, static_argnums=3)(anywhere, centres, radius, norm)
    changes = (np.asarray(found, np.float64) - centres).reshape(len(centres), -1)
    order = np.inf if norm == "linf" else 2
    # In float64, without any tolerance.
    assert np.linalg.norm(changes, order, axis=1).max() <= np.float64(radius)
    assert found.min() >= 0
    assert found.max() <= 1


@pytest.mark.parametrize("norm", balls.NORMS)
def test_points_of_the_ball_stay_where_they_are(norm):
    centres = jnp.asarray(images())
    inside = jnp.clip(centres + 0.001, 0, 1)
    found = balls.project(inside, centres, jnp.float32(0.5), norm)
    np.testing.assert_array_equal(found, inside)


def test_the_nearest_point_of_the_ball():
    centre = jnp.full((1, 1, 2, 1), 0.5)
    point = centre + jnp.array([0.3, 0.4]).reshape(1, 1, 2, 1)
    wanted = {"linf": (0.7, 0.7), "l2": (0.62, 0.66)}
    for norm in balls.NORMS:
        found = balls.project(point, centre, jnp.float32(0.2), norm)
        np.testing.assert_allclose(np.ravel(found), wanted[norm], rtol=2e-5)


@pytest.mark.parametrize("norm", balls.NORMS)
def test_random_points_fill_the_ball(norm):
    count, radius = 4_000, 0.2
    centres = jnp.full((count, 1, 2, 1), 0.5)
    keys = jax.random.split(jax.random.key(0), count)
    points = balls.random_points(centres, keys, jnp.float32(radius), norm)
    changes = np.asarray(points - centres).reshape(count, 2)
    lengths = np.linalg.norm(changes, np.inf if norm == "linf" else 2, axis=1)
    # In two dimensions a quarter of the points lies within half the radius.
    assert abs(np.mean(lengths < radius / 2) - 0.25) < 0.03
    assert np.abs(changes.mean(axis=0)).max() < 0.01


def test_steepest_changes_have_norm_one_and_none_without_a_gradient():
    gradients = np.array([[3e-30, -4e-30], [0, 0], [0, -2]], np.float32)
    gradients = gradients.reshape(3, 1, 2, 1)
    found = balls.steepest(jnp.asarray(gradients), "l2").reshape(3, 2)
    np.testing.assert_allclose(found, [[0.6, -0.8], [0.0, 0.0], [0.0, -1.0]], rtol=1e-6)
    found = balls.steepest(jnp.asarray(gradients), "linf").reshape(3, 2)
    np.testing.assert_array_equal(found, [[1, -1], [0, 0], [0, -1]])
