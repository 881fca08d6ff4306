"""The blocks of network in network, and of networks of its form."""

from capsjax.errors import SettingsError
from capsjax.layers.pooling import pooled_size


def mlpconv_channels(
    channels: tuple[int, ...],
    kernel_sizes: tuple[int, ...],
    num_classes: int,
    image_shape: tuple[int, int, int],
) -> list[tuple[int, int, int]]:
    """The channels of the three convolutions of each block.

    Between the blocks, windows of 3x3 pixels are pooled with stride 2.

    Args:
        channels: those of all blocks, without the very last.
        kernel_sizes: one for each block.
        num_classes: channels of the very last convolution.
        image_shape: shape (H, W, C) of the images.

    Raises:
        SettingsError: the numbers of channels and kernels do not fit together, or the
            image is too small for the pooling.

    References:
        Lin, Chen and Yan 2014, "Network In Network".
    """
    if not kernel_sizes or len(channels) != 3 * len(kernel_sizes) - 1:
        raise SettingsError(
            f"{len(channels)} channels and {len(kernel_sizes)} kernel_sizes; give each "
            "block three channels and one kernel size, but the last two channels"
        )
    for size in image_shape[:2]:
        for _ in kernel_sizes[1:]:
            size = pooled_size(size, 3, 2, ceil=True)
    every = (*channels, num_classes)
    return list(zip(every[::3], every[1::3], every[2::3], strict=True))
