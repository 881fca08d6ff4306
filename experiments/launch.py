"""Parts shared by all launchers: flags, one-line errors and the exit status."""

import dataclasses
import functools
import importlib.util
import logging
import os
import pathlib
import re
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NoReturn

import jax
from absl import app, flags
from absl import logging as absl_logging

from capsjax import data, fields
from capsjax.config import Config
from capsjax.errors import UserError
from capsjax.models import MODELS
from capsjax.models.capsules import capsnet
from capsjax.runs import data_record
from capsjax.runs.folder import RunFolder
from capsjax.runs.stop import Stopped
from capsjax.training import parallel
from experiments import flag_help

_CONFIGS = pathlib.Path(__file__).parent / "configs"
_OVERRIDE = re.compile(r"--?(no)?config\.([\w.]+)(?:=(.*))?", re.DOTALL)


def run(main: Callable[..., object], *, positional: str | None = None) -> None:
    """Parses the flags and runs ``main``; ends the process.

    Arguments that are not flags are refused, unless ``positional`` names them, such as
    ``"RUNS..."``: then ``main`` is called with the list of them, at least one.

    Errors that the user can fix, a `UserError` or a wrong flag, are printed as one line
    and exit with status 1; other errors keep their traceback. Training that was asked
    to stop prints the command to go on and exits with 0, after Ctrl-C with 130. Where
    other processes would wait for this one, it ends without them.
    """

    def guarded(argv: list[str]) -> None:
        given = argv[1:]
        if given and positional is None:
            _fail(f"unexpected argument {given[0]!r}; flags begin with --")
        if not given and positional is not None:
            _fail(f"give {positional} after the launcher's name; --help explains them")
        try:
            main(*([] if positional is None else [given]))
        except UserError as error:
            _fail(str(error))
        except Stopped as stopped:
            if parallel.is_primary():
                print(f"\n{stopped}, which is saved; go on with: {_resume()}")
            sys.exit(130 if stopped.signal == signal.SIGINT else 0)
        except KeyboardInterrupt:
            resume = f"; go on from the last checkpoint with: {_resume()}"
            print(f"\ninterrupted{resume * _can_resume()}", file=sys.stderr)
            parallel.leave_at_once(130)
            sys.exit(130)
        except Exception:
            traceback.print_exc()
            parallel.leave_at_once(1)
            sys.exit(1)

    _quiet_threads()
    app.run(guarded, flags_parser=_parse)


def _quiet_threads() -> None:
    """Silences errors in other threads that the main thread reports, too.

    When a disk is full or a checkpoint is damaged, Orbax, TensorBoard's writer and
    TensorStore print long reports from their own threads; the main thread gets the same
    error and prints one line for it.
    """
    absl_logging.set_verbosity(absl_logging.FATAL)
    in_thread, in_callback = threading.excepthook, sys.unraisablehook

    def of_thread(arguments: threading.ExceptHookArgs) -> None:
        if not isinstance(arguments.exc_value, OSError):
            in_thread(arguments)

    def of_callback(arguments: "sys.UnraisableHookArgs") -> None:
        if str(arguments.exc_value) != "Event loop is closed":
            in_callback(arguments)

    threading.excepthook, sys.unraisablehook = of_thread, of_callback


_groups: dict[str, list[str]] = {}  # Names of the flags defined here, by their title.


def group(title: str, *names: str) -> None:
    """Lists flags under a title in ``--help``."""
    _groups.setdefault(title, []).extend(names)


class Overrides:
    """The flags of a config's fields, ``--config.FIELD=VALUE``.

    Attributes:
        overrides: values of the fields' flags as text, by path, in their order.
    """

    def __init__(self) -> None:
        self.overrides: dict[str, str] = {}

    def words(self) -> list[str]:
        """The fields' flags, for trainings that are commands."""
        return [f"--config.{path}={text}" for path, text in self.overrides.items()]

    def take_overrides(self, argv: Sequence[str]) -> list[str]:
        """Takes the fields' flags out of a command; returns the rest of it."""
        rest: list[str] = []
        words = list(argv)
        while words:
            word = words.pop(0)
            match = _OVERRIDE.fullmatch(word)
            if match is None:
                rest.append(word)
                continue
            no, path, text = match.groups()
            if text is None:
                has_value = not no and words and not words[0].startswith("--")
                text = words.pop(0) if has_value else ("false" if no else "true")
            self.overrides.pop(path, None)  # The last one counts, in its place.
            self.overrides[path] = text
        return rest


