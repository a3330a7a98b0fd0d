"""Timed synthetic speech: text spoken by an installed engine that also tells when each phone was said.

For training, benchmarks and examples, where times must be exact and nobody has to label anything. Flite and espeak-ng
are called as libraries, Festival as a program; all are optional Debian packages, looked for when a voice is asked for.
"""

import difflib
import fnmatch
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import librosa
import numpy as np
from jaxtyping import Float32

from gradalign._types import Seconds
from gradalign.alignment import Interval
from gradalign.errors import GradalignError
from gradalign.synth import espeak, festival, flite
from gradalign.synth.phones import Segment

SAMPLE_RATE = 16000
"""Rate of all speech made here, whatever the engine's own rate."""

_TYPOGRAPHIC = str.maketrans("‘’“”–—", "''\"\"--")


class _Voice(NamedTuple):
    engine: Literal["flite", "festival", "espeak"]
    name: str  # what the engine calls it
    package: str  # the Debian package that brings it


_VOICES = {
    "flite-awb": _Voice("flite", "cmu_us_awb", "flite"),
    "flite-kal": _Voice("flite", "cmu_us_kal", "flite"),
    "flite-kal16": _Voice("flite", "cmu_us_kal16", "flite"),
    "flite-rms": _Voice("flite", "cmu_us_rms", "flite"),
    "flite-slt": _Voice("flite", "cmu_us_slt", "flite"),
    "festival-kal_diphone": _Voice("festival", "kal_diphone", "festvox-kallpc16k"),
    "festival-ked_diphone": _Voice("festival", "ked_diphone", "festvox-kdlpc16k"),
    "festival-cmu_us_slt_arctic_hts": _Voice("festival", "cmu_us_slt_arctic_hts", "festvox-us-slt-hts"),
} | {
    f"espeak-{accent}{variant}": _Voice("espeak", f"{accent}{variant}", "espeak-ng")
    for accent in espeak.ACCENTS
    for variant in ("", *(f"+{v}" for v in espeak.VARIANTS))
}
FIXED_PITCH = ("flite-rms", "festival-cmu_us_slt_arctic_hts")
"""Voices that cannot change their pitch."""


@dataclass(frozen=True, slots=True)
class TimedSpeech:
    """One synthetic utterance and when each phone and word of it was said.

    Attributes:
        samples: Mono, in [-1, 1].
        sample_rate: In Hz.
        phones: CMUdict phones without stress as the engine said them, in time order; silence is left out.
        words: One interval a word of ``text`` that was spoken, from its first phone to its last, without the
            punctuation around it.
        text: What was asked for.
        voice: Who said it, as listed by `voices`.
    """

    samples: Float32[np.ndarray, " samples"]
    sample_rate: int
    phones: tuple[Interval, ...]
    words: tuple[Interval, ...]
    text: str
    voice: str

    @property
    def duration(self) -> Seconds:
        """Length in seconds."""
        return len(self.samples) / self.sample_rate


def voices() -> tuple[str, ...]:
    """Names of the voices that can speak on this machine."""
    return tuple(name for name, voice in _VOICES.items() if _is_installed(voice))


def packages() -> dict[str, str]:
    """All voices there are, installed or not, each with the Debian package that brings it."""
    return {name: voice.package for name, voice in _VOICES.items()}


def matching(patterns: Sequence[str]) -> tuple[str, ...]:
    """The voices meant by names or patterns, all of them installed, in the order of the patterns, each once.

    Args:
        patterns: Such as "flite-slt" or "espeak-en-us*"; a pattern means the installed voices that fit.

    Raises:
        ValueError: If there is no such voice.
        GradalignError: If a voice is not installed; the message names all such and their packages.
    """
    found: dict[str, None] = {}
    missing: dict[str, str] = {}
    for pattern in patterns:
        names = [pattern] if pattern in _VOICES else fnmatch.filter(_VOICES, pattern)
        if not names:
            raise _unknown(pattern)
        installed = [name for name in names if _is_installed(_VOICES[name])]
        found |= dict.fromkeys(installed)
        if not installed:
            missing |= {name: _VOICES[name].package for name in names}
    if missing:
        shown = ", ".join(missing) if len(missing) < 6 else f"{next(iter(missing))} and {len(missing) - 1} more"
        wanted = " ".join(sorted(set(missing.values())))
        verb = "is" if len(missing) == 1 else "are"
        raise GradalignError(f"{shown} {verb} not installed; on Debian: apt-get install {wanted}")
    return tuple(found)


