"""Hidden units find features by themselves: the tree detector of an explanation.

Images of 20 x 30 pixels with 3 channels are noise, on which two squares of 2 x 2,
where the crown and the trunk of a tree would be, are brighter or darker as a whole.
The features are the squares' means f1 and f2; a tree is where both are bright enough.
So the label needs both, and no line divides the classes.

The network has two hidden units without activation, which see all 1,800 numbers, and a
small head on top. If the units had a linear boundary above them, any mixture of f1 and
f2 would do as well, and even here it is the plane of both units that can be found, not
each feature: so it is the angles between planes that are measured.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.linalg
from jaxtyping import Array, Float, Int, Key
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures

SHAPE = (20, 30, 3)
SQUARES = ((slice(4, 6), slice(14, 16)), (slice(14, 16), slice(14, 16)))
"""Rows and columns of both squares."""

# f1 and f2 have a variance of 1 + 1/12, the mean of 12 numbers of noise being part of
# them; so 0.58 and 0.86 of them are above these, and half of all images are trees.
_LEAST = np.array([-0.2, -1.1], np.float32) * np.float32((1 + 1 / 12) ** 0.5)
_HEAD_UNITS = 16
_BATCH = 128
_RATE = 1e-3
_TEST_IMAGES = 5_000

_Params = dict[str, Array]


class Found(NamedTuple):
    """What a training has found.

    Attributes:
        images: number of training images.
        weight_decay: weight decay of the hidden units.
        seed: seed of images and parameters.
        angles: the two principal angles in degrees, ascending, between the plane of the
            hidden units' weights and that of the features; 90 is no relation at all.
        share: share of the absolute weights that lies inside the squares.
        error: test error of the network, in percent.
        handmade_error: that of a logistic regression on f1, f2 and their products.
        weights: [H, W, C, 2], of the hidden units.
    """

    images: int
    weight_decay: float
    seed: int
    angles: tuple[float, float]
    share: float
    error: float
    handmade_error: float
    weights: np.ndarray


def features() -> Float[np.ndarray, "D 2"]:
    """The features as linear functions of the D numbers of an image."""
    found = np.zeros((*SHAPE, 2), np.float32)
    for place, square in enumerate(SQUARES):
        found[(*square, slice(None), place)] = 1
    flat = found.reshape(-1, 2)
    return flat / flat.sum(axis=0)


def images(
    key: Key[Array, ""], count: int
) -> tuple[Float[Array, "N D"], Int[Array, " N"]]:
    """Images as rows, and their labels."""
    noise, brightness = jax.random.split(key)
    mask = jnp.asarray(features() > 0, jnp.float32)
    levels = jax.random.normal(brightness, (count, 2))
    x = jax.random.normal(noise, (count, mask.shape[0])) + levels @ mask.T
    f = x @ features()
    return x, jnp.all(f > _LEAST[None], axis=1).astype(jnp.int32)


def chance_share() -> float:
    """The share of weights inside the squares if they were spread evenly."""
    return float(np.mean(np.any(features() > 0, axis=1)))


def angles(weights: Float[np.ndarray, "D 2"]) -> tuple[float, float]:
    """Principal angles in degrees between the planes of weights and features."""
    found = np.degrees(scipy.linalg.subspace_angles(weights, features()))
    low, high = sorted(map(float, found))
    return low, high


def find(
    counts: Sequence[int],
    weight_decays: Sequence[float],
    seeds: int,
    *,
    steps: int,
    on_training: Callable[[int], None] = lambda count: None,
) -> list[Found]:
    """Trains a network for each combination, and measures what it has found.

    Args:
        counts: numbers of training images; those of a seed are nested.
        weight_decays: weight decays of the hidden units.
        seeds: trainings of each combination, with seeds from 0.
        steps: steps of each.
        on_training: called after some trainings with their number.
    """
    test_x, test_y = images(jax.random.key(1_000_000), _TEST_IMAGES)
    most = max(counts)
    keys = jax.random.split(jax.random.key(0), seeds)
    train_x, train_y = jax.vmap(lambda key: images(key, most))(keys)
    found = []
    for count, decay in itertools.product(counts, weight_decays):
        params = _train(keys, train_x[:, :count], train_y[:, :count], decay, steps)
        for seed in range(seeds):
            own = jax.tree.map(lambda x, seed=seed: x[seed], params)
            weights = np.asarray(own["units"])
            inside = np.any(features() > 0, axis=1)
            magnitude = np.abs(weights)
            wrong = (_logits(own, test_x) > 0) != (test_y == 1)
            found.append(
                Found(
                    count,
                    decay,
                    seed,
                    angles(weights),
                    float(magnitude[inside].sum() / magnitude.sum()),
                    100 * float(jnp.mean(wrong)),
                    _handmade_error(
                        np.asarray(train_x[seed, :count]),
                        np.asarray(train_y[seed, :count]),
                        np.asarray(test_x),
                        np.asarray(test_y),
                    ),
                    weights.reshape(*SHAPE, 2),
                )
            )
        on_training(seeds)
    return found


def _logits(params: _Params, x: Float[Array, "N D"]) -> Float[Array, " N"]:
    hidden = x @ params["units"]
    head = jnp.tanh(hidden @ params["head"] + params["head_bias"][None])
    return head @ params["out"] + params["out_bias"]


def _start(key: Key[Array, ""]) -> _Params:
    units, head, out = jax.random.split(key, 3)
    D = int(np.prod(SHAPE))
    return {
        "units": jax.random.normal(units, (D, 2)) / D**0.5,
        "head": jax.random.normal(head, (2, _HEAD_UNITS)),
        "head_bias": jnp.zeros(_HEAD_UNITS),
        "out": jax.random.normal(out, (_HEAD_UNITS,)) / _HEAD_UNITS**0.5,
        "out_bias": jnp.zeros(()),
    }


def _train(
    keys: Key[Array, " S"],
    x: Float[Array, "S N D"],
    y: Int[Array, "S N"],
    weight_decay: float,
    steps: int,
) -> _Params:
    """Parameters after training, with a leading axis of seeds."""
    tx = optax.adamw(
        optax.cosine_decay_schedule(_RATE, steps),
        weight_decay=weight_decay,
        mask={
            name: name == "units"
            for name in ("units", "head", "head_bias", "out", "out_bias")
        },
    )

    def loss(params: _Params, x: Array, y: Array) -> Array:
        logits = _logits(params, x)
        labels = y.astype(jnp.float32)
        return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, labels))

    def train(key: Array, x: Array, y: Array) -> _Params:
        start_key, batch_key = jax.random.split(jax.random.fold_in(key, 1))

        def step(state: tuple, key: Array) -> tuple[tuple, None]:
            params, opt_state = state
            chosen = jax.random.randint(key, (min(_BATCH, len(x)),), 0, len(x))
            gradient = jax.grad(loss)(params, x[chosen], y[chosen])
            # Optax raises floats to integer powers.
            with jax.numpy_dtype_promotion("standard"):
                updates, opt_state = tx.update(gradient, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), None

        params = _start(start_key)
        batches = jax.random.split(batch_key, steps)
        return jax.lax.scan(step, (params, tx.init(params)), batches)[0][0]

    # One seed after another: a batch of each is enough work for a CPU.
    return jax.jit(lambda *given: jax.lax.map(lambda one: train(*one), given))(
        keys, x, y
    )


def _handmade_error(
    x: np.ndarray, y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray
) -> float:
    """Test error in percent of a logistic regression on the features."""
    rival = make_pipeline(
        PolynomialFeatures(2, include_bias=False), LogisticRegression(max_iter=1_000)
    )
    rival.fit(x @ features(), y)
    return 100 * float(np.mean(rival.predict(test_x @ features()) != test_y))
