"""Operations, bytes and communication of a function, counted from its jaxpr.

XLA's own count takes the body of a loop once, however often it runs, so that it misses
most of a network that maps over blocks of examples. Here loops count as often as they
run. What is counted does not depend on a device: what a fused program may leave out is
left out.

Products with the zeros of padding and dilation do not count, as in XLA.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

_PRODUCTS = ("dot_general", "conv_general_dilated")
_REDUCED = ("psum", "psum_invariant")
# Of these, one argument is the function that is called and the others are its rules.
_WITH_RULES = ("custom_vjp_call", "custom_jvp_call")


@dataclasses.dataclass
class Operations:
    """What one call of a function does, on one of the devices that share its work.

    Attributes:
        products: multiplications and additions of matrix products and convolutions.
        elementwise: numbers that all other operations on floats make, one operation
            each.
        product_bytes: bytes that products read and write, each array once a product.
        reduced_bytes: bytes that are summed up over the devices.
    """

    products: float = 0.0
    elementwise: float = 0.0
    product_bytes: float = 0.0
    reduced_bytes: float = 0.0

    def add(self, other: "Operations", times: float = 1.0) -> None:
        """Adds what another function does, some times."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name) + times * getattr(other, field.name)
            setattr(self, field.name, value)


def count(function: Callable[..., Any], *arguments: Any) -> Operations:
    """Counts the operations of a call.

    Args:
        function: the function, compiled or not.
        arguments: arrays or their `jax.ShapeDtypeStruct`, in trees.

    Raises:
        ValueError: a loop runs until a condition holds, so that nobody knows how often.
    """
    return _of(jax.make_jaxpr(function)(*arguments).jaxpr)[0]


def _of(
    jaxpr: core.Jaxpr, used: Sequence[bool] | None = None
) -> tuple[Operations, list[bool]]:
    """Counts a jaxpr without the equations whose results nobody uses.

    Gradients of platforms' branches compute results again that are not used; compilers
    leave them out.

    Args:
        jaxpr: the jaxpr.
        used: whether each of its results is used; None for all of them.

    Returns:
        The operations, and whether each argument is used.
    """
    found = Operations()
    platforms = _telling_platforms(jaxpr)
    used = [True] * len(jaxpr.outvars) if used is None else used
    needed = {
        one
        for one, wanted in zip(jaxpr.outvars, used, strict=True)
        if wanted and not isinstance(one, core.Literal)
    }
    for equation in reversed(jaxpr.eqns):
        wanted = [one in needed for one in equation.outvars]
        if not any(wanted):
            continue
        name, parameters = equation.primitive.name, equation.params
        takes = [True] * len(equation.invars)
        if name == "scan":
            # What a turn hands to the next is used there, if not at the end.
            found.add(_of(parameters["jaxpr"].jaxpr)[0], parameters["length"])
        elif name == "while":
            raise ValueError("a loop runs until a condition holds: it has no count")
        elif name == "cond":
            branches = [_of(one.jaxpr, wanted) for one in parameters["branches"]]
            if equation.invars[0] in platforms:
                # The last one is that of any platform which has none of its own.
                chosen, takes[1:] = branches[-1]
            else:
                chosen = max(
                    (one for one, _ in branches),
                    key=lambda one: one.products + one.elementwise,
                )
            found.add(chosen)
        elif inner := [*_inner(equation)]:
            for one in inner[: 1 if name in _WITH_RULES else None]:
                whole = len(one.outvars) != len(wanted)
                inside, taken = _of(one, None if whole else wanted)
                found.add(inside)
                if len(taken) == len(takes):
                    takes = taken
        else:
            found.add(_of_equation(equation))
        needed |= {
            one
            for one, taken in zip(equation.invars, takes, strict=True)
            if taken and not isinstance(one, core.Literal)
        }
    return found, [one in needed for one in jaxpr.invars]


def _telling_platforms(jaxpr: core.Jaxpr) -> set[Any]:
    """Variables that tell the platform for which a program is compiled."""
    telling: set[Any] = set()
    for equation in jaxpr.eqns:
        arguments = {
            one for one in equation.invars if not isinstance(one, core.Literal)
        }
        name = equation.primitive.name
        if name == "platform_index" or (name != "cond" and arguments & telling):
            telling |= {*equation.outvars}
    return telling


def _inner(equation: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    for value in equation.params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, core.ClosedJaxpr):
                yield one.jaxpr
            elif isinstance(one, core.Jaxpr):
                yield one


def _of_equation(equation: core.JaxprEqn) -> Operations:
    name = equation.primitive.name
    inputs: list[Any] = [variable.aval for variable in equation.invars]
    outputs: list[Any] = [variable.aval for variable in equation.outvars]
    if name in _PRODUCTS:
        of = _of_dot if name == "dot_general" else _of_convolution
        return Operations(
            products=of(equation),
            product_bytes=sum(map(_bytes, (*inputs, *outputs))),
        )
    if name in _REDUCED:
        return Operations(reduced_bytes=sum(map(_bytes, inputs)))
    floats = [one for one in outputs if jnp.issubdtype(one.dtype, jnp.floating)]
    return Operations(elementwise=sum(math.prod(one.shape) for one in floats))


def _bytes(aval: Any) -> int:
    return math.prod(aval.shape) * aval.dtype.itemsize


def _shapes(*variables: Any) -> list[tuple[int, ...]]:
    return [variable.aval.shape for variable in variables]


def _of_dot(equation: core.JaxprEqn) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape, result = _shapes(equation.invars[0], equation.outvars[0])
    summed = math.prod(shape[axis] for axis in contracted)
    return 2 * summed * math.prod(result)


def _of_convolution(equation: core.JaxprEqn) -> float:
    parameters = equation.params
    numbers = parameters["dimension_numbers"]
    image, kernel, result = _shapes(*equation.invars, *equation.outvars)
    met = 1
    for axis, sizes in enumerate(
        zip(
            (image[i] for i in numbers.lhs_spec[2:]),
            (kernel[i] for i in numbers.rhs_spec[2:]),
            (result[i] for i in numbers.out_spec[2:]),
            strict=True,
        )
    ):
        met *= _met(
            *sizes,
            stride=parameters["window_strides"][axis],
            before=parameters["padding"][axis][0],
            image_dilation=parameters["lhs_dilation"][axis],
            kernel_dilation=parameters["rhs_dilation"][axis],
        )
    features = result[numbers.out_spec[1]] * kernel[numbers.rhs_spec[1]]
    return 2 * met * features * result[numbers.out_spec[0]]


def _met(
    image: int,
    kernel: int,
    result: int,
    *,
    stride: int,
    before: int,
    image_dilation: int,
    kernel_dilation: int,
) -> int:
    """Pairs of a place in the result and one in the kernel that meet a pixel."""
    places = (
        stride * i + kernel_dilation * j - before
        for i, j in itertools.product(range(result), range(kernel))
    )
    return sum(
        not place % image_dilation and 0 <= place // image_dilation < image
        for place in places
    )