def synthesise(text: str, voice: str, *, stretch: float = 1.0, pitch: float = 1.0) -> TimedSpeech:
    """Speech for ``text``, with the times the engine itself placed the phones at.

    The same arguments give the same samples.

    Args:
        text: English, one sentence or a few; line breaks count as spaces.
        voice: One of `voices`.
        stretch: How much slower than usual, > 0; 0.8 to 1.25 sounds natural. espeak-ng: 0.5 to 2, and not quite as
            much as asked for.
        pitch: How much higher than usual, > 0, as a ratio; the voices of `FIXED_PITCH` can only do 1. espeak-ng: 0.7
            to 1.6.

    Raises:
        ValueError: If the text has no letter or digit, or characters other than printable ASCII and typographic
            quotes and dashes; if there is no such voice; or if an option is out of range.
        GradalignError: If the engine is not installed, fails, or says nothing or a phone that CMUdict has not.

    Example:
        >>> speech = synthesise("Hello world.", "flite-slt")  # doctest: +SKIP
        >>> [word.label for word in speech.words]  # doctest: +SKIP
        ['Hello', 'world']
    """
    return synthesise_all([text], voice, stretch=stretch, pitch=pitch)[0]


def synthesise_all(
    texts: Sequence[str], voice: str, *, stretch: float = 1.0, pitch: float = 1.0
) -> tuple[TimedSpeech, ...]:
    """`synthesise` for many texts; with Festival, which takes a second to start, much faster than one by one."""
    if voice not in _VOICES:
        raise _unknown(voice)
    if not (0 < stretch < math.inf and 0 < pitch < math.inf):
        raise ValueError(f"stretch and pitch must be > 0 and finite, got {stretch} and {pitch}")
    if pitch != 1 and voice in FIXED_PITCH:
        raise ValueError(f"voice {voice} cannot change its pitch by {pitch}; leave it at 1 or take another voice")
    for text in texts:
        if not can_be_read(text):
            raise ValueError(f"the voices read English in ASCII, with at least one letter or digit; got {text!r}")
    asked = _VOICES[voice]
    if not _is_installed(asked):
        raise GradalignError(f"voice {voice} is not installed; on Debian: apt-get install {asked.package}")
    speak = {"flite": flite.speak, "festival": festival.speak, "espeak": espeak.speak}[asked.engine]
    try:
        spoken = list(speak([_plain(text) for text in texts], asked.name, stretch, pitch))
    except GradalignError as error:
        raise GradalignError(f"voice {voice}: {error}") from error
    return tuple(_timed(*said, text, voice) for said, text in zip(spoken, texts, strict=True))


def can_be_read(text: str) -> bool:
    """Whether the voices can read a text: printable ASCII and typographic quotes and dashes, with a letter or digit."""
    plain = _plain(text)
    return plain.isascii() and plain.isprintable() and any(c.isalnum() for c in plain)


def _plain(text: str) -> str:
    return " ".join(text.translate(_TYPOGRAPHIC).split())


def _timed(samples: np.ndarray, rate: int, segments: Sequence[Segment], text: str, voice: str) -> TimedSpeech:
    if rate != SAMPLE_RATE:
        samples = librosa.resample(samples, orig_sr=rate, target_sr=SAMPLE_RATE)
        samples = samples / max(1.0, float(np.abs(samples).max(initial=0.0)))  # it may overshoot
    phones: list[Interval] = []
    words: dict[int, Interval] = {}
    for segment in segments:
        if not segment.phone:
            continue
        phones.append(Interval(segment.start, segment.end, segment.phone))
        if segment.token:
            begin = words[segment.token].start if segment.token in words else segment.start
            words[segment.token] = Interval(begin, segment.end, segment.word)
    if not phones:
        raise GradalignError(f"voice {voice} finds nothing to say in {text!r}")
    return TimedSpeech(samples.astype(np.float32), SAMPLE_RATE, tuple(phones), tuple(words.values()), text, voice)


def _unknown(voice: str) -> ValueError:
    near = difflib.get_close_matches(voice, _VOICES, n=3)
    others = ", ".join(name for name in _VOICES if not name.startswith("espeak"))
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {others}, and espeak-en-us among others."
    return ValueError(f"no voice {voice!r}; {hint} All of them: gradalign synth --list-voices")


def _is_installed(voice: _Voice) -> bool:
    if voice.engine == "espeak":
        return espeak.is_installed()
    return {"flite": flite, "festival": festival}[voice.engine].is_installed(voice.name)
