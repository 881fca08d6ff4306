"""What each layer of a network receives and gives, without the network's help.

A layer here is a module with variables of its own, such as a convolution, a
normalisation or a layer of capsules, or a function that `layer_function` marks, such as
pooling. Modules that only hold others are none. In the context of `intercepted`, each
call of a layer goes through a function of the caller's, which may note it, change it or
time it.

Python looks up ``__call__`` in the class, so the classes of the network's layers are
changed for as long as the context lasts. Flax's ``nnx.capture`` would do without, but
it keeps the outputs of modules alone: layers are timed with their inputs, and pooling
is a function.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from flax import nnx


class Window(NamedTuple):
    """The part of its input that one place of a layer's output sees.

    Attributes:
        size: places along both axes.
        stride: places between the windows of neighbours.
    """

    size: int
    stride: int


class Call(NamedTuple):
    """A call of a layer.

    Attributes:
        name: path of the module in the network, such as ``"blocks.0.conv1"``, or name
            of the function.
        layer: the module, or the function.
        method: name of the module's method that is called; empty for a function.
        arguments: positional arguments.
        keywords: the others.
    """

    name: str
    layer: nnx.Module | Callable[..., Any]
    method: str
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]

    def __call__(self) -> Any:
        """Makes the call, in which no layer is intercepted."""
        function = getattr(self.layer, self.method) if self.method else self.layer
        return function(*self.arguments, **self.keywords)

    @property
    def window(self) -> Window | None:
        """The layer's window, or None where it has none or does not tell."""
        found = getattr(self.layer, "receptive_window", None)
        if found is None or self.method:
            return found
        bound = inspect.signature(self.layer).bind(*self.arguments, **self.keywords)
        bound.apply_defaults()
        return found(bound.arguments)


Around = Callable[[Call], Any]

_around: list[Around] = []  # At most one; empty while a layer runs.


def layer_function[**P, R](
    window: Callable[[Mapping[str, Any]], Window],
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Marks a function without variables that is a layer of its own.

    Args:
        window: function from its arguments by name to its window.
    """

    def mark(function: Callable[P, R]) -> Callable[P, R]:
        function.receptive_window = window  # type: ignore[attr-defined]

        @functools.wraps(function)
        def call(*arguments: P.args, **keywords: P.kwargs) -> R:
            if not _around:
                return function(*arguments, **keywords)
            name = getattr(function, "__name__", "function")
            return _enter(Call(name, function, "", arguments, keywords))

        return call

    return mark


@contextlib.contextmanager
def intercepted(model: nnx.Module, around: Around) -> Iterator[None]:
    """Hands each call of a layer of ``model`` to ``around`` within the context.

    Args:
        model: a network.
        around: function of the call that returns its result, for which it makes the
            call.
    """
    if _around:
        raise ValueError("layers are intercepted already")
    layers = layers_of(model)
    names = {id(module): name for name, module in layers.items()}
    with contextlib.ExitStack() as stack:
        for layer_type in dict.fromkeys(map(type, layers.values())):
            for method in _methods(layer_type):
                stack.enter_context(_replaced(layer_type, method, names))
        _around.append(around)
        stack.callback(_around.clear)
        yield


def recorded(model: nnx.Module, function: Callable[[], Any]) -> list[tuple[Call, Any]]:
    """Calls a function, and returns the calls of the model's layers and their results.

    Args:
        model: a network.
        function: function that calls it.
    """
    calls: list[tuple[Call, Any]] = []

    def note(call: Call) -> Any:
        result = call()
        calls.append((call, result))
        return result

    with intercepted(model, note):
        function()
    return calls


def layers_of(model: nnx.Module) -> dict[str, nnx.Module]:
    """The modules in a network that are layers, by their paths."""
    return {
        ".".join(map(str, path)): module
        for path, module in nnx.iter_modules(model)
        if path and _is_layer(module)
    }


def _is_layer(module: nnx.Module) -> bool:
    return any(isinstance(value, nnx.Variable) for value in vars(module).values())


def _methods(layer_type: type) -> list[str]:
    """Names of the methods by which others enter a layer."""
    found = {
        name
        for base in layer_type.__mro__[: layer_type.__mro__.index(nnx.Module)]
        for name, value in vars(base).items()
        if inspect.isfunction(value)
        and (name == "__call__" or not name.startswith("_"))
    }
    return sorted(found)


@contextlib.contextmanager
def _replaced(
    layer_type: type, method: str, names: Mapping[int, str]
) -> Iterator[None]:
    own = vars(layer_type).get(method)
    original = getattr(layer_type, method)

    @functools.wraps(original)
    def call(self: nnx.Module, *arguments: Any, **keywords: Any) -> Any:
        if id(self) not in names or not _around:
            return original(self, *arguments, **keywords)
        return _enter(Call(names[id(self)], self, method, arguments, keywords))

    setattr(layer_type, method, call)
    try:
        yield
    finally:
        if own is None:
            delattr(layer_type, method)
        else:
            setattr(layer_type, method, own)


def _enter(call: Call) -> Any:
    """Hands a call to the function around it, within which no layer is intercepted."""
    around = _around.pop()
    try:
        return around(call)
    finally:
        _around.append(around)
