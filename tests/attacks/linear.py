"""A linear network, whose nearest boundary and worst change are known exactly."""

import jax
import jax.numpy as jnp
import numpy as np

from capsjax.attacks import Attacked, objectives
from capsjax.losses import cross_entropy

SHAPE = (4, 4, 1)


class Linear:
    """Scores ``W x + b`` of two classes; images lie near the middle of [0, 1]."""

    def __init__(self, classes=2, count=6, seed=0):
        rng = np.random.default_rng(seed)
        self.W = rng.normal(size=(classes, 16)).astype(np.float32)
        images = rng.uniform(0.4, 0.6, (count, *SHAPE)).astype(np.float32)
        flat = images.reshape(count, -1)
        self.b = -np.mean(flat @ self.W.T, axis=0)
        labels = np.argmax(flat @ self.W.T + self.b, axis=1).astype(np.int32)
        self.images, self.labels = jnp.asarray(images), jnp.asarray(labels)
        self.keys = jax.random.split(jax.random.key(seed), count)

    def scores(self, images):
        flat = images.reshape(len(images), -1)
        return jnp.sum(flat[:, None] * self.W[None], axis=2) + self.b[None]

    def attacked(self, name="cross_entropy", *, targeted=False):
        return Attacked(
            lambda _, images: self.scores(images),
            objectives.of_name(
                name, "logits", cross_entropy.Softmax(), targeted=targeted
            ),
            targeted=targeted,
        )

    def boundaries(self):
        """For each image and other class, the margin, and the boundary's normal."""
        flat = np.asarray(self.images, np.float64).reshape(len(self.images), -1)
        W, b = self.W.astype(np.float64), self.b.astype(np.float64)
        scores = flat @ W.T + b
        margins, normals = [], []
        for row, label in zip(scores, self.labels, strict=True):
            others = [j for j in range(len(W)) if j != label]
            margins.append([row[label] - row[j] for j in others])
            normals.append([W[j] - W[label] for j in others])
        return np.array(margins), np.array(normals)

    def smallest(self, norm):
        """Distance of each image to the nearest boundary."""
        margins, normals = self.boundaries()
        dual = 1 if norm == "linf" else 2
        return np.min(margins / np.linalg.norm(normals, dual, axis=2), axis=1)
