"""Our attacks beside Foolbox's on the same network: as strong, and as near."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from capsjax import attacks
from capsjax.attacks import Attacked, balls, objectives
from capsjax.losses import cross_entropy

COUNT = 16


@pytest.fixture(scope="module")
def foolbox():
    with pytest.MonkeyPatch.context() as patch:
        # It still imports from modules that SciPy has renamed.
        patch.setattr("warnings.warn", lambda *_, **__: None)
        return pytest.importorskip("foolbox", reason="Foolbox is not installed")


@pytest.fixture(scope="module")
def trained():
    """A small network on the digits, trained by plain gradient descent."""
    digits = load_digits()
    images = jnp.asarray(digits.images[..., None] / 16, jnp.float32)
    labels = jnp.asarray(digits.target, jnp.int32)
    first, second = jax.random.split(jax.random.key(0))
    params = (
        jax.random.normal(first, (64, 32)) / 8,
        jax.random.normal(second, (32, 10)) / 6,
    )

    def scores(params, images):
        hidden = jnp.tanh(images.reshape(len(images), -1) @ params[0])
        return hidden @ params[1]

    def loss(params):
        return jnp.mean(objectives.cross_entropy(scores(params, images), labels))

    @jax.jit
    def descend(params):
        def step(params, _):
            gradients = jax.grad(loss)(params)
            return jax.tree.map(lambda p, g: p - 0.5 * g, params, gradients), None

        return jax.lax.scan(step, params, length=300)[0]

    params = descend(params)
    right = jnp.argmax(scores(params, images), axis=1) == labels
    chosen = np.flatnonzero(right)[:COUNT]
    return lambda x: scores(params, x), images[chosen], labels[chosen]


def ours(attack, trained, *radius):
    scores, images, labels = trained
    objective = objectives.of_name("cross_entropy", "logits", cross_entropy.Softmax())
    attacked = Attacked(lambda _, images: scores(images), objective)
    keys = jax.random.split(jax.random.key(1), COUNT)
    return attack(attacked, images, labels, keys, *radius)


def theirs(foolbox, attack, trained, epsilons):
    scores, images, labels = trained
    import eagerpy

    model = foolbox.JAXModel(scores, bounds=(0, 1))
    inputs = (eagerpy.astensor(images), eagerpy.astensor(labels))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        _, clipped, success = attack(model, *inputs, epsilons=epsilons)
    return np.asarray(clipped.raw), np.asarray(success.raw)


@pytest.mark.parametrize("radius", [0.08, 0.12])
def test_fgsm_finds_the_same_images(foolbox, trained, radius):
    attack = foolbox.attacks.LinfFastGradientAttack()
    images, success = theirs(foolbox, attack, trained, radius)
    found = ours(attacks.fgsm(), trained, jnp.float32(radius))
    assert 0 < success.sum() < COUNT
    np.testing.assert_array_equal(found.success, success)
    # Ours keeps the image itself where the step does not raise the objective.
    np.testing.assert_allclose(
        np.asarray(found.images)[success], images[success], atol=1e-6
    )


@pytest.mark.parametrize("norm", balls.NORMS)
def test_steps_within_a_ball_succeed_as_often(foolbox, trained, norm):
    radius = {"linf": 0.08, "l2": 0.5}[norm]
    attack = {
        "linf": foolbox.attacks.LinfBasicIterativeAttack,
        "l2": foolbox.attacks.L2BasicIterativeAttack,
    }[norm](rel_stepsize=2.5 / 20, steps=20)
    _, success = theirs(foolbox, attack, trained, radius)
    found = ours(attacks.bim(norm, 20), trained, jnp.float32(radius))
    assert 0 < success.sum() < COUNT
    assert np.all(found.success >= success)


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("L2DeepFoolAttack", attacks.DeepFool()),
        ("L2CarliniWagnerAttack", attacks.CarliniWagner(50, 3, 0.1, first=1.0)),
    ],
)
def test_changes_are_as_small(foolbox, trained, name, own):
    settings = (
        {"steps": 50, "binary_search_steps": 3, "initial_const": 1.0, "stepsize": 0.1}
        if "Carlini" in name
        else {}
    )
    attack = getattr(foolbox.attacks, name)(**settings)
    images, success = theirs(foolbox, attack, trained, None)
    found = ours(own, trained)
    assert np.all(success)
    assert np.all(found.success)
    lengths = balls.distances(found.images, trained[1], "l2")
    other = balls.distances(jnp.asarray(images), trained[1], "l2")
    assert np.median(lengths) <= 1.05 * np.median(other)
