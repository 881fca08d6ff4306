"""Typed configs: each field declared once, with default, documentation and bounds.

A config is a dataclass that extends `Config`, with fields made by `field`. A *named*
config, such as a model's, is listed in a registry (name -> class); a field with a
``registry`` holds any one of them. Flags (`override`), help (`describe`), checks
(`check`) and the JSON form (`to_json`, `from_json`) all come from these declarations.

A config that an earlier version saved stays readable: fields added since then get their
default, or the value that `Meta.before` gives for such runs; renamed fields are found
by their former names (`Config.RENAMED`).
"""

import ast
import contextlib
import copy
import dataclasses
import difflib
import operator
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

from capsjax.errors import UserError

_META = "capsjax"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Meta:
    """Facts about a field besides its type and default.

    Attributes:
        doc: one line of documentation.
        at_least: smallest value, or None.
        above: bound that every value exceeds, or None.
        at_most: largest value, or None.
        choices: the only values; empty if there is no such list.
        registry: named configs of which the field holds one; empty for other fields.
        before: value for configs saved before the field existed; ``...`` for the
            field's default.
        may_change: whether a run may be resumed with another value.
        changes_result: whether runs that differ in this field alone are different
            experiments; repetitions, and runs that agree up to rounding, are not.
    """

    doc: str
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    choices: tuple[Any, ...] = ()
    registry: Mapping[str, type["Named"]] = dataclasses.field(default_factory=dict)
    before: Any = ...
    may_change: bool = False
    changes_result: bool = True


def field(default: Any, doc: str, **facts: Any) -> Any:
    """Declares a field of a config.

    Args:
        default: immutable value, or a function that makes a config.
        doc: one line of documentation.
        **facts: further attributes of `Meta`.
    """
    metadata = {_META: Meta(doc=doc, **facts)}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(kw_only=True, slots=True)
