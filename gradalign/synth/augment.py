"""Speech made harder while its times stay exact: either nothing moves, or all times scale by a known factor."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Literal, get_args

import librosa
import numpy as np
import soundfile
from jaxtyping import Float, Float32
from scipy import signal

from gradalign.alignment import Interval
from gradalign.synth import TimedSpeech

Samples = Float32[np.ndarray, " _samples"]
Noise = Literal["white", "pink", "babble"]
Codec = Literal["mulaw", "gsm", "vorbis", "opus", "mp3"]

RANGES: dict[str, tuple[float, float]] = {
    "speed": (0.85, 1.15),
    "pitch": (-3.0, 3.0),
    "room": (0.1, 0.8),
    "noise": (5.0, 30.0),
    "band": (2500.0, 6000.0),
    "codec": (0.0, 1.0),
}
"""What `augment` draws from by default, in the order in which it is applied: factor of speed, semitones, reverberation
time in seconds, signal-to-noise ratio in dB, upper edge of the band in Hz; the codec has no range."""

_LIMITS = {"speed": (0.5, 2.0), "pitch": (-6.0, 6.0), "room": (0.01, 5.0), "noise": (-20.0, 80.0)} | {
    "band": (1000.0, 7900.0),
    "codec": (0.0, 1.0),
}
_MU = 255  # 8 bit
_BABBLERS = 4
_FILES: dict[str, tuple[str, str, int]] = {  # codec: container, coding, rate
    "gsm": ("WAV", "GSM610", 8000),
    "vorbis": ("OGG", "VORBIS", 16000),
    "opus": ("OGG", "OPUS", 16000),
    "mp3": ("MP3", "MPEG_LAYER_III", 16000),
}


def speed(samples: Samples, factor: float) -> tuple[Samples, float]:
    """The recording played faster, pitch and formants rising with it, and what its times are to be multiplied with.

    Args:
        samples: Any rate.
        factor: 0.5 to 2; above 1 is faster. The nearest fraction with a denominator up to 200 is taken.

    Returns:
        The new samples, and the exact scale of time, near 1 / ``factor``.

    Raises:
        ValueError: If the factor is out of range.
    """
    _check("speed", factor)
    ratio = 1 / Fraction(factor).limit_denominator(200)
    moved = signal.resample_poly(samples, ratio.numerator, ratio.denominator)
    return moved.astype(np.float32), float(ratio)


def pitch(samples: Samples, semitones: float, *, sample_rate: int) -> Samples:
    """The recording with pitch and formants shifted, each sound where it was.

    It is resampled, and a phase vocoder brings its length back. Its windows of 16 ms smear edges; on the whole the
    sounds stay within 4 ms of where they were (longer windows sound smoother, and move them by up to 14 ms).

    Args:
        samples: At least 16 ms.
        semitones: -6 to 6; above 0 is higher, as of a smaller speaker.
        sample_rate: In Hz.

    Raises:
        ValueError: If the shift is out of range.
    """
    _check("pitch", semitones)
    n_fft = 2 ** round(np.log2(0.016 * sample_rate))
    shifted = librosa.effects.pitch_shift(
        samples, sr=sample_rate, n_steps=semitones, n_fft=n_fft, hop_length=n_fft // 8, res_type="soxr_hq"
    )
    return shifted.astype(np.float32)


def noise(
    samples: Samples,
    snr_db: float,
    kind: Noise,
    rng: np.random.Generator,
    *,
    others: Sequence[Samples] = (),
) -> Samples:
    """The recording with noise under it.

    Args:
        samples: Not all zero.
        snr_db: -20 to 80: mean power of the recording over that of the noise.
        kind: "white", "pink" (power falling with frequency) or "babble" (several of ``others`` at once).
        rng: Draws the noise.
        others: Recordings for babble, of the same rate; they are repeated where they are too short.

    Raises:
        ValueError: If the ratio is out of range, the recording is all zero, or there is no other one to babble.
    """
    _check("noise", snr_db)
    if not np.any(samples):
        raise ValueError("a recording that is all zero has no signal-to-noise ratio")
    if kind == "babble":
        if not others:
            raise ValueError("babble needs other recordings; give some, or take white or pink noise")
        made = _babble(len(samples), others, rng)
    else:
        made = rng.standard_normal(len(samples))
        if kind == "pink":
            spectrum = np.fft.rfft(made)
            made = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), len(samples))
    wanted = np.mean(np.square(samples, dtype=np.float64)) / 10 ** (snr_db / 10)
    return (samples + made * np.sqrt(wanted / np.mean(np.square(made)))).astype(np.float32)


def room(samples: Samples, rt60_s: float, rng: np.random.Generator, *, sample_rate: int) -> Samples:
    """The recording in a room: the direct sound where it was, and reverberation that decays exponentially after it.

    The impulse response is 1 at time 0, then from 2 ms on noise as strong as the direct sound in all (a speaker at the
    room's critical distance), which takes ``rt60_s`` to fall by 60 dB. What rings on after the end is cut.

    Args:
        samples: What is said.
        rt60_s: 0.01 to 5.
        rng: Draws the reflections.
        sample_rate: In Hz.

    Raises:
        ValueError: If the time is out of range.
    """
    _check("room", rt60_s)
    time = np.arange(1, max(2, round(rt60_s * sample_rate))) / sample_rate
    tail = rng.standard_normal(len(time)) * 10 ** (-3 * time / rt60_s) * (time >= min(0.002, time[-1]))
    response = np.concatenate([[1.0], tail / np.linalg.norm(tail)])
    return signal.fftconvolve(samples, response)[: len(samples)].astype(np.float32)


def band(samples: Samples, low_hz: float, high_hz: float, *, sample_rate: int) -> Samples:
    """Only what lies between two frequencies, by a Butterworth filter run forwards and backwards: without delay.

    Args:
        samples: What is said.
        low_hz: Above 0; 300 for a telephone.
        high_hz: Above ``low_hz``, below half the rate; 3400 for a telephone.
        sample_rate: In Hz.

    Raises:
        ValueError: If the edges are out of order or range.
    """
    if not 0 < low_hz < high_hz < sample_rate / 2:
        raise ValueError(f"a band needs 0 < low < high < {sample_rate / 2:g} Hz, got {low_hz} and {high_hz}")
    filter = signal.butter(4, (low_hz, high_hz), btype="bandpass", fs=sample_rate, output="sos")
    return signal.sosfiltfilt(filter, samples, padlen=min(len(samples) - 1, 400)).astype(np.float32)


def codec(samples: Samples, name: Codec, *, sample_rate: int) -> Samples:
    """The recording after coding and decoding, shifted back by the codec's delay, at the old length.

    Args:
        samples: What is said, in [-1, 1].
        name: "mulaw" (8 bit at 8 kHz, as on telephones), "gsm" (8 kHz, old mobile phones), "vorbis", "opus" or "mp3".
        sample_rate: In Hz; the result has the same.

    Raises:
        ValueError: If this installation of libsndfile lacks the codec.
    """
    if name == "mulaw":
        narrow = np.clip(_resampled(samples, sample_rate, 8000), -1, 1)
        coded = librosa.mu_expand(librosa.mu_compress(narrow, mu=_MU), mu=_MU).astype(np.float32)
        return _fitted(_resampled(coded, 8000, sample_rate), len(samples))
    container, coding, rate = _FILES[name]
    if coding not in soundfile.available_subtypes(container):
        raise ValueError(f"the installed libsndfile has no {coding} in {container}; take another codec")
    file = io.BytesIO()
    soundfile.write(
        file, np.clip(_resampled(samples, sample_rate, rate), -1, 1), rate, format=container, subtype=coding
    )
    file.seek(0)
    decoded, rate = soundfile.read(file, dtype="float32")
    back = _resampled(decoded, rate, sample_rate)
    return _fitted(back[_delay(samples, back) :], len(samples))


def parse(words: Sequence[str]) -> dict[str, tuple[float, float]]:
    """The augmentations and ranges meant by words such as "noise=5:20", "pitch", "codec" or "all".

    Args:
        words: Names in `RANGES`, each with or without "=LOW:HIGH".

    Raises:
        ValueError: If a name is unknown, or a range is not one or goes too far; the message says what is possible.
    """
    found: dict[str, tuple[float, float]] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if name == "all" and not equals:
            found |= RANGES
            continue
        if name not in RANGES:
            raise ValueError(f"no augmentation {name!r}; there are all, {', '.join(RANGES)}")
        low, high = _range(name, text) if equals else RANGES[name]
        if name == "codec" and equals:
            raise ValueError("codec has no range; give --augment codec")
        _check(name, low)
        _check(name, high)
        found[name] = (low, high)
    return {name: found[name] for name in RANGES if name in found}


def augment(
    speech: TimedSpeech,
    ranges: Mapping[str, tuple[float, float]],
    rng: np.random.Generator,
    *,
    others: Sequence[Samples] = (),
) -> tuple[TimedSpeech, dict[str, object]]:
    """The speech with some of the augmentations, each taken with a chance of one half, and what was done.

    Args:
        speech: What is said; stays as it is.
        ranges: From `parse`: what may be done, and the range each value is drawn from evenly.
        rng: Decides.
        others: Other recordings of the same rate, for babble.

    Returns:
        The new speech, quieter where it would be louder than full scale, and the values by name; empty for none.
    """
    samples, rate, scale = speech.samples, speech.sample_rate, 1.0
    done: dict[str, object] = {}
    for name, (low, high) in ranges.items():
        if rng.random() < 0.5:
            continue
        value = round(float(rng.uniform(low, high)), 3)
        if name == "speed":
            samples, scale = speed(samples, value)
            done[name] = value
        elif name == "pitch":
            samples = pitch(samples, value, sample_rate=rate)
            done[name] = value
        elif name == "room":
            samples = room(samples, value, rng, sample_rate=rate)
            done[name] = value
        elif name == "noise":
            kind: Noise = get_args(Noise)[int(rng.integers(3 if others else 2))]
            samples = noise(samples, value, kind, rng, others=others)
            done[name] = [kind, value]
        elif name == "band":
            edges = round(float(rng.uniform(50, 300)), 1), round(value, 1)
            samples = band(samples, *edges, sample_rate=rate)
            done[name] = list(edges)
        else:
            coding: Codec = get_args(Codec)[int(rng.integers(len(get_args(Codec))))]
            samples = codec(_limited(samples), coding, sample_rate=rate)
            done[name] = coding
    return replace(
        speech,
        samples=_limited(samples),
        phones=tuple(_scaled(phone, scale) for phone in speech.phones),
        words=tuple(_scaled(word, scale) for word in speech.words),
    ), done


def _range(name: str, text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        low, high = 1.0, 0.0
    if not low <= high:
        example = ":".join(f"{value:g}" for value in RANGES[name])
        raise ValueError(f"{name}={text}: expected a range, such as {name}={example}")
    return low, high


def _check(name: str, value: float) -> None:
    low, high = _LIMITS[name]
    if not low <= value <= high:
        raise ValueError(f"{name} must be from {low:g} to {high:g}, got {value:g}")


def _scaled(interval: Interval, scale: float) -> Interval:
    return replace(interval, start=interval.start * scale, end=interval.end * scale)


def _limited(samples: Samples) -> Samples:
    return samples / max(1.0, float(np.abs(samples).max(initial=0.0)))


def _babble(n_samples: int, others: Sequence[Samples], rng: np.random.Generator) -> Float[np.ndarray, " _samples"]:
    made = np.zeros(n_samples)
    for i in rng.permutation(len(others))[:_BABBLERS]:
        made += np.resize(np.roll(others[i], int(rng.integers(len(others[i])))), n_samples)
    return made


def _resampled(samples: Samples, old: int, new: int) -> Samples:
    """Without delay: the filter is symmetric."""
    ratio = Fraction(new, old)
    return signal.resample_poly(samples, ratio.numerator, ratio.denominator).astype(np.float32)


def _fitted(samples: Samples, n_samples: int) -> Samples:
    return np.pad(samples[:n_samples], (0, max(0, n_samples - len(samples)))).astype(np.float32)


def _delay(before: Samples, after: Samples) -> int:
    """By how many samples ``after`` is late, where the two fit best; what a decoder left uncompensated."""
    fit = signal.correlate(after, before, method="fft")
    lags = signal.correlation_lags(len(after), len(before))
    possible = (lags >= 0) & (lags <= 4096)
    return int(lags[possible][np.argmax(fit[possible])])
