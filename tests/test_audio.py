"""Recordings: every format, rate and channel that can be read, and a message for each that cannot."""

import numpy as np
import pytest
import soundfile

from gradalign import audio
from gradalign.errors import AlignmentError, FormatError


def tone(hz, rate, seconds=0.5, level=0.5):
    return (level * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def amplitude(samples, hz, rate=16_000):
    """Amplitude of a sine in the middle of the samples."""
    middle = samples[len(samples) // 4 : 3 * len(samples) // 4].astype(np.float64)
    phase = 2j * np.pi * hz * np.arange(len(middle)) / rate
    return 2 * abs((middle * np.exp(-phase)).mean())


@pytest.fixture
def write(tmp_path):
    def write(samples, rate=16_000, name="a.wav", **options):
        path = tmp_path / name
        soundfile.write(path, samples, rate, **options)
        return path

    return write


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_lossless_files_give_their_samples_back(write, name):
    samples = tone(440, 16_000)
    found = audio.read(write(samples, name=name))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, samples, atol=2 / 32768)  # 16-bit steps


def test_float_files_give_their_samples_back_exactly(write):
    samples = tone(440, 16_000)
    np.testing.assert_array_equal(audio.read(write(samples, subtype="FLOAT")), samples)


def test_ogg_files_keep_length_and_tone(write):
    found = audio.read(write(tone(440, 16_000), name="a.ogg"))
    assert len(found) == 8000
    assert amplitude(found, 440) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_other_rates_are_resampled_to_the_same_sound(write, rate):
    found = audio.read(write(tone(440, rate), rate))
    assert found.dtype == np.float32
    assert abs(len(found) - 8000) <= 1
    np.testing.assert_allclose(found[1000:7000], tone(440, 16_000)[1000:7000], atol=2e-3)


def test_resampling_removes_what_the_wanted_rate_cannot_hold(write):
    found = audio.read(write(tone(440, 44_100) + tone(15_000, 44_100, level=0.3), 44_100))
    np.testing.assert_allclose(found[1000:7000], tone(440, 16_000)[1000:7000], atol=2e-3)


def test_another_rate_can_be_asked_for(write):
    assert len(audio.read(write(tone(440, 16_000)), sample_rate=8_000)) == 4000


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_channels_are_chosen_or_averaged(write, rate):
    path = write(np.stack([tone(440, rate), tone(1000, rate, level=0.2)], axis=1), rate)
    left, right, both = audio.read(path, channel=0), audio.read(path, channel=1), audio.read(path)
    np.testing.assert_allclose(both, (left + right) / 2, atol=1e-4)
    assert amplitude(left, 440) == pytest.approx(0.5, abs=0.01)
    assert amplitude(left, 1000) < 0.01
    assert amplitude(right, 1000) == pytest.approx(0.2, abs=0.01)
    assert both.flags.c_contiguous
    assert left.flags.c_contiguous


@pytest.mark.parametrize("channel", [-1, 1, 7])
def test_a_channel_that_is_not_there_is_named(write, channel):
    with pytest.raises(FormatError, match=rf"has 1 channel\(s\), counted from 0; got channel {channel}"):
        audio.read(write(tone(440, 16_000)), channel=channel)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FormatError, match=r"nothing\.wav: no such audio file"):
        audio.read(tmp_path / "nothing.wav")


def test_a_directory_is_no_recording(tmp_path):
    with pytest.raises(FormatError, match="is a directory; expected an audio file"):
        audio.read(str(tmp_path))


def test_an_empty_file_is_no_recording(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"")
    with pytest.raises(FormatError, match=r"is empty \(0 bytes\)"):
        audio.read(tmp_path / "a.wav")


@pytest.mark.parametrize("content", [b"Once upon a time\n" * 100, b"RIFF", bytes(range(256))])
def test_a_file_that_is_no_audio_is_named_with_what_to_do(tmp_path, content):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(FormatError, match=r"a\.wav could not be read as audio .* ffmpeg -i INPUT output\.wav"):
        audio.read(tmp_path / "a.wav")


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_a_header_without_samples_is_named(write, rate):
    path = write(np.zeros(0, np.float32), rate)
    assert path.stat().st_size > 0
    with pytest.raises(AlignmentError, match=r"a\.wav holds 0 samples; expected speech"):
        audio.read(path)


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_counted(write, bad, rate):
    samples = tone(440, rate)
    samples[[100, 200, 300]] = bad
    with pytest.raises(AlignmentError, match=f"holds 3 samples that are NaN or infinite of {rate // 2}"):
        audio.read(write(samples, rate, subtype="FLOAT"))


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("level", [0.0, 0.25])
def test_digital_silence_is_named(write, level, rate):
    with pytest.raises(AlignmentError, match=f"is silent: all {rate // 2} samples lie within"):
        audio.read(write(np.full(rate // 2, level, np.float32), rate))


def test_checking_gives_the_samples_back(rng):
    samples = rng.normal(size=10).astype(np.float32)
    assert audio.check(samples) is samples
    with pytest.raises(AlignmentError, match="waveform holds 0 samples"):
        audio.check(samples[:0])
    with pytest.raises(AlignmentError, match="waveform is silent: all 1 samples"):
        audio.check(samples[:1])
