"""Preprocessing and augmentation of images, inside jit.

Functions of one image take float32 [H, W, C] with values in [0, 1] and a key;
`for_training` and `for_evaluation` apply what a config asks for to a batch.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt8

from capsjax.config import Config, Preprocess
from capsjax.errors import UserError
from capsjax.training import elastic, geometry, handwriting

Image = Float[Array, "H W C"]
Patch = Float[Array, "h w C"]


def for_training(
    images: UInt8[Array, "B H W C"], keys: Key[Array, " B"], config: Config
) -> Float[Array, "B h w C"]:
    """Preprocesses and augments training images for the model.

    Args:
        images: pixels 0 .. 255.
        keys: random keys, one for each example.
        config: the run's config, of which ``preprocess`` and ``augment`` are used.

    Returns:
        float32 in [0, 1], unless brightness, contrast or standardisation leave it.
    """
    return normalized(augmented(images, keys, config), config.preprocess)


def augmented(
    images: UInt8[Array, "B H W C"], keys: Key[Array, " B"], config: Config
) -> Float[Array, "B h w C"]:
    """Images as in `for_training`, before means and deviations are taken out."""
    augment, crop = config.augment, config.preprocess.crop
    moves = {name: getattr(augment, name) for name in ("rotation", "scale", "shear")}
    moves_images = moves != {"rotation": 0.0, "scale": (1.0, 1.0), "shear": 0.0}

    def colors(image: Image, keys: Array) -> Image:
        if augment.brightness:
            image = random_brightness(image, keys[2], augment.brightness)
        if tuple(augment.contrast) != (1.0, 1.0):
            image = random_contrast(image, keys[3], *augment.contrast)
        return image

    def one(image: Image, key: Array) -> Patch:
        # The number of keys must not change, so that later versions repeat a run: any
        # further draw takes fold_in(key, 13), 14, ...; 5 to 7 and 10 to 12 are taken.
        keys = jax.random.split(key, 5)
        if augment.colors_before_crop:
            image = colors(image, keys)
        if moves_images:
            image = random_affine(image, jax.random.fold_in(key, 5), **moves)
        if augment.elastic.alpha:
            own = jax.random.fold_in(key, 7)
            image = elastic.distort(
                image, own, sigma=augment.elastic.sigma, alpha=augment.elastic.alpha
            )
        if augment.handwriting:
            image = handwriting.augment(image, jax.random.fold_in(key, 6))
        if crop:
            image = random_crop(image, keys[0], crop)
        if augment.flip:
            image = random_flip(image, keys[1])
        if not augment.colors_before_crop:
            image = colors(image, keys)
        if augment.shift:
            image = random_shift(image, keys[4], augment.shift)
        if augment.cutout:
            image = cutout(image, jax.random.fold_in(key, 10), augment.cutout)
        return image

    return jax.vmap(one)(to_unit_range(images), keys)


def for_evaluation(
    images: UInt8[Array, "B H W C"], config: Config
) -> Float[Array, "B h w C"]:
    """Preprocesses evaluation images for the model; they are never augmented."""
    return preprocessed(to_unit_range(images), config)


def preprocessed(
    images: Float[Array, "B H W C"], config: Config
) -> Float[Array, "B h w C"]:
    """Preprocesses images in [0, 1] as evaluation images are, differentiably."""

    def one(image: Image) -> Patch:
        if config.preprocess.crop:
            image = central_crop(image, config.preprocess.crop)
        return _normalized(image, config.preprocess)

    return jax.vmap(one)(images)


def targets(batch: Mapping[str, Array], seen: Array) -> Array:
    """Returns the decoder's targets: the images that the model sees, or their parts.

    Args:
        batch: batch with "parts" uint8 [B, K, H, W, C], if images consist of parts.
        seen: images that the model sees, float32 [B, h, w, C].

    Returns:
        float32 [B, h, w, C], or [B, K, H, W, C] in [0, 1].
    """
    return to_unit_range(batch["parts"]) if "parts" in batch else seen


def output_shape(
    image_shape: tuple[int, int, int], config: Config
) -> tuple[int, int, int]:
    """Returns the shape (H, W, C) of the images that the model sees.

    Raises:
        UserError: the crop is larger than the images, or the channels are not those of
            the means and standard deviations.
    """
    H, W, C = image_shape
    for name in ("channel_mean", "channel_std"):
        numbers = getattr(config.preprocess, name)
        if len(numbers) not in (0, C):
            raise UserError(
                f"config.preprocess.{name} has {len(numbers)} numbers, but the images "
                f"have {C} channels"
            )
    crop = config.preprocess.crop
    if crop > min(H, W):
        raise UserError(
            f"config.preprocess.crop is {crop}, but the images have {H}x{W} pixels"
        )
    return (crop, crop, C) if crop else (H, W, C)


def to_unit_range(images: UInt8[Array, "*n"]) -> Float[Array, "*n"]:
    """Converts 0 .. 255 to float32 in [0, 1]."""
    return images.astype(jnp.float32) / 255


def random_shift(image: Image, key: Array, most: int) -> Image:
    """Moves the image by up to ``most`` pixels along each axis, filling with zeros.

    All ``(2 * most + 1) ** 2`` shifts are equally likely. The single row of a signal
    stays where it is.
    """
    margins = [most if size > 1 else 0 for size in image.shape[:2]]
    padded = jnp.pad(image, [*((margin, margin) for margin in margins), (0, 0)])
    row, column = jax.random.randint(key, (2,), 0, 2 * most + 1)
    starts = (row if margins[0] else 0, column if margins[1] else 0, 0)
    return jax.lax.dynamic_slice(padded, starts, image.shape)


def random_affine(
    image: Image,
    key: Array,
    *,
    rotation: float,
    scale: tuple[float, float],
    shear: float,
) -> Image:
    """Scales, then shears, then rotates the image about its centre, zero fill.

    Each amount is drawn uniformly from its range.

    Args:
        image: image of any size; the size does not change.
        key: the image's random key.
        rotation: largest angle either way, in degrees.
        scale: smallest and largest factor, drawn for rows and columns separately.
        shear: largest shear either way, see `geometry.affine_matrix`.
    """
    keys = jax.random.split(key, 3)
    angle = jax.random.uniform(keys[0], minval=-rotation, maxval=rotation)
    factors = jax.random.uniform(keys[1], (2,), minval=scale[0], maxval=scale[1])
    slope = jax.random.uniform(keys[2], minval=-shear, maxval=shear)
    return geometry.affine(image, geometry.affine_matrix(angle, factors, slope))


def random_crop(image: Image, key: Array, side: int) -> Patch:
    """Cuts a square patch of ``side`` pixels from a random place."""
    H, W, C = image.shape
    limits = jnp.array([H - side + 1, W - side + 1])
    row, column = jax.random.randint(key, (2,), 0, limits)
    return jax.lax.dynamic_slice(image, (row, column, 0), (side, side, C))


def central_crop(image: Image, side: int) -> Patch:
    """Cuts the square patch of ``side`` pixels from the middle of the image."""
    row, column = ((size - side) // 2 for size in image.shape[:2])
    return image[row : row + side, column : column + side]


def random_flip(image: Image, key: Array) -> Image:
    """Mirrors the image left to right, half of the time."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def random_brightness(image: Image, key: Array, most: float) -> Image:
    """Adds one number from [-most, most) to the whole image."""
    return image + jax.random.uniform(key, minval=-most, maxval=most)


