"""Speech whose times are known, and what it lacks if a synthesiser made it."""

from dataclasses import replace
from itertools import accumulate, pairwise
from typing import NamedTuple

import librosa
import numpy as np
from jaxtyping import Float

from gradalign import audio
from gradalign.alignment import Interval
from gradalign.bundle import Bundle
from gradalign.calibration import CLASSES
from gradalign.manifest import Utterance
from gradalign.synth.augment import noise

PAUSES = 0.125
"""How often there is a pause before a word."""

CLEAN = 1 / 3
"""How often no noise is put under the speech."""

FADES = 2 / 3
"""How often what is said fades before a pause, and how often it rises after one."""

HESITATIONS = 0.06
"""How often a vowel is drawn out."""

LONGEST_VOWEL_S = 0.7


class TimedUtterance(NamedTuple):
    """Speech whose times are known.

    Attributes:
        samples: At the model's rate, in [-1, 1].
        text: What is said, as people write it.
        phones: Labels of the model with their times in seconds; none if only words have times.
        words: Words of the text with their times.
        name: Of the utterance, for messages.
    """

    samples: Float[np.ndarray, " samples"]
    text: str
    phones: tuple[Interval, ...]
    words: tuple[Interval, ...]
    name: str = ""


def read(utterance: Utterance, bundle: Bundle) -> TimedUtterance:
    """An utterance of a corpus, with its samples.

    Raises:
        FormatError: If the recording cannot be read.
        ValueError: If the utterance has no times of words.
    """
    if utterance.words is None:
        raise ValueError(f"{utterance.id} has no times of words")
    rate = bundle.features.sample_rate
    samples = audio.levelled(audio.read(utterance.audio, sample_rate=rate))
    first = round(utterance.start * rate)
    last = None if utterance.duration is None else first + round(utterance.duration * rate)
    # A copy: a view would keep the whole of a long recording.
    cut = np.array(samples[first:last])
    return TimedUtterance(cut, utterance.text, utterance.phones or (), utterance.words, utterance.id)


def among_people(utterance: TimedUtterance, rng: np.random.Generator, *, sample_rate: int) -> TimedUtterance:
    """Synthetic speech with what it lacks: hesitation, loud and soft words, pauses, and the noise of every recording.

    One vowel of seventeen is drawn out 1.5 to 5 times, to 0.7 s at most. Each word becomes up to 8 dB louder or
    softer. Up to a second is put before and after them all, and before one word of eight. Two times of three the last
    40 to 250 ms before it fade by 5 to 30 dB, and as often the first 20 to 120 ms after it rise by 5 to 25 dB: people
    run out of breath and begin softly, where synthesisers stop and start. One pause of three holds a sound that is no
    speech, a burst of noise 20 dB softer to 10 dB louder than the speech: people breathe, laugh and knock. Then pink or
    white noise lies under two utterances of three, 8 to 40 dB below the speech. All times stay exact.

    Args:
        utterance: Speech that is not all zero.
        rng: Of every choice.
        sample_rate: In Hz.
    """
    slower = _hesitant(utterance, rng, sample_rate)
    uneven = slower._replace(samples=_uneven(slower, rng, sample_rate))
    longer = _with_pauses(uneven, rng, sample_rate)
    kind = ("pink", "white")[int(rng.integers(2))]
    if rng.random() < CLEAN:
        return longer
    return longer._replace(samples=noise(longer.samples, float(rng.uniform(8.0, 40.0)), kind, rng))