class Config:
    """Base class of all typed configs, which are dataclasses with these options.

    Attributes:
        RENAMED: dotted paths of fields, by their former paths.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {}

    def replace(self, **changes: Any) -> Self:
        """Returns a deep copy with some fields changed."""
        return dataclasses.replace(copy.deepcopy(self), **changes)


@dataclasses.dataclass(kw_only=True, slots=True)
class Named(Config):
    """Base class of the configs that are listed in a registry.

    Attributes:
        name: name in the registry.
        PRESETS: values of fields that belong together, by the name of the preset.
    """

    name: ClassVar[str] = ""
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @classmethod
    def preset(cls, preset: str, **changes: Any) -> Self:
        """Returns a preset's config, with some fields changed.

        Raises:
            ValueError: there is no such preset.
        """
        if preset not in cls.PRESETS:
            known = ", ".join(cls.PRESETS) or "none"
            raise ValueError(f"{cls.name} has no preset {preset!r}; known: {known}")
        return cls(**copy.deepcopy({**cls.PRESETS[preset], **changes}))


def walk(config: Config, prefix: str = "") -> Iterator[tuple[str, Any, Any, Meta]]:
    """Yields every field, each followed by the fields of the config that it holds.

    A field is its dotted path (after ``prefix``), value, annotated type and facts.
    """
    for name, own in _declared(config).items():
        value = getattr(config, name)
        yield f"{prefix}{name}", value, own.type, own.metadata[_META]
        if isinstance(value, Config):
            yield from walk(value, f"{prefix}{name}.")


def flatten(config: Config) -> dict[str, Any]:
    """Returns values by dotted path, with the names of named configs."""
    flat: dict[str, Any] = {}
    for path, value, _, _ in walk(config):
        if not isinstance(value, Config):
            flat[path] = value
        elif isinstance(value, Named):
            flat[f"{path}.name"] = value.name
    return flat


def facts(config: Config) -> dict[str, Meta]:
    """Returns the facts about every field, by dotted path."""
    return {path: meta for path, _, _, meta in walk(config)}


def describe(config: Config) -> str:
    """Returns all fields with their values and documentation, as terminal help."""
    lines = []
    for path, value, _, meta in walk(config):
        doc = meta.doc
        if choices := meta.choices or tuple(meta.registry):
            doc += f" One of {', '.join(map(str, choices))}."
        if isinstance(value, Named):
            lines.append(f"\n--config.{path}.name={value.name}")
        elif isinstance(value, Config):
            lines.append(f"\nconfig.{path}")
        elif isinstance(value, tuple):
            lines.append(f'--config.{path}="{value}"')
        else:
            text = str(value)
            is_word = isinstance(value, bool | None)
            lines.append(f"--config.{path}={text.lower() if is_word else text}")
        lines.append(f"    {doc}")
    return "\n".join(lines)


# Flags.


def override(config: Config, path: str, text: str) -> None:
    """Sets a field to a value given as text, as on a command line.

    ``PATH.name`` replaces a named config by another one of its registry; fields that
    both have keep their values.

    Args:
        config: the root; changed in place.
        path: dotted path of the field.
        text: the value: a number, a word, ``true`` or ``false``, ``none`` where None is
            allowed, or a tuple such as ``(256,128)``, ``256,128`` or ``()``.

    Raises:
        UserError: there is no such field, or the text is not a valid value.
    """
    holder, name, path = _find(config, path)
    if name == "name" and isinstance(holder, Named):
        parent, own_name, _ = _find(config, path.removesuffix(".name"))
        registry = _declared(parent)[own_name].metadata[_META].registry
        chosen = choose(registry, text, f"config.{path}")
        if chosen is not type(holder):
            shared = _declared(chosen).keys() & _declared(holder).keys()
            kept = {each: getattr(holder, each) for each in shared}
            setattr(parent, own_name, chosen(**kept))
        return
    if isinstance(held := getattr(holder, name), Config):
        fields = f"config.{path}.name" if isinstance(held, Named) else "its fields"
        raise UserError(f"config.{path} is not a value; set {fields} instead")
    wanted = _declared(holder)[name].type
    setattr(holder, name, _typed(_parse(text, wanted), wanted, f"config.{path}"))


def update(config: Config, changes: Mapping[str, Any]) -> None:
    """Sets fields by their dotted paths, such as ``{"model.class_dim": 8}``.

    Raises:
        UserError: there is no such field, or it is a name, which only comes with a
            config.
    """
    for path, value in changes.items():
        holder, name, _ = _find(config, path)
        if name == "name" and isinstance(holder, Named):
            raise UserError(f"{path} chooses a config; set that field to a config")
        setattr(holder, name, value)


def names_first(path: str) -> tuple[bool, int]:
    """Sort key for the paths of overrides, with those that choose fields first."""
    return not path.endswith(".name"), path.count(".")


def current_path(config: Config, path: str) -> str:
    """Returns the current path of a field, given its current or former path.

    Raises:
        UserError: there is no such field.
    """
    return _find(config, path)[2]


def choose(registry: Mapping[str, type[Named]], name: Any, what: str) -> type[Named]:
    """Returns the config class of a name.

    Raises:
        UserError: unknown name; suggests the closest one.
    """
    if not isinstance(name, str) or name not in registry:
        close = difflib.get_close_matches(str(name), registry, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UserError(f"unknown {what} {name!r}; {hint}known: {', '.join(registry)}")
    return registry[name]


def _declared(config: Config | type[Config]) -> dict[str, dataclasses.Field]:
    return {own.name: own for own in dataclasses.fields(config)}


def _find(config: Config, path: str) -> tuple[Config, str, str]:
    """Finds the config that holds a field, the field's name there and current path."""
    holder, before, rest = config, "", path
    while True:
        rest = holder.RENAMED.get(rest, rest)
        name, _, rest = rest.partition(".")
        own = _declared(holder)
        if not rest and (name in own or (name == "name" and isinstance(holder, Named))):
            return holder, name, f"{before}{name}"
        inner = getattr(holder, name) if name in own else None
        if not isinstance(inner, Config):
            break
        holder, before = inner, f"{before}{name}."
    known = {name: name for name in flatten(config)} | {
        f"{before}{old}": f"{before}{new}" for old, new in holder.RENAMED.items()
    }
    close = {known[name]: None for name in difflib.get_close_matches(path, known, n=3)}
    hint = f"it has {', '.join(known)}"
    if close:
        hint = f"did you mean {' or '.join(close)}?"
    raise UserError(f"the config has no field {path!r}; {hint}")


def _parse(text: str, wanted: Any) -> Any:
    """The value that a text represents, or the text itself."""
    words = {"true": True, "false": False, "none": None}
    with contextlib.suppress(SyntaxError, TypeError, ValueError):
        word = text.lower()
        value = words[word] if word in words else ast.literal_eval(text)
        return _convert(value, wanted)
    if wanted == tuple[str, ...]:
        return tuple(filter(None, map(str.strip, text.strip("()").split(","))))
    return text


def _typed(value: Any, wanted: Any, path: str) -> Any:
    """The value in an annotated type; raises UserError if it is of another type."""
    try:
        return _convert(value, wanted)
    except TypeError:
        words = _in_words(wanted)
        raise UserError(f"{path} is {value!r}; it must be {words}") from None


