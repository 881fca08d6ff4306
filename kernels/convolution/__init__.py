"""Convolution, in forms that are fast on a CPU.

Import from here; the other files of this package are private to it.
"""

from kernels.convolution.api import Padding, convolve, output_size

__all__ = ["Padding", "convolve", "output_size"]
