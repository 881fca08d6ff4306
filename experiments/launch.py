"""What all launchers share: flags in, one clear line and an exit status out."""

import difflib
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from capsjax import data
from capsjax.errors import UserError

_CONFIG_FLAG = re.compile(r"--?config(?:=(.*))?")
_OVERRIDE = re.compile(r"--?(?:no)?config\.([\w.]+)")


def run(main: Callable[[], object]) -> None:
    """Parses the flags and runs ``main``; ends the process.

    What the user can put right, a `UserError` or a wrong flag, is printed as one line
    and exits with status 1; Ctrl-C exits with 130; other errors keep their traceback.
    """

    def guarded(argv: list[str]) -> None:
        if len(argv) > 1:
            _fail(f"unexpected argument {argv[1]!r}; flags begin with --")
        try:
            main()
        except UserError as error:
            _fail(str(error))
        except KeyboardInterrupt:
            print("\ninterrupted", file=sys.stderr)
            sys.exit(130)

    absl_logging.set_verbosity(absl_logging.WARNING)
    app.run(guarded, flags_parser=_parse)


def define_config() -> flags.FlagHolder[ConfigDict]:
    """Defines ``--config=FILE[:WORDS]``; its fields are ``--config.FIELD=VALUE``."""
    holder = config_flags.DEFINE_config_file(
        "config",
        None,
        "File of the run's settings, with an optional variant: "
        "experiments/configs/digits.py, experiments/configs/mnist.py:authors_code or "
        "experiments/configs/mnist.py:authors_code,quick. Single fields are changed by "
        "further flags, such as --config.model.routing_iterations=1 or "
        "--config.batch_size=64; capsjax/config.py explains every field.",
    )
    flags.mark_flag_as_required("config")
    return holder


def define_data_dir() -> flags.FlagHolder[str | None]:
    """Defines ``--data_dir``, the folder of the TFDS data sets."""
    return flags.DEFINE_string(
        "data_dir",
        None,
        "Folder of the TFDS data sets (see experiments/prepare_data.py); by default "
        "the environment variable TFDS_DATA_DIR or ~/tensorflow_datasets. Not needed "
        "for the digits or for one's own images.",
    )


def load_data(config: ConfigDict, data_dir: str | None) -> data.Dataset:
    """The data set that a run's config asks for."""
    return data.load(
        config.data.name,
        data_dir=data_dir,
        path=config.data.path or None,
        validation_examples=config.data.validation_examples,
        image_size=config.data.image_size,
    )


def _parse(argv: list[str]) -> list[str]:
    config_file = _config_file(argv)
    if config_file is not None and not os.path.isfile(config_file.split(":")[0]):
        _fail(f"there is no config file {config_file.split(':')[0]}")
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        _fail(f"{error}; --help lists the flags")
    except UserError as error:
        _fail(str(error))
    except (AttributeError, KeyError):
        unknown = None if config_file is None else _unknown_field(argv, config_file)
        if unknown is None:
            raise
        _fail(unknown)


def _config_file(argv: list[str]) -> str | None:
    for arg, following in zip(argv, [*argv[1:], ""], strict=True):
        if match := _CONFIG_FLAG.fullmatch(arg):
            return following if match[1] is None else match[1]
    return None


def _unknown_field(argv: list[str], config_file: str) -> str | None:
    """Says which override names a field that the config does not have."""
    alone = flags.FlagValues()
    command = [argv[0], f"--config={config_file}"]
    holder = config_flags.DEFINE_config_file(
        "config", flag_values=alone, sys_argv=command
    )
    alone(command)
    known = list(_fields(holder.value))
    for arg in argv:
        match = _OVERRIDE.match(arg)
        if match and match[1] not in known:
            close = difflib.get_close_matches(match[1], known, n=3)
            hint = (
                f"did you mean {' or '.join(close)}?"
                if close
                else f"it has {', '.join(known)}"
            )
            return f"the config has no field {match[1]!r}; {hint}"
    return None


def _fields(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    for key in config:
        yield prefix + key
        if isinstance(config[key], ConfigDict):
            yield from _fields(config[key], f"{prefix}{key}.")


def _fail(message: str) -> NoReturn:
    # What an error leaves unfinished, such as reads of a damaged checkpoint, would add
    # lines of its own while the process ends.
    sys.unraisablehook = lambda _: None
    logging.disable()
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(1)
