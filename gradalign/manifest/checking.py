"""Whether the utterances of a corpus can be used. Of recordings only the headers are read."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Literal, get_args

from gradalign._types import Seconds
from gradalign.alignment import Interval
from gradalign.lexicon import PHONES, Lexicon, Pronunciation
from gradalign.manifest._messages import short, some
from gradalign.manifest.utterance import Utterance
from gradalign.text import words as words_of
from gradalign.transcript import default_lexicon

Kind = Literal[
    "missing audio",
    "unreadable audio",
    "wrong duration",
    "too short",
    "too long",
    "no text",
    "no pronunciation",
    "unknown phones",
    "too many phones",
    "bad times",
    "repeated id",
]
"""What `check` finds wrong with an utterance, in the order of reports."""

_DURATION_SLACK_S = 0.1  # decoders disagree by up to a packet about the length of a lossy recording
_ROUNDING_S = 0.01  # times in manifests are often rounded to hundredths of a second
_THREADS = 8  # the wait is for the disk or the network, not for a core

_Problems = list[tuple[Kind, str]]
_Pronounce = Callable[[str], tuple[Pronunciation, ...]]


@dataclass(frozen=True, slots=True)
class Report:
    """What `check` found; as text, the counts and some names.

    Attributes:
        n_utterances: How many were checked.
        hours: Length of the usable ones together.
        problems: Per kind the utterances that have it, each as its id and, in brackets, what was found. An
            utterance may have several.
        guessed: Words in no dictionary, in lower case and the most frequent first, and how often each occurs.
            They are pronounced by rule, which is no problem, but less sure.
        usable: The utterances without a problem, in order; where the source states no duration, with that of
            the recording.
    """

    n_utterances: int
    hours: float
    problems: dict[Kind, tuple[str, ...]]
    guessed: dict[str, int]
    usable: tuple[Utterance, ...]

    def __str__(self) -> str:
        lines = [f"{self.n_utterances} utterances, {len(self.usable)} usable ({self.hours:.2f} h)"]
        lines += [f"  {kind}: {len(names)}: {some(names)}" for kind, names in self.problems.items()]
        if self.guessed:
            names = [f"{word} ({n})" if n > 1 else word for word, n in self.guessed.items()]
            lines.append(f"  pronounced by rule, in no dictionary: {len(names)} words: {some(names)}")
        return "\n".join(lines)


def check(
    utterances: Iterable[Utterance],
    *,
    min_duration_s: Seconds = 0.1,
    max_duration_s: Seconds | None = None,
    max_phones_per_s: float = 25.0,
    lexicon: Lexicon | None = None,
    labels: Collection[str] = PHONES,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Look for what would keep utterances from being used, without reading any sound.

    A stated duration is compared with that of the recording, unless the utterance is a part of it: one that
    starts later, or one of several. Where phones are given, the text is not pronounced.

    Args:
        utterances: Of one or several corpora; ids may repeat between sets.
        min_duration_s: Shorter ones are too short, >= 0.
        max_duration_s: Longer ones are too long; None for no limit.
        max_phones_per_s: More phones than this have no time to be said, > 0. The fastest speech has about 20.
        lexicon: Pronunciations; by default CMUdict and the package's grapheme-to-phoneme model.
        labels: Names that given phones may have.
        progress: Called after each utterance with the number done and the number of all.

    Returns:
        The counts, the names, and the utterances that can be used.
    """
    utterances = list(utterances)
    pronounce = cache((lexicon or default_lexicon()).pronunciations)
    n_parts = Counter(u.audio for u in utterances)
    problems: dict[Kind, list[str]] = {}
    guessed: Counter[str] = Counter()
    usable: list[Utterance] = []
    taken: set[tuple[str, str]] = set()
    with ThreadPoolExecutor(_THREADS) as pool:
        headers = {audio: pool.submit(_length_s, audio) for audio in n_parts}
        for number, utterance in enumerate(utterances, 1):
            length_s = headers[utterance.audio].result()
            whole = utterance.start == 0 and n_parts[utterance.audio] == 1
            duration_s, found = _sound_problems(utterance, length_s, whole, min_duration_s, max_duration_s)
            n_phones, found_in_text = _label_problems(utterance, pronounce, labels, guessed)
            found += found_in_text
            if duration_s and n_phones / duration_s > max_phones_per_s:
                found.append(("too many phones", f"{n_phones} in {duration_s:.2f} s"))
            found += _time_problems(utterance, duration_s)
            if (utterance.set, utterance.id) in taken:
                found.append(("repeated id", str(utterance.audio)))
            taken.add((utterance.set, utterance.id))
            for kind, detail in found:
                problems.setdefault(kind, []).append(f"{utterance.id} ({detail})" if detail else utterance.id)
            if not found:
                usable.append(replace(utterance, duration=duration_s))
            if progress is not None:
                progress(number, len(utterances))
    return Report(
        n_utterances=len(utterances),
        hours=sum(u.duration or 0.0 for u in usable) / 3600,
        problems={kind: tuple(problems[kind]) for kind in get_args(Kind) if kind in problems},
        guessed=dict(guessed.most_common()),
        usable=tuple(usable),
    )


