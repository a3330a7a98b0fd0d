"""espeak-ng: a formant synthesiser that reports each word and phone, exact to the sample."""

import ctypes
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from difflib import SequenceMatcher
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gradalign.errors import GradalignError
from gradalign.lexicon import Lexicon
from gradalign.synth.phones import Segment, of_espeak

ACCENTS = {
    "en-us": "en-US",
    "en-us-nyc": "en-US-nyc",
    "en-gb": "en",
    "en-gb-scotland": "en-GB-scotland",
    "en-gb-x-rp": "en-GB-x-rp",
    "en-gb-x-gbclan": "en-GB-x-gbclan",
    "en-gb-x-gbcwmd": "en-GB-x-gbcwmd",
    "en-029": "en-029",
}
"""English accents, and the files that espeak-ng has them in; en-029 is that of the Caribbean."""

VARIANTS = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5")
"""Speakers, male and female, for any accent."""

LOWEST_PITCH, HIGHEST_PITCH = 0.7, 1.6
SLOWEST, FASTEST = 2.0, 0.5
_WORDS_PER_MINUTE = 175  # the usual rate; others are inversely proportional to how long a text takes
# The pitch parameter by the ratio to its default of 50, measured with en-us and en-us+f3, which agree within 6 %.
_PITCH_RATIOS = (0.68, 0.82, 0.90, 1.0, 1.09, 1.33, 1.62)
_PITCHES = (0, 20, 40, 50, 60, 80, 99)
_NO_ECHO = "\x011H"  # an embedded command: half of the variants have one, which would run into closures
_PAUSE_S = 0.15  # put before and after, as the other engines do by themselves
_SILENT = 100 / 32768  # what is left of an echo is below this
_STOPS = frozenset({"P", "B", "T", "D", "K", "G", "CH", "JH"})


class _Event(NamedTuple):
    kind: str  # "word", "phone" or "end"
    position: int  # in the text, from 1
    sample: int
    name: str  # the mnemonic of a phone


class _Phone(NamedTuple):
    phones: tuple[str, ...]  # none for silence
    start: int  # in samples
    end: int
    unit: int  # the word event before it


@lru_cache(maxsize=1)
def is_installed() -> bool:
    """Whether the library is here, which brings all voices."""
    try:
        ctypes.CDLL("libespeak-ng.so.1")
    except OSError:
        return False
    return True


def speak(texts: list[str], name: str, stretch: float, pitch: float) -> Iterator[tuple[np.ndarray, int, list[Segment]]]:
    """Samples, their rate, and the phones of each text.

    Args:
        texts: In ASCII.
        name: An accent, or an accent and a variant such as "en-us+f1".
        stretch: How much slower than usual.
        pitch: How much higher than usual.

    Raises:
        ValueError: If an option is out of what the engine can do.
        GradalignError: If the engine fails or says an unknown phone.
    """
    if not LOWEST_PITCH <= pitch <= HIGHEST_PITCH or not FASTEST <= stretch <= SLOWEST:
        raise ValueError(
            f"espeak-ng can change pitch by {LOWEST_PITCH} to {HIGHEST_PITCH} and stretch by {FASTEST} to {SLOWEST}, "
            f"got {pitch} and {stretch}"
        )
    accent, plus, variant = name.partition("+")
    asked = {
        "voice": ACCENTS[accent] + plus + variant,
        "rate": round(_WORDS_PER_MINUTE / stretch),
        "pitch": round(float(np.interp(pitch, _PITCH_RATIOS, _PITCHES))),
    }
    for text in texts:
        rate, events, samples = _run(asked | {"text": _NO_ECHO + text})
        pause = np.zeros(round(_PAUSE_S * rate), np.float32)
        segments = list(_segments(text, _phones(events, samples, accent, rate), events, rate))
        shifted = [s._replace(start=s.start + len(pause) / rate, end=s.end + len(pause) / rate) for s in segments]
        yield np.concatenate([pause, samples, pause]), rate, shifted


def _run(asked: dict[str, str | int]) -> tuple[int, list[_Event], np.ndarray]:
    """Sample rate, events and samples."""
    program = Path(__file__).with_name("_espeak_process.py")
    # Isolated and without site packages it starts in 20 ms.
    done = subprocess.run([sys.executable, "-I", "-S", program], input=json.dumps(asked).encode(), capture_output=True)
    if done.returncode:
        raise GradalignError(f"espeak-ng failed with status {done.returncode}: {done.stderr.decode()[-500:].strip()}")
    head, _, samples = done.stdout.partition(b"\n")
    found = json.loads(head)
    return (
        found["rate"],
        [_Event(*event) for event in found["events"]],
        np.frombuffer(samples, np.int16).astype(np.float32) / 32768,
    )


