"""How much of the image each layer of a network sees, and with how many parameters.

One place of layer l sees ``r_l = r_(l-1) + (k_l - 1) * j_(l-1)`` pixels along an axis,
where k is the size of the layer's window and j the product of the strides before it.
Two layers of 3x3 kernels see what one of 5x5 sees, with 18 weights in place of 25, and
three what one of 7x7 sees, with 27 in place of 49.

References:
    Saitoh 2016, "Deep Learning from Scratch", section 8.1.3; Simonyan and Zisserman
    2015, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2.3.
"""

from collections.abc import Sequence
from typing import NamedTuple

from capsjax.analyses.layer_graph import Node
from capsjax.runs import results
from capsjax.runs.results import Row


class Field(NamedTuple):
    """What one place of a layer's output sees.

    Attributes:
        size: pixels along both axes, also those outside of the image; None for all.
        stride: pixels of the image between neighbouring places.
    """

    size: int | None
    stride: int


_PIXEL = Field(1, 1)
_ALL = Field(None, 1)


def fields(nodes: Sequence[Node]) -> list[Field]:
    """The receptive field of each layer; nodes are those of `layer_graph.trace`."""
    found: list[Field] = []
    for node in nodes:
        below = [found[number] for number in node.before] or [_PIXEL]
        sizes = [field.size for field in below if field.size is not None]
        if node.window is None or len(sizes) < len(below):
            found.append(_ALL)
            continue
        stride = max(field.stride for field in below)
        size = max(sizes) + (node.window.size - 1) * stride
        found.append(Field(size, stride * node.window.stride))
    return found


def stack_weights(layers: int) -> tuple[int, int]:
    """Weights of that many 3x3 layers and of one that sees as much, for one channel."""
    return 9 * layers, (2 * layers + 1) ** 2


def rows(nodes: Sequence[Node]) -> list[Row]:
    """A row for each layer."""
    found = []
    for node, field in zip(nodes, fields(nodes), strict=True):
        window = node.window
        columns = {
            "layer": node.name,
            "kind": node.kind,
            "window": window.size if window else None,
            "stride": window.stride if window else None,
            "sees_pixels": field.size or "all",
            "output": "x".join(map(str, (*node.size_out, node.channels))),
            "parameters": node.parameters,
        }
        found.append(results.as_row(columns))
    return found


def stacks() -> list[Row]:
    """Stacks of one to five 3x3 layers beside the large kernel that sees as much."""
    found = []
    for layers in range(1, 6):
        small, large = stack_weights(layers)
        columns = {
            "3x3 layers": layers,
            "sees": f"{2 * layers + 1}x{2 * layers + 1}",
            "weights": small,
            "weights of one large kernel": large,
            "ratio": round(small / large, 3),
        }
        found.append(results.as_row(columns))
    return found
