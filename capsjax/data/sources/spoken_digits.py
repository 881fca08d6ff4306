"""The Free Spoken Digit Dataset: the digits in English, by six speakers.

3,000 recordings of 8,000 samples a second, 50 of each digit by each speaker.

References:
    Jackson et al., "Free Spoken Digit Dataset",
    https://github.com/Jakobovski/free-spoken-digit-dataset (CC BY-SA 4.0).
"""

import hashlib
import io
import re
import wave
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from capsjax.data.datasets import Dataset, ImageSet, empty_like
from capsjax.data.source import Source
from capsjax.errors import UserError

RATE = 8_000
"""Samples a second."""

LENGTH = RATE
"""Samples of each signal here: one second."""

NUM_TEST = 5
"""Recordings 0 .. 4 of each digit by each speaker are the official test set."""

_NAME = re.compile(r"(\d)_([^_/]+)_(\d+)\.wav")
_WANTED = "the folder recordings of the data set, or a zip file of it"


class _Recording(NamedTuple):
    """A file of the data set."""

    digit: int
    speaker: str
    number: int
    content: bytes


def load(source: Source, data_dir: str | None = None) -> Dataset:
    """Loads the recordings, DIGIT_SPEAKER_NUMBER.wav, of a folder or a zip file.

    A signal is an image of one row: 1 x 8,000 pixels, the samples of one second, with
    two channels. The first holds what is positive and the second the magnitude of what
    is negative, as a share of the recording's largest magnitude in units of 1/255, so
    that silence is 0 as black is in images. That keeps a signal-to-noise ratio of 44 dB
    (the median of the recordings; 35 dB at least), 6 dB more than 8 bits of the G.711
    standard (mu-law), but not how loud a recording is. Shorter signals lie in the
    middle of silence; of longer ones (20 of 3,000) the middle is kept.

    Args:
        source: `path` is the folder or zip file. `held_out_speaker` is the one whose
            recordings are the test set, and no others; by default it is the official
            one, recordings 0 .. 4 of each digit by each speaker.
        data_dir: unused.

    Returns:
        Images uint8 [N, 1, 8000, 2] and ten classes.

    Raises:
        UserError: no such file, no recordings in it, a file that is not a recording of
            16 bits at 8,000 samples a second, an unknown speaker, or training or test
            recordings that lack a digit.
    """
    del data_dir
    if source.image_size:
        raise UserError(
            "spoken_digits are signals, which have no image_size; leave it out"
        )
    path = source.own_path(_WANTED)
    digest = hashlib.sha256()
    recordings = []
    for name, content in _contents(path):
        found = _NAME.fullmatch(name)
        if not found:
            raise UserError(
                f"{path}: {name} is not called DIGIT_SPEAKER_NUMBER.wav, as in "
                "7_george_12.wav; rename or remove it"
            )
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
        digit, speaker, number = found.groups()
        recordings.append(_Recording(int(digit), speaker, int(number), content))
    if not recordings:
        raise UserError(f"no WAV files in {path}; set config.data.path to {_WANTED}")
    speakers = sorted({one.speaker for one in recordings})
    held_out = source.held_out_speaker
    if held_out and held_out not in speakers:
        raise UserError(
            f"unknown held_out_speaker {held_out!r}; choose one of "
            f"{', '.join(speakers)}, or '' for the official split"
        )
    images = np.stack([_halves(one, path) for one in recordings])
    whole = ImageSet(images, np.array([one.digit for one in recordings], np.int32))
    is_test = np.array(
        [
            one.speaker == held_out if held_out else one.number < NUM_TEST
            for one in recordings
        ]
    )
    train, test = (whole.take(np.flatnonzero(part)) for part in (~is_test, is_test))
    for what, part in (("training", train), ("test", test)):
        if absent := sorted(set(range(10)) - set(part.labels.tolist())):
            raise UserError(
                f"{path}: no {what} recording of the digit {absent[0]}; give all "
                "recordings of the data set"
            )
    title = f"; the speaker {held_out} held out" if held_out else "; official split"
    return Dataset(
        name="spoken_digits",
        train=train,
        validation=empty_like(train),
        test=test,
        class_names=tuple("0123456789"),
        provenance=(
            f"Free Spoken Digit Dataset, {len(recordings)} recordings of "
            f"{len(speakers)} speakers, sha256 {digest.hexdigest()[:16]}{title}"
        ),
        content=f"sha256 {digest.hexdigest()}",
    )


def _contents(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yields names and bytes of all WAV files in a folder or a zip file, by name.

    Without the hidden twin that macOS puts beside each file.
    """
    if path.is_dir():
        files = [file for file in path.rglob("*.wav") if file.name[0] != "."]
        for file in sorted(files, key=lambda file: file.name):
            yield file.name, _read(file)
        return
    if not path.is_file():
        raise UserError(f"no file or folder {path}; set config.data.path to {_WANTED}")
    try:
        with zipfile.ZipFile(path) as archive:
            members = [Path(name) for name in archive.namelist()]
            wanted = [
                member
                for member in members
                if member.suffix == ".wav" and not member.name.startswith(".")
            ]
            for member in sorted(wanted, key=lambda member: member.name):
                yield member.name, archive.read(member.as_posix())
    except Exception as error:  # Encrypted, damaged and unknown files raise many kinds.
        raise UserError(
            f"cannot read {path} as a zip file ({error}); set config.data.path to "
            f"{_WANTED}"
        ) from error


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {file} ({error.strerror})") from error


def _halves(recording: _Recording, path: Path) -> npt.NDArray[np.uint8]:
    """Returns a recording as uint8 [1, LENGTH, 2], see `load`."""
    digit, speaker, number, content = recording
    what = f"{path}: {digit}_{speaker}_{number}.wav"
    try:
        with wave.open(io.BytesIO(content)) as file:
            rate, width = file.getframerate(), file.getsampwidth()
            channels = file.getnchannels()
            frames = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise UserError(
            f"cannot read {what} ({error}); replace it by the original"
        ) from error
    if (rate, width, channels) != (RATE, 2, 1):
        raise UserError(
            f"{what} has {rate} samples a second of {8 * width} bits in {channels} "
            f"channels; convert it to {RATE} of 16 bits in 1"
        )
    samples = np.frombuffer(frames[: len(frames) // 2 * 2], "<i2").astype(np.float64)
    first = max(len(samples) - LENGTH, 0) // 2
    samples = samples[first : first + LENGTH]
    before = (LENGTH - len(samples)) // 2
    samples = np.pad(samples, (before, LENGTH - len(samples) - before))
    levels = np.rint(samples * (255 / max(np.abs(samples).max(), 1)))
    halves = np.stack([np.maximum(levels, 0), np.maximum(-levels, 0)], axis=-1)
    return halves.astype(np.uint8)[None]
