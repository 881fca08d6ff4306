"""``python -m capsjax``: the commands, and what each is for."""

import ast
import importlib.util
import pathlib


def commands(folder: pathlib.Path) -> dict[str, str]:
    """The launchers in a folder with the first line of each one's docstring.

    They are read and not imported, so that the list comes at once.
    """
    found = {}
    for path in sorted(folder.glob("*.py")):
        text = path.read_text()
        if 'if __name__ == "__main__":' in text:
            about = ast.get_docstring(ast.parse(text)) or ""
            found[path.stem] = about.partition("\n")[0]
    return found


def main() -> None:
    """Prints the commands."""
    package = importlib.util.find_spec("experiments")
    assert package is not None  # Installed together with this package.
    assert package.origin is not None
    found = commands(pathlib.Path(package.origin).parent)
    width = max(map(len, found))
    print("Capsule networks in JAX and Flax. Commands, python -m experiments.NAME:\n")
    for name, about in found.items():
        print(f"  {name:{width}}  {about}")
    print(
        "\nEach explains its flags with --help, and train --help_config=NAME the "
        "fields of a config.\nFirst: python -m experiments.train --config=digits "
        "--workdir=runs/first"
    )


if __name__ == "__main__":
    main()
