"""The text of ``--help``: every flag that a launcher takes, in groups."""

import sys
import textwrap

from absl import flags

_WIDTH = 80
_PLACEHOLDERS = {"config": "FILE", "data_dir": "DIR", "workdir": "DIR"}


def text(launcher: str, groups: dict[str, list[str]]) -> str:
    """Returns the launcher's description and its flags.

    Args:
        launcher: the launcher's docstring.
        groups: names of flags that several launchers share, by the group's title.
    """
    grouped = {name for names in groups.values() for name in names}
    of_launcher = [
        flag.name
        for module, defined in flags.FLAGS.flags_by_module_dict().items()
        if module == sys.argv[0] or module.startswith("experiments.")
        for flag in defined
        if flag.name not in grouped
    ]
    parts = [launcher.strip()]
    for title, names in {"This command's flags": of_launcher, **groups}.items():
        if names:
            parts.append(
                "\n".join(
                    [f"{title}:", *(_describe(flags.FLAGS[name]) for name in names)]
                )
            )
    return "\n\n".join(parts)


def placeholder(name: str) -> str:
    """Returns the word that stands for a flag's value, such as DIR."""
    return _PLACEHOLDERS.get(name, "VALUE")


def _describe(flag: flags.Flag) -> str:
    usage, explanation = f"--{flag.name}={placeholder(flag.name)}", flag.help or ""
    if flag.boolean:
        usage = f"--[no]{flag.name}"
    elif isinstance(flag, flags.EnumFlag):
        values = "|".join(flag.parser.enum_values)
        usage = f"--{flag.name}={values}"
        explanation = explanation.removeprefix(f"<{values}>: ")
    if flag.default not in (None, "", False, []):
        usage += f"  (default: {_as_text(flag.default)})"
    body = textwrap.fill(
        explanation, _WIDTH, initial_indent=6 * " ", subsequent_indent=6 * " "
    )
    return f"  {usage}\n{body}"


def _as_text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