def _length_s(audio: Path) -> Seconds | tuple[Kind, str]:
    """Length of a recording by its header, or what is wrong with it."""
    import soundfile

    try:
        if not audio.is_file():
            return "missing audio", str(audio)
        info = soundfile.info(audio)
    except (soundfile.LibsndfileError, OSError, RuntimeError, TypeError, ValueError) as error:
        return "unreadable audio", str(error)
    # What an encoder leaves that wrote to a pipe and could not come back to the header.
    if info.frames >= 2**62:
        return "unreadable audio", f"{audio}: the header states no length"
    return float(info.frames / info.samplerate)


def _sound_problems(
    utterance: Utterance,
    length_s: Seconds | tuple[Kind, str],
    whole: bool,
    min_duration_s: Seconds,
    max_duration_s: Seconds | None,
) -> tuple[Seconds | None, _Problems]:
    """How long the utterance is, as far as that is known, and what is wrong with its recording or length."""
    found: _Problems = []
    stated_s, start = utterance.duration, utterance.start
    duration_s = stated_s
    if isinstance(length_s, tuple):
        found.append(length_s)
    else:
        duration_s = max(0.0, length_s - start) if stated_s is None else stated_s
        end = start + (stated_s or 0.0)
        if whole and stated_s is not None and abs(stated_s - length_s) > _DURATION_SLACK_S:
            found.append(("wrong duration", f"stated {stated_s:.2f} s, the recording has {length_s:.2f} s"))
        elif end > length_s + _DURATION_SLACK_S:
            found.append(("wrong duration", f"goes to {end:.2f} s, the recording to {length_s:.2f} s"))
    if duration_s is not None and duration_s < min_duration_s:
        found.append(("too short", f"{duration_s:.2f} s"))
    if duration_s is not None and max_duration_s is not None and duration_s > max_duration_s:
        found.append(("too long", f"{duration_s:.2f} s"))
    return duration_s, found


def _label_problems(
    utterance: Utterance, pronounce: _Pronounce, labels: Collection[str], guessed: Counter[str]
) -> tuple[int, _Problems]:
    """How many phones there are to say, and what is wrong with the text or with the phones given."""
    given = utterance.labels
    if not utterance.text.strip() and not utterance.heard:
        return 0, [("no text", "")]
    if given is not None:
        unknown = dict.fromkeys(label for label in given if label not in labels)
        return len(given), [("unknown phones", some(list(unknown)))] if unknown else []
    words = words_of(utterance.text)
    if not words:
        return 0, [("no text", f"only symbols: {short(utterance.text)}")]
    n_phones, silent = 0, []
    for word in words:
        spoken = [pronounce(part) for part in word.spoken]
        if not spoken or not all(spoken):
            silent.append(word.text)
            continue
        n_phones += sum(len(ways[0].phones) for ways in spoken)
        guessed.update(part for part, ways in zip(word.spoken, spoken, strict=True) if ways[0].source == "g2p")
    return n_phones, [("no pronunciation", some(silent))] if silent else []


def _time_problems(utterance: Utterance, duration_s: Seconds | None) -> _Problems:
    """Intervals without order or outside of the utterance; of each kind, the first."""
    return [
        ("bad times", problem)
        for intervals in (utterance.phones, utterance.words)
        for problem in _first_wrong_time(intervals, duration_s)
    ]


def _first_wrong_time(intervals: tuple[Interval, ...] | None, duration_s: Seconds | None) -> Iterator[str]:
    if intervals is None:
        return
    if not intervals:
        yield "an empty list of times"
        return
    for a, b in pairwise(intervals):
        if b.start < a.end - _ROUNDING_S:
            yield f"{b.label} starts at {b.start:.3f} s, {a.label} before it ends at {a.end:.3f} s"
            return
    last = max(intervals, key=lambda i: i.end)
    if duration_s is not None and last.end > duration_s + _ROUNDING_S:
        yield f"{last.label} ends at {last.end:.3f} s, the utterance at {duration_s:.3f} s"