def _phones(events: list[_Event], samples: np.ndarray, accent: str, rate: int) -> list[_Phone]:
    """The phones in the order of time, with the marks that are not phones of their own joined to those that are."""
    found: list[_Phone] = []
    glide: int | None = None  # where a palatal glide between two vowels began: it belongs to the second
    unit = -1
    for number, ((_, _, before, _), (kind, _, start, name)) in enumerate(pairwise([_Event("", 0, 0, ""), *events])):
        unit += kind == "word"
        if kind != "phone":
            continue
        # After a final l the event of the next word comes too early, with that of the l itself.
        later = (at for kind, _, at, _ in events[number + 1 :] if kind == "phone" or at > start)
        end = next(later, len(samples))
        if name == ";":
            glide = start
        elif name == ":" and found:
            found[-1] = found[-1]._replace(end=end)
        else:
            phones = of_espeak(name, accent, start / rate)
            if phones and phones[0] in _STOPS:
                # The engine reports a stop at its burst; the closure before it, silent, is half of it.
                start = _closure(samples, before, start)
                if found and found[-1].end > start:
                    found[-1] = found[-1]._replace(end=start)
            if glide is not None and phones:
                start = glide
            glide = None
            follows_r = bool(found and found[-1].phones and found[-1].phones[-1] in ("R", "ER"))
            if phones == ("R",) and follows_r and (name == "r-" or found[-1].unit == unit):
                found[-1] = found[-1]._replace(end=end)  # CMUdict has HH ER IY for "hurry"
            elif phones in (("L",), ("R",)) and found and found[-1].unit == unit and _is_coda(events[number + 1 :]):
                # A vowel and a liquid that ends its syllable are one movement, with the liquid's event at its end.
                found[-1] = found[-1]._replace(phones=(*found[-1].phones, *phones), end=end)
            else:
                found.append(_Phone(phones, start, end, unit))
    return found


def _is_coda(events: list[_Event]) -> bool:
    """Whether no vowel, and no glide to one, comes next."""
    following = next((name for kind, _, _, name in events if kind == "phone"), "_")
    return following[0] not in ";aAeEiIoOuUV0@3"


def _closure(samples: np.ndarray, earliest: int, burst: int) -> int:
    """Where the silence that ends at ``burst`` begins; not before ``earliest``."""
    loud = np.flatnonzero(np.abs(samples[earliest:burst]) > _SILENT)
    return earliest + int(loud[-1]) + 1 if len(loud) else earliest


def _segments(text: str, phones: list[_Phone], events: list[_Event], rate: int) -> Iterator[Segment]:
    """Phones with their words. One word event may stand for several words ("of the"), or several for one ("1984")."""
    tokens = [(m.end(), _bare(m[0])) for m in re.finditer(r"\S+", text) if any(c.isalnum() for c in m[0])]
    units: list[int] = []  # the first token of each word event
    for kind, position, _, _ in events:
        if kind == "word":
            # Positions count from 1, and now and then point to the space before the word.
            at = position - 1 - len(_NO_ECHO)
            token = next((i for i, (end, _) in enumerate(tokens) if end > at), len(tokens) - 1)
            units.append(max(token, units[-1]) if units else 0)
    flat = [piece for phone in phones for piece in _split(phone)]
    for first in sorted(set(units)):
        last = min((token for token in units if token > first), default=len(tokens))
        mine = [p for p in flat if p.unit >= 0 and units[p.unit] == first and p.phones]
        cuts = _cuts(tuple(p.phones[0] for p in mine), tuple(word for _, word in tokens[first:last]))
        for token, (a, b) in enumerate(pairwise(cuts), start=first):
            for p in mine[a:b]:
                yield Segment(p.phones[0], p.start / rate, p.end / rate, token + 1, tokens[token][1])


def _split(phone: _Phone) -> Iterator[_Phone]:
    """One piece a CMUdict phone, of equal length."""
    n = len(phone.phones)
    edges = [phone.start + (phone.end - phone.start) * i // max(n, 1) for i in range(n + 1)]
    for (a, b), name in zip(pairwise(edges), phone.phones, strict=True):
        yield _Phone((name,), a, b, phone.unit)


def _cuts(phones: tuple[str, ...], words: tuple[str, ...]) -> list[int]:
    """Where to cut the phones into one piece a word: the pieces that differ least from the lexicon's pronunciations."""
    if len(words) == 1 or len(phones) < len(words):
        return [0, *[len(phones)] * len(words)]

    @cache
    def best(start: int, word: int) -> tuple[int, tuple[int, ...]]:
        if word == len(words) - 1:
            return _distance(phones[start:], words[word]), (len(phones),)
        ends = range(start + 1, len(phones) - (len(words) - word - 1) + 1)
        found = []
        for end in ends:
            cost, rest = best(end, word + 1)
            found.append((_distance(phones[start:end], words[word]) + cost, (end, *rest)))
        return min(found)

    return [0, *best(0, 0)[1]]


@lru_cache(maxsize=4096)
def _distance(phones: tuple[str, ...], word: str) -> int:
    """Phones that are not those of the nearest pronunciation, on both sides; 0 for a word without one."""
    known = [p.phones for p in _lexicon().pronunciations(word)]
    matches = [sum(block.size for block in SequenceMatcher(None, phones, p).get_matching_blocks()) for p in known]
    return min((len(phones) + len(p) - 2 * n for p, n in zip(known, matches, strict=True)), default=0)


@lru_cache(maxsize=1)
def _lexicon() -> Lexicon:
    return Lexicon()


def _bare(token: str) -> str:
    """A token without the punctuation around it."""
    return re.sub(r"^\W+|\W+$", "", token)