def _convert(value: Any, wanted: Any) -> Any:
    """Like `_typed`, with a TypeError; floats may be whole, and tuples be lists."""
    inner = typing.get_args(wanted)
    if isinstance(wanted, types.UnionType):
        for one in inner:
            with contextlib.suppress(TypeError):
                return _convert(value, one)
    elif typing.get_origin(wanted) is tuple and isinstance(value, list | tuple):
        kinds = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        if len(kinds) == len(value):
            return tuple(map(_convert, value, kinds))
    elif wanted in (int, float):  # In Python, True is an int.
        if type(value) in (int, wanted):
            return wanted(value)
    elif inner == () and isinstance(value, wanted):
        return value
    raise TypeError


def _in_words(wanted: Any) -> str:
    inner = typing.get_args(wanted)
    if isinstance(wanted, types.UnionType):
        return " or ".join(map(_in_words, inner))
    if typing.get_origin(wanted) is tuple:
        count = "" if inner[-1] is Ellipsis else f"{len(inner)} "
        if inner[0] is str:
            return "words such as a,b"
        if inner[0] is int:
            return f"{count}whole numbers such as (8,16)"
        return f"{count}numbers such as (0.5,1.5)"
    return {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "a word",
    }.get(wanted, "none")


# Checks.


def check(config: Config, where: str = "config") -> None:
    """Refuses values of another type than their field's, or outside its bounds.

    Args:
        config: config to check, with all configs in it.
        where: its path in the whole config, for the errors.

    Raises:
        UserError: names the first such field, its value, and the valid values.
    """
    for path, value, wanted, meta in walk(config, f"{where}."):
        if isinstance(value, Config):
            continue
        _typed(value, wanted, path)
        if meta.choices and value not in meta.choices:
            known = ", ".join(map(str, meta.choices))
            raise UserError(f"unknown {path} {value!r}; choose one of {known}")
        bounds = [
            (words, bound, holds)
            for words, bound, holds in (
                ("at least", meta.at_least, operator.ge),
                ("above", meta.above, operator.gt),
                ("at most", meta.at_most, operator.le),
            )
            if bound is not None and value is not None
        ]
        # NaN is out of any bounds. All values of a tuple must lie within them.
        values = value if isinstance(value, tuple) else (value,)
        if not all(holds(each, bound) for each in values for _, bound, holds in bounds):
            text = " and ".join(f"{words} {bound:g}" for words, bound, _ in bounds)
            raise UserError(f"{path} is {value}; it must be {text}")


# JSON.


def to_json(config: Config) -> dict[str, Any]:
    """Returns the config as nested dicts of JSON's types; tuples become lists."""
    tree: dict[str, Any] = {"name": config.name} if isinstance(config, Named) else {}
    for name in _declared(config):
        value = getattr(config, name)
        if isinstance(value, Config):
            value = to_json(value)
        tree[name] = list(value) if isinstance(value, tuple) else value
    return tree


def from_json[C: Config](cls: type[C], tree: Any, where: str = "config") -> C:
    """Returns the config that `to_json` wrote, in this or an earlier version.

    Args:
        cls: the config's class.
        tree: nested dicts.
        where: path of the tree in the whole config, for the errors.

    Raises:
        UserError: this version does not know a name or a field, or a value is of
            another type.
    """
    if not isinstance(tree, dict):
        raise UserError(f"{where} is {tree!r}; it must hold fields")
    tree, known = dict(tree), _declared(cls)
    for old in cls.RENAMED.keys() & tree.keys():
        name, _, rest = cls.RENAMED[old].partition(".")
        value, held = tree.pop(old), tree.get(name, {})
        if not rest:
            tree[name] = value
        elif isinstance(held, dict):
            tree[name] = held | {rest: value}
    for name in tree:
        if name not in known and not (name == "name" and issubclass(cls, Named)):
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise UserError(
                f"{where} has a field {name!r} that this version lacks{hint}"
            )
    values: dict[str, Any] = {}
    for name, own in known.items():
        meta: Meta = own.metadata[_META]
        path = f"{where}.{name}"
        if callable(own.default_factory):
            inner = tree.get(name, {})
            held = type(own.default_factory())
            if meta.registry and isinstance(inner, dict) and "name" in inner:
                held = choose(meta.registry, inner["name"], f"{path}.name")
            values[name] = from_json(held, inner, path)
        elif name in tree:
            values[name] = _typed(tree[name], own.type, path)
        elif meta.before is not ...:
            values[name] = meta.before
    return cls(**values)