class ConfigFlag(Overrides):
    """``--config`` and the flags of its fields, ``--config.FIELD=VALUE``."""

    def __init__(self) -> None:
        super().__init__()
        self._file = flags.DEFINE_string(
            "config",
            None,
            "The run's settings: a name out of "
            f"{', '.join(_known_configs())}, or a Python file like those, such as "
            "experiments/configs/digits.py; with an optional variant: "
            "mnist:authors_code or mnist:authors_code,quick. Single fields are changed "
            "by further flags, such as --config.model.routing.iterations=1 or "
            "--config.batch_size=64.",
            required=True,
        )
        flags.DEFINE_string(
            "help_config",
            None,
            "Prints all fields of a config, or of a model by its name "
            f"({', '.join(MODELS)}), with values and documentation, and ends.",
        )
        group("Settings", "config", "help_config")

    @functools.cached_property
    def value(self) -> Config:
        """The run's config, once the flags are parsed.

        Raises:
            UserError: no such file, preset or field, or a value of another type.
        """
        return _load_config(self._file.value, self.overrides)

    def words(self) -> list[str]:
        """``--config`` and the fields' flags, for trainings that are commands."""
        return [f"--config={self._file.value}", *super().words()]


_overrides: list[Overrides] = []  # At most one, once a launcher has defined it.


def define_config() -> ConfigFlag:
    """Defines ``--config=FILE[:WORDS]`` and ``--help_config``."""
    flag = ConfigFlag()
    _overrides.append(flag)
    return flag


def define_overrides() -> Overrides:
    """Defines the flags of fields, of launchers that choose several configs."""
    _overrides.append(Overrides())
    return _overrides[0]


def _known_configs() -> list[str]:
    return sorted(
        path.stem for path in _CONFIGS.glob("*.py") if path.stem != "variants"
    )


def _find_config(name: str) -> pathlib.Path | None:
    """Finds a config by its path, or a config of the project by its name."""
    for path in (pathlib.Path(name), _CONFIGS / f"{name}.py"):
        if path.is_file():
            return path
    return None