def random_contrast(image: Image, key: Array, low: float, high: float) -> Image:
    """Scales the distance to each channel's mean by a factor from [low, high)."""
    factor = jax.random.uniform(key, minval=low, maxval=high)
    mean = jnp.mean(image, axis=(0, 1), keepdims=True)
    return (image - mean) * factor + mean


def cutout(image: Patch, key: Array, side: int) -> Patch:
    """Sets a square to zero whose centre is any pixel; it may be cut off by the edge.

    References:
        DeVries and Taylor 2017, "Improved Regularization of Convolutional Neural
        Networks with Cutout".
    """
    inside = []
    for size, own in zip(image.shape[:2], jax.random.split(key), strict=True):
        start = jax.random.randint(own, (), 0, size) - side // 2
        pixels = jnp.arange(size)
        inside.append((pixels >= start) & (pixels < start + side))
    square = inside[0][:, None, None] & inside[1][None, :, None]
    return jnp.where(square, 0.0, image)


def mixup(
    images: Float[Array, "B h w C"], keys: Key[Array, " B"], alpha: float
) -> tuple[Float[Array, "B h w C"], Float[Array, " B"]]:
    """Mixes the images of each pair: first with second, third with fourth, and so on.

    Pairs are neighbours, so that the devices that share a batch keep them whole.

    Args:
        images: images of one device.
        keys: random keys, one for each example.
        alpha: both parameters of the beta distribution of the shares.

    Returns:
        ``share * image + (1 - share) * partner``, and the share of each image itself.

    Raises:
        UserError: the number of images is odd.

    References:
        Zhang, Cisse, Dauphin and Lopez-Paz 2018, "mixup: Beyond Empirical Risk
        Minimization", who mix an image with any other of the batch.
    """
    if len(images) % 2:
        raise UserError(
            f"config.augment.mixup mixes pairs, but a device has {len(images)} images "
            "of each batch; set config.batch_size to a multiple of twice the devices"
        )
    firsts = jax.vmap(jax.random.fold_in, (0, None))(keys[::2], 11)
    shares = jax.vmap(lambda key: jax.random.beta(key, alpha, alpha))(firsts)
    shares = jnp.repeat(shares, 2)
    own = shares[:, None, None, None]
    return own * images + (1 - own) * partners(images), shares


def partners(values: Array) -> Array:
    """The value of each example's partner in its pair, see `mixup`."""
    pairs = values.reshape(-1, 2, *values.shape[1:])
    return pairs[:, ::-1].reshape(values.shape)


def normalized(
    images: Float[Array, "B h w C"], preprocess: Preprocess
) -> Float[Array, "B h w C"]:
    """Images in [0, 1] with the means and deviations that the model expects."""
    return jax.vmap(lambda image: _normalized(image, preprocess))(images)


def is_random(config: Config) -> bool:
    """Whether training images are drawn, so that one image has several views."""
    augment = config.augment
    drawn = (
        config.preprocess.crop,
        augment.rotation,
        tuple(augment.scale) != (1.0, 1.0),
        augment.shear,
        augment.shift,
        augment.flip,
        augment.brightness,
        tuple(augment.contrast) != (1.0, 1.0),
        augment.handwriting,
        augment.elastic.alpha,
        augment.cutout,
    )
    return any(drawn)


def _normalized(image: Patch, preprocess: Preprocess) -> Patch:
    if preprocess.channel_mean:
        image = image - jnp.array(preprocess.channel_mean)[None, None]
    if preprocess.channel_std:
        image = image / jnp.array(preprocess.channel_std)[None, None]
    return standardize(image) if preprocess.standardize else image


def standardize(image: Image) -> Image:
    """Zero mean and unit standard deviation over the whole image.

    The divisor is at least that of an image in which one byte of one pixel differs by
    one, so that a constant image becomes zeros.
    """
    least = 1 / (255 * image.size**0.5)
    # A constant image becomes exactly zero, however its mean would be rounded.
    image = image - image[:1, :1, :1]
    return (image - jnp.mean(image)) / jnp.maximum(jnp.std(image), least)
