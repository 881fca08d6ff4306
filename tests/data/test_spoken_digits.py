"""Spoken digits: the names and samples of files, the splits, and what is refused."""

import io
import wave
import zipfile

import numpy as np
import pytest

from capsjax import data
from capsjax.errors import UserError

SPEAKERS = ("ada", "bob")


def wav(samples, rate=8_000, width=2, channels=1):
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(np.asarray(samples, "<i2").tobytes())
    return buffer.getvalue()


def recordings():
    """Seven of each digit by each speaker: a ramp whose start tells who says what."""
    return {
        f"{digit}_{speaker}_{index}.wav": wav([digit + 1, 100 * number, -200, index])
        for digit in range(10)
        for number, speaker in enumerate(SPEAKERS)
        for index in range(7)
    }


def write(folder, files):
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def load(path, **options):
    return data.load("spoken_digits", path=str(path), **options)


def signals(image_set):
    """The positive less the negative half, [N, 8000]."""
    images = image_set.images.astype(int)
    assert images.shape[1:] == (1, 8_000, 2)
    assert not np.any(np.all(images > 0, axis=-1))
    return images[:, 0, :, 0] - images[:, 0, :, 1]


def speakers(image_set):
    """Numbers of the speakers, by the second sample of the four in the middle."""
    return (signals(image_set)[:, 3_999] > 0).astype(int)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("fsdd") / "recordings", recordings())


def test_the_official_split(folder):
    """The first five recordings of each digit by each speaker are the test set."""
    found = load(folder, validation_examples=10)
    assert (len(found.train), len(found.validation), len(found.test)) == (30, 10, 100)
    assert np.bincount(found.validation.labels).tolist() == [1] * 10
    assert np.bincount(found.test.labels).tolist() == [10] * 10
    assert np.bincount(speakers(found.test)).tolist() == [50, 50]
    x = signals(found.test)
    # The largest magnitude, 200, is 255; the last sample is the recording's number.
    assert x[:, 4_000].tolist() == [-255] * 100
    digits = np.rint((found.test.labels + 1) * 255 / 200)
    np.testing.assert_array_equal(x[:, 3_998], digits)
    assert set(x[:, 4_001].tolist()) == {round(n * 255 / 200) for n in range(5)}
    assert not np.any(x[:, :3_998])
    assert not np.any(x[:, 4_002:])


def test_a_held_out_speaker_is_in_the_test_set_alone(folder):
    found = load(folder, held_out_speaker="bob", validation_examples=10)
    assert (len(found.train), len(found.validation), len(found.test)) == (60, 10, 70)
    assert set(speakers(found.test).tolist()) == {1}
    assert set(speakers(found.train).tolist()) == {0}
    assert set(speakers(found.validation).tolist()) == {0}
    assert "the speaker bob held out" in found.provenance


def test_a_zip_file_is_its_folder(folder, tmp_path):
    path = tmp_path / "recordings.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.iterdir(), reverse=True):
            archive.write(file, f"recordings/{file.name}")
        archive.writestr("__MACOSX/recordings/._0_ada_0.wav", b"x")
        archive.writestr("README.md", "recordings")
    zipped, plain = load(path), load(folder)
    assert zipped.content == plain.content
    for a, b in zip(zipped.parts().values(), plain.parts().values(), strict=True):
        np.testing.assert_array_equal(a.images, b.images)
        np.testing.assert_array_equal(a.labels, b.labels)


def test_the_middle_second_of_a_long_recording_is_kept(tmp_path):
    files = recordings()
    samples = np.zeros(8_011, int)
    samples[[0, 5, 8_004, 8_010]] = 30_000, -100, 50, 30_000
    files["3_ada_6.wav"] = wav(samples)
    found = load(write(tmp_path / "long", files))
    row = signals(found.train.take(np.flatnonzero(found.train.labels == 3)))
    (long,) = (x for x in row if x[0])
    # 5 samples are cut off before and 6 behind; the loudest that is left is 255.
    assert (long[0], long[7_999]) == (-255, round(50 * 2.55))
    assert np.count_nonzero(long) == 2


def test_silence_stays_silent(tmp_path):
    found = load(write(tmp_path / "a", recordings() | {"0_ada_0.wav": wav([0] * 9)}))
    assert found.test.images[0].max() == 0


def test_at_most_half_of_a_step_of_255_is_lost(tmp_path):
    samples = np.rint(np.random.default_rng(0).laplace(0, 2_000, 8_000))
    path = write(tmp_path / "a", recordings() | {"0_ada_0.wav": wav(samples)})
    step = np.abs(samples).max() / 255
    error = signals(load(path).test)[0] * step - samples
    assert np.abs(error).max() <= step / 2 + 1e-9


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {"held_out_speaker": "eve"}, "'eve'; choose one of ada, bob, or ''"),
        ({}, {"image_size": 9}, "signals, which have no image_size"),
        ({"a.wav": wav([1])}, {}, r"a\.wav is not called DIGIT_SPEAKER_NUMBER\.wav"),
        (
            {"0_ada_0.wav": wav([1], 16_000)},
            {},
            "0_ada_0.wav has 16000 samples a second of 16 bits in 1 channels; convert",
        ),
        ({"0_ada_0.wav": wav([1, 1], channels=2)}, {}, "of 16 bits in 2 channels"),
        ({"0_ada_0.wav": b"RIFF"}, {}, "cannot read .*0_ada_0.wav .*by the original"),
    ],
)
def test_bad_recordings(changes, options, message, tmp_path):
    path = write(tmp_path / "bad", recordings() | changes)
    with pytest.raises(UserError, match=message):
        load(path, **options)


def test_bad_paths(tmp_path, folder):
    for path, message in (
        (tmp_path / "nowhere", "no file or folder .*nowhere; set config.data.path"),
        (tmp_path, "no WAV files in .*; set config.data.path to the folder"),
        (folder / "0_ada_0.wav", "cannot read .* as a zip file"),
    ):
        with pytest.raises(UserError, match=message):
            load(path)
    only_test = {n: c for n, c in recordings().items() if n < "9" or n[-5] < "5"}
    with pytest.raises(UserError, match="no training recording of the digit 9"):
        load(write(tmp_path / "few", only_test))
    with pytest.raises(UserError, match="held_out_speaker is 'ada', but digits has no"):
        data.load("digits", held_out_speaker="ada")