def _load_config(text: str, overrides: Mapping[str, str]) -> Config:
    """The config of ``FILE[:WORDS]`` or ``NAME[:WORDS]``, with some fields changed."""
    name, _, words = text.partition(":")
    path = _find_config(name)
    if path is None:
        raise UserError(
            f"no config {name}: neither a file nor one of {', '.join(_known_configs())}"
        )
    spec = importlib.util.spec_from_file_location("config_file", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(words)
    if not isinstance(config, Config):
        raise UserError(f"get_config in {path} must return a capsjax.config.Config")
    for name in sorted(overrides, key=fields.names_first):
        fields.override(config, name, overrides[name])
    return config


def config_of(words: Sequence[str]) -> Config:
    """The config that the flags of a training make, of which others are left out.

    Raises:
        UserError: no such file, preset or field, or a value of another type.
    """
    name, overrides = "", {}
    for word in words:
        if word.startswith("--config="):
            name = word.removeprefix("--config=")
        elif match := _OVERRIDE.fullmatch(word):
            overrides[match[2]] = match[3]
    return _load_config(name, overrides)


def _help_config(argv: Sequence[str], flag: Overrides) -> str | None:
    """Returns the text that ``--help_config`` asks for, or None without that flag."""
    found = {}
    for word, following in zip(argv, [*argv[1:], "-"], strict=True):
        if match := re.fullmatch(r"--?(help_config|config)(?:=(.*))?", word):
            value = match[2] or ("" if following.startswith("-") else following)
            found[match[1]] = value
    if "help_config" not in found or not isinstance(flag, ConfigFlag):
        return None
    name = found["help_config"] or found.get("config") or capsnet.Config.name
    if name in MODELS:
        return fields.describe(Config(model=MODELS[name]()))
    if _find_config(name.partition(":")[0]) is None:
        raise UserError(
            f"--help_config={name} is neither a config nor a model; give a file or one "
            f"of {', '.join([*MODELS, *_known_configs()])}"
        )
    return fields.describe(_load_config(name, flag.overrides))


def define_data_dir() -> flags.FlagHolder[str | None]:
    """Defines ``--data_dir``, the folder of the TFDS data sets."""
    group("Data", "data_dir")
    return flags.DEFINE_string(
        "data_dir",
        None,
        "Folder of the TFDS data sets (see experiments/prepare_data.py); by default "
        "the environment variable TFDS_DATA_DIR or ~/tensorflow_datasets. Not needed "
        "for the digits or for your own images.",
    )


def define_devices() -> Callable[[], None]:
    """Defines the flags that choose the processes and devices that take part.

    Returns:
        A function that applies these flags; call it first.
    """
    coordinator = flags.DEFINE_string(
        "coordinator_address",
        None,
        "To train in several processes: host:port of the first one, any free port. "
        "Start the same command in all of them, each with its --process_id.",
    )
    num_processes = flags.DEFINE_integer(
        "num_processes", None, "Number of processes that train together.", lower_bound=1
    )
    process_id = flags.DEFINE_integer(
        "process_id", None, "This process's number among them, from 0.", lower_bound=0
    )
    distributed = flags.DEFINE_bool(
        "distributed",
        False,
        "Trains in several processes that the cluster's environment (Slurm, Kubernetes "
        "or Open MPI) describes.",
    )
    heartbeat_timeout = flags.DEFINE_integer(
        "heartbeat_timeout",
        60,
        "Seconds without a sign of life after which a process counts as dead and ends "
        "the others.",
        lower_bound=1,
    )
    cpu_devices = flags.DEFINE_integer(
        "cpu_devices",
        None,
        "Splits the CPU into this many devices, to try out training on several. They "
        "share its cores, so training does not get faster.",
        lower_bound=1,
    )
    group(
        "Devices and processes",
        *("coordinator_address", "num_processes", "process_id", "distributed"),
        *("heartbeat_timeout", "cpu_devices"),
    )

    def take_up() -> None:
        if cpu_devices.value is not None:
            jax.config.update("jax_num_cpu_devices", cpu_devices.value)
        explicit = (coordinator.value, num_processes.value, process_id.value)
        if distributed.value or any(value is not None for value in explicit):
            _silence_c_output()
            parallel.join(*explicit, heartbeat_timeout_s=heartbeat_timeout.value)

    return take_up


def _silence_c_output() -> None:
    """Hides what C++ code prints: Gloo has a line for each of its connections."""
    sys.stdout.flush()
    sys.stdout = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def define_images() -> Callable[[Config], data.Sizes]:
    """Defines ``--image_shape`` and ``--num_classes``, of random images.

    Returns:
        A function of a config that returns the images' sizes before preprocessing: by
        default those of its data, which are loaded only if they are the user's own.
    """
    image_shape = flags.DEFINE_list(
        "image_shape",
        None,
        "Height, width and channels of the images, such as 28,28,1; by default those "
        "of the config's data.",
    )
    num_classes = flags.DEFINE_integer(
        "num_classes",
        None,
        "Classes; by default those of the config's data.",
        lower_bound=2,
    )
    group("Images", "image_shape", "num_classes")

    def take_up(config: Config) -> data.Sizes:
        shape, classes = None, num_classes.value
        if image_shape.value is not None:
            text = ",".join(image_shape.value)
            match = re.fullmatch(r"([1-9]\d*),([1-9]\d*),([1-9]\d*)", text)
            if not match:
                raise UserError(f"--image_shape={text} is not height,width,channels")
            shape = int(match[1]), int(match[2]), int(match[3])
        if shape and classes:
            return data.Sizes(shape, classes)
        found = data.sizes(**dataclasses.asdict(config.data))
        return data.Sizes(shape or found.image_shape, classes or found.num_classes)

    return take_up


def load_data(config: Config, data_dir: str | None) -> data.Dataset:
    """Loads the data set of a run's config, and prints what to know about it."""
    loaded = data.load(data_dir=data_dir, **dataclasses.asdict(config.data))
    _warn(loaded)
    return loaded


def _warn(loaded: data.Dataset) -> None:
    for warning in loaded.warnings:
        print(f"warning: {warning}", file=sys.stderr, flush=True)


def read_as_before(config: Config, folder: RunFolder, given: Iterable[str]) -> None:
    """Lets a run that goes on read own images by the rules that it began with.

    Args:
        config: the config of this command, in which these rules are set.
        folder: the run's folder, or one in which no run has begun.
        given: paths of the fields that flags set, which stay as they are.
    """
    if folder.config.exists():
        before = folder.load_config().data
        for name in {"parts", "split"} - {path.removeprefix("data.") for path in given}:
            setattr(config.data, name, getattr(before, name))


def load_run_data(
    folder: RunFolder,
    data_dir: str | None,
    changes: Mapping[str, str] | None = None,
    moved_to: str | None = None,
) -> data.Dataset:
    """Loads the data of a run that has been trained, or other data for it.

    Args:
        folder: the run's folder.
        data_dir: the value of ``--data_dir``; by default the run's, if it still exists.
        changes: values of fields of ``config.data``, for other data than the run's.
        moved_to: where the run's own images are now; None for where they were.

    Raises:
        UserError: the data are not the run's, or other data do not suit it; see
            `capsjax.runs.data_record`.
    """
    config = folder.load_config()
    if data_dir is None:
        recorded = data_record.recorded_data_dir(folder)
        data_dir = recorded if recorded and os.path.isdir(recorded) else None
    recorded = data_record.recorded_path(folder)
    # A relative path was relative to the folder in which the training was started.
    if recorded and os.path.exists(recorded) and not os.path.exists(config.data.path):
        config.data.path = recorded
    if moved_to is not None:
        data_record.check_can_move(folder)
        config.data.path = moved_to
    for name, value in (changes or {}).items():
        setattr(config.data, name, value)
    loaded = data.load(data_dir=data_dir, **dataclasses.asdict(config.data))
    if not changes:
        data_record.check_same(folder, loaded)
    elif not data_record.is_of(folder, loaded):
        loaded = data_record.fitted(folder, loaded)
        print(f"note: not the run's data: {loaded.provenance}", file=sys.stderr)
    _warn(loaded)
    return loaded


def load_grid_data(
    config: Config, data_dir: str | None, folders: Iterable[RunFolder]
) -> data.Dataset:
    """Loads the data set of a config on which the runs in some folders were trained.

    Raises:
        UserError: a run that has ended was trained on other data.
    """
    loaded = load_data(config, data_dir)
    for folder in folders:
        if folder.result.exists():
            data_record.check_same(folder, loaded)
    return loaded


def _parse(argv: list[str]) -> list[str]:
    try:
        if any(re.fullmatch(r"--?(h|help|helpshort|helpfull)", word) for word in argv):
            print(flag_help.text(sys.modules["__main__"].__doc__ or "", _groups))
            sys.exit(0)
        for flag in _overrides:
            argv = flag.take_overrides(argv)
            if (text := _help_config(argv, flag)) is not None:
                print(text)
                sys.exit(0)
        return flags.FLAGS(argv)
    except flags.Error as error:
        if missing := re.match(r"flag --(\w+)=None: .* other than None", str(error)):
            _fail(
                f"give --{missing[1]}={flag_help.placeholder(missing[1])}; --help "
                "explains the flags"
            )
        _fail(f"{error}; --help lists the flags")
    except UserError as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    # Unfinished work, such as reads of a damaged checkpoint, would print more lines
    # while the process ends.
    sys.unraisablehook = lambda _: None
    logging.disable()
    print(f"error: {message}", file=sys.stderr, flush=True)
    parallel.leave_at_once(1)
    sys.exit(1)


def _can_resume() -> bool:
    """Returns whether this command trains into a folder that holds something."""
    resumable = {"resume", "workdir"} <= set(flags.FLAGS)
    return resumable and os.path.isdir(flags.FLAGS.workdir or "")


def _resume() -> str:
    """Returns the command that resumes this one's training."""
    words = [os.path.basename(sys.executable), *sys.orig_argv[1:]]
    if "resume" in flags.FLAGS and not flags.FLAGS.resume:
        words.append("--resume")
    return shlex.join(words)