def _hesitant(utterance: TimedUtterance, rng: np.random.Generator, sample_rate: int) -> TimedUtterance:
    """The utterance with some vowels drawn out, by a phase vocoder."""
    vowels, n_fft = CLASSES["vowel"].split(), 2 ** round(np.log2(0.016 * sample_rate))
    pieces, done, moved = [], 0, 0.0
    old, new = [0.0], [0.0]  # what time has become of what time, in samples; straight between these
    for phone in utterance.phones:
        # A synthesiser's last time may lie behind the last sample.
        first, last = (min(round(edge * sample_rate), len(utterance.samples)) for edge in (phone.start, phone.end))
        factor = min(rng.uniform(1.5, 5.0), LONGEST_VOWEL_S * sample_rate / max(last - first, 1))
        drawn = rng.random() < HESITATIONS and phone.label in vowels
        if not drawn or factor < 1.2 or last - first < 2 * n_fft or first < done:
            continue
        short = np.asarray(utterance.samples[first:last], np.float32)
        long = librosa.effects.time_stretch(short, rate=1 / factor, n_fft=n_fft, hop_length=n_fft // 8)
        pieces += [utterance.samples[done:first], long]
        old += [first, last]
        new += [first + moved, first + moved + len(long)]
        done, moved = last, moved + len(long) - len(short)
    pieces.append(utterance.samples[done:])
    old.append(len(utterance.samples))
    new.append(len(utterance.samples) + moved)

    def at(seconds: float) -> float:
        beyond = max(seconds - old[-1] / sample_rate, 0.0)
        return float(np.interp(seconds * sample_rate, old, new)) / sample_rate + beyond

    def late(units: tuple[Interval, ...]) -> tuple[Interval, ...]:
        return tuple(replace(unit, start=at(unit.start), end=at(unit.end)) for unit in units)

    return utterance._replace(
        samples=np.concatenate(pieces), phones=late(utterance.phones), words=late(utterance.words)
    )


def _uneven(utterance: TimedUtterance, rng: np.random.Generator, sample_rate: int) -> Float[np.ndarray, " samples"]:
    """The samples with a gain for each word, which holds at its middle and glides to that of the next one."""
    middles = [(word.start + word.end) / 2 * sample_rate for word in utterance.words]
    decibels = np.interp(np.arange(len(utterance.samples)), middles, rng.uniform(-8.0, 8.0, len(middles)))
    return (np.asarray(utterance.samples) * 10 ** (decibels / 20)).astype(np.float32)


def _with_pauses(utterance: TimedUtterance, rng: np.random.Generator, sample_rate: int) -> TimedUtterance:
    """The utterance with pauses before and after it, and before some of its words."""
    cuts = [w.start for w in utterance.words[1:] if w.start > 0 and rng.random() < PAUSES]
    starts = [round(cut * sample_rate) for cut in cuts]
    parts = np.split(_fading(utterance, starts, rng, sample_rate), starts)
    loudness = float(np.sqrt(np.square(utterance.samples).mean()))
    gaps = [_pause(round(gap * sample_rate), loudness, rng) for gap in rng.uniform(0.0, 1.0, size=len(parts) + 1)]
    samples = np.concatenate([x for gap, part in zip(gaps, parts, strict=False) for x in (gap, part)] + gaps[-1:])
    shifts = [length / sample_rate for length in accumulate(map(len, gaps))]

    def late(units: tuple[Interval, ...]) -> tuple[Interval, ...]:
        found = []
        for unit in units:
            shift = shifts[sum((unit.start + unit.end) / 2 >= cut for cut in cuts)]
            found.append(replace(unit, start=unit.start + shift, end=unit.end + shift))
        return tuple(found)

    return utterance._replace(samples=samples, phones=late(utterance.phones), words=late(utterance.words))


def _fading(
    utterance: TimedUtterance, cuts: list[int], rng: np.random.Generator, sample_rate: int
) -> Float[np.ndarray, " samples"]:
    """The samples, which may rise from the first word after a pause, and fade to the last word before one.

    Where they are softest they stay so, until the pause: a breath before the word, a room's echo after it.
    """
    samples = np.array(utterance.samples, np.float32)
    words = [tuple(round(edge * sample_rate) for edge in (word.start, word.end)) for word in utterance.words]
    for first, cut in pairwise((0, *cuts, len(samples))):
        inside = [(start, end) for start, end in words if first <= (start + end) / 2 < cut]
        start, end = (max(inside[0][0], first), min(inside[-1][1], cut)) if inside else (first, cut)
        fade, fall = round(rng.uniform(0.04, 0.25) * sample_rate), rng.uniform(5.0, 30.0)
        rise, climb = round(rng.uniform(0.02, 0.12) * sample_rate), rng.uniform(5.0, 25.0)
        at = np.arange(first, cut)
        if rng.random() < FADES:
            samples[first:cut] *= 10 ** (np.interp(at, [max(end - fade, first), end], [0.0, -fall]) / 20)
        if rng.random() < FADES:
            samples[first:cut] *= 10 ** (np.interp(at, [start, min(start + rise, cut)], [-climb, 0.0]) / 20)
    return samples


def _pause(length: int, loudness: float, rng: np.random.Generator) -> Float[np.ndarray, " samples"]:
    """Silence, in one of three with a burst of noise that swells and fades somewhere in it."""
    pause = np.zeros(length, np.float32)
    burst = round(length * rng.uniform(0.2, 1.0))
    if rng.random() < 1 / 3 and burst > 1:
        at = int(rng.integers(length - burst + 1))
        made = rng.standard_normal(burst).astype(np.float32) * np.hanning(burst).astype(np.float32)
        if rng.random() < 0.5:  # a dull one
            made = np.cumsum(made) - np.linspace(0.0, made.sum(), burst)
        wanted = loudness * 10 ** (rng.uniform(-20.0, 10.0) / 20)
        pause[at : at + burst] = made * np.float32(wanted / max(float(np.sqrt(np.square(made).mean())), 1e-9))
    return pause
