"""Corpora: the utterances of a manifest or a folder, and whether they can be used.

Three layouts are read: NeMo-style manifests (JSON lines), LibriSpeech's folders, and the folders of the
Montreal Forced Aligner (MFA). Of recordings only the headers are read, and no JAX is imported.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

from gradalign._types import Seconds
from gradalign.alignment import Alignment, Interval
from gradalign.corpus import AUDIO_SUFFIXES, TRANSCRIPT_SUFFIXES, read_transcript
from gradalign.errors import FormatError
from gradalign.io import textgrid
from gradalign.io._files import PathLike, read_text, write_text
from gradalign.lexicon import PHONES, Lexicon, Pronunciation
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

SHOWN = 5
"""Names a report or a message gives of each kind; of the others it gives the number."""

_DURATION_SLACK_S = 0.1  # decoders disagree by up to a packet about the length of a lossy recording
_ROUNDING_S = 0.01  # times in manifests are often rounded to hundredths of a second
_THREADS = 8  # the wait is for the disk or the network, not for a core
_GRID = ".textgrid"
_PAUSES = frozenset({"sil", "sp", "<eps>"})


@dataclass(frozen=True, slots=True)
class Utterance:
    """What is said in a recording, or in the part ``[start, start + duration)`` of one.

    Attributes:
        audio: The recording.
        text: What is said in it, as people write it; "" where that is not known.
        id: Name of the utterance, for reports.
        speaker: Who says it, or "" if that is not known.
        set: Name of the corpus it belongs to.
        duration: Length in seconds as the source states it, >= 0; None where it states none, which
            means up to the end of the recording.
        start: Where it begins in the recording, in seconds, >= 0.
        phones: Exact or reference times of the phones in seconds from ``start``, or None.
        words: The same of the words.
        heard: The phones without times, where a recogniser heard them and the text is not known; else None.

    Raises:
        ValueError: If the duration or the start is negative or not finite.
    """

    audio: Path
    text: str
    id: str
    speaker: str
    set: str
    duration: Seconds | None
    start: Seconds = 0.0
    phones: tuple[Interval, ...] | None = None
    words: tuple[Interval, ...] | None = None
    heard: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name, value in (("duration", self.duration), ("start", self.start)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"the {name} is {value}, expected seconds, finite and >= 0")


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
        lines += [f"  {kind}: {len(names)}: {_some(names)}" for kind, names in self.problems.items()]
        if self.guessed:
            names = [f"{word} ({n})" if n > 1 else word for word, n in self.guessed.items()]
            lines.append(f"  pronounced by rule, in no dictionary: {len(names)} words: {_some(names)}")
        return "\n".join(lines)


def read(path: PathLike) -> list[Utterance]:
    """The utterances of a corpus in any of the three layouts.

    Args:
        path: A manifest (.jsonl or .json), see `read_manifest`; a folder with ``*.trans.txt`` files in it or
            below, see `read_librispeech`; any other folder, see `read_mfa`.

    Returns:
        At least one utterance. Nothing is known yet about the recordings: see `check`.

    Raises:
        FormatError: If there is nothing at the path, or it is none of these, or is malformed.
    """
    path = Path(path)
    if path.is_dir():
        librispeech = next(path.rglob("*.trans.txt"), None) is not None
        return read_librispeech(path) if librispeech else read_mfa(path)
    if path.suffix.lower() in (".jsonl", ".json"):
        return read_manifest(path)
    wrong = "is no corpus" if path.exists() else "no such file or folder"
    raise FormatError(f"{path}: {wrong}; expected a manifest (.jsonl) or a folder in the layout of LibriSpeech or MFA")


def read_manifest(path: PathLike) -> list[Utterance]:
    """The utterances of a NeMo-style manifest, one JSON object a line.

    Args:
        path: The manifest, in UTF-8. Each line has ``audio_filepath`` (relative to the manifest, or absolute)
            and ``text``, and may have ``duration`` and ``offset`` (seconds), ``speaker``, ``set``, ``id``, and
            ``phones`` and ``words`` (lists of ``[start, end, label]`` in seconds from the offset). Other keys
            are ignored, and so are blank lines.

    Returns:
        The utterances in order. Where it is not given, the set is named after the manifest and the id after
        the recording, with a number if that id is taken.

    Raises:
        FormatError: If the file cannot be read, holds no utterance, or has broken lines; these are numbered.
    """
    path = Path(path)
    found: list[Utterance] = []
    broken: list[str] = []
    # Not `splitlines`: JSON strings may hold characters that it takes for line breaks.
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            found.append(_from_json(line, path))
        except (ValueError, OverflowError, RecursionError) as error:
            broken.append(f"line {number}: {error}")
    _refuse_broken(broken, path, "broken lines")
    if not found:
        raise FormatError(f"{path}: holds no utterance; expected one JSON object a line")
    return _with_ids(found)


def read_librispeech(folder: PathLike) -> list[Utterance]:
    """The utterances of LibriSpeech, or of a corpus laid out like it.

    Args:
        folder: The corpus, one of its splits, a speaker or a chapter. ``SPLIT/SPEAKER/CHAPTER/*.trans.txt``
            have lines of an id and its text; the recording, such as ``ID.flac``, lies beside.

    Returns:
        The utterances by chapter, without durations. The set is the split; the speaker is what comes before
        the first hyphen of the id.

    Raises:
        FormatError: If there is no such folder, no ``*.trans.txt`` file in it or below, or one is not text.
    """
    folder, suffixes = _folder(folder), _by_preference(".flac")
    found: list[Utterance] = []
    for transcripts in sorted(folder.rglob("*.trans.txt")):
        # Absolute, so that the split has a name even if the folder given is one of its speakers.
        split = transcripts.absolute().parent.parent.parent.name
        beside = {path.name for path in transcripts.parent.iterdir()}
        for line in read_text(transcripts).split("\n"):
            if not line.strip():
                continue
            name, _, text = line.strip().partition(" ")
            suffix = next((s for s in suffixes if name + s in beside), ".flac")
            audio = transcripts.parent / f"{name}{suffix}"
            found.append(Utterance(audio, text.strip(), name, name.partition("-")[0], split, None))
    if not found:
        raise FormatError(f"{folder}: no transcripts in this folder or below; expected files such as 84-1.trans.txt")
    return found


def read_mfa(folder: PathLike) -> list[Utterance]:
    """The utterances of a folder laid out for the Montreal Forced Aligner, or put out by it.

    Args:
        folder: Recordings in it or below, usually in one folder a speaker, each with a file of the same name
            beside it: its transcript (.lab or .txt), or a TextGrid, which goes first. In a TextGrid each tier
            is a speaker and each interval an utterance; but the tiers ``words`` and ``phones`` (also
            ``SPEAKER - words``), as MFA writes them, are reference times of the whole recording.

    Returns:
        The utterances by path. Recordings without a transcript, and transcripts without a recording, are among
        them, for `check` to name. The set is the folder's name, the speaker the first folder below it or the
        tier. MFA's pauses are left out of the reference times, and phones that differ from `PHONES` by stress
        or case take that name.

    Raises:
        FormatError: If there is no such folder, nothing in it, or a transcript or TextGrid is malformed; all
            such are named.
    """
    folder = _folder(folder)
    files: dict[Path, dict[str, Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in {*AUDIO_SUFFIXES, *TRANSCRIPT_SUFFIXES, _GRID} and path.is_file():
            files.setdefault(path.with_suffix(""), {})[path.suffix.lower()] = path
    with_audio = {stem.parent for stem, beside in files.items() if AUDIO_SUFFIXES & beside.keys()}
    found: list[Utterance] = []
    broken: list[str] = []
    for stem, beside in files.items():
        if beside.keys() == {".txt"} and stem.parent not in with_audio:
            continue  # some text about the corpus, such as a licence
        try:
            found += _beside(stem, beside, folder)
        except FormatError as error:
            broken.append(str(error))
    _refuse_broken(broken, folder, "broken files")
    if not found:
        raise FormatError(f"{folder}: no recordings in this folder or below; expected files such as x.wav with x.lab")
    return found


def write(utterances: Iterable[Utterance], path: PathLike, *, overwrite: bool = False) -> None:
    """Write a manifest that `read_manifest` reads, in one step.

    Args:
        utterances: What to write. Recordings below the manifest's folder are named relative to it, so that the
            folder can be moved; others by their absolute path. Scores of intervals are left out.
        path: Where to.
        overwrite: Replace a file that is there already.

    Raises:
        FormatError: If the path is taken or cannot be written.
    """
    path = Path(path)
    lines = [json.dumps(_to_json(u, path), ensure_ascii=False, allow_nan=False) + "\n" for u in utterances]
    write_text(path, "".join(lines), overwrite=overwrite)


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


# ---- manifests


def _from_json(line: str, manifest: Path) -> Utterance:
    def refuse(constant: str) -> float:
        raise ValueError(f"{constant} is not JSON")

    try:
        row = json.loads(line, parse_constant=refuse)
    except ValueError as error:
        raise ValueError(f"got {_short(line)}, expected one JSON object ({error})") from error
    if not isinstance(row, dict):
        raise ValueError(f"got {_short(line)}, expected one JSON object")
    return Utterance(
        audio=manifest.parent / _text(row, "audio_filepath"),
        text=_text(row, "text"),
        id=_name(row, "id"),
        speaker=_name(row, "speaker"),
        set=_name(row, "set") or manifest.stem,
        duration=_seconds(row, "duration"),
        start=_seconds(row, "offset") or 0.0,
        phones=_intervals(row, "phones"),
        words=_intervals(row, "words"),
        heard=_labels(row, "heard"),
    )


def _to_json(utterance: Utterance, manifest: Path) -> dict[str, Any]:
    folder, audio = manifest.parent.absolute(), utterance.audio.absolute()
    row: dict[str, Any] = {
        "audio_filepath": audio.relative_to(folder).as_posix() if audio.is_relative_to(folder) else str(audio),
        "duration": utterance.duration,
        "text": utterance.text,
        "speaker": utterance.speaker,
        "set": utterance.set,
        "id": utterance.id,
    }
    if utterance.start:
        row["offset"] = utterance.start
    for key, intervals in (("phones", utterance.phones), ("words", utterance.words)):
        if intervals is not None:
            row[key] = [[i.start, i.end, i.label] for i in intervals]
    if utterance.heard is not None:
        row["heard"] = list(utterance.heard)
    return row


def _text(row: dict[str, Any], key: str) -> str:
    if key not in row:
        raise ValueError(f"{key} is missing, expected text")
    if not isinstance(row[key], str):
        raise ValueError(f"{key} is {_short(row[key])}, expected text")
    return row[key]


def _name(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    if isinstance(value, int) and not isinstance(value, bool):  # many manifests number their speakers
        return str(value)
    return "" if value is None else _text(row, key)


def _seconds(row: dict[str, Any], key: str) -> Seconds | None:
    value = row.get(key)
    if value is None:
        return None
    if _is_number(value):
        return float(value)
    raise ValueError(f"{key} is {_short(value)}, expected seconds")


def _intervals(row: dict[str, Any], key: str) -> tuple[Interval, ...] | None:
    rows = row.get(key)
    if rows is None:
        return None
    if not isinstance(rows, list):
        raise ValueError(f"{key} is {_short(rows)}, expected a list of [start, end, label]")
    found = []
    for n, entry in enumerate(rows):
        match entry:
            case [start, end, str(label)] if _is_number(start) and _is_number(end):
                try:
                    found.append(Interval(float(start), float(end), label))
                except ValueError as error:
                    raise ValueError(f"{key}[{n}]: {error}") from error
            case _:
                raise ValueError(f"{key}[{n}] is {_short(entry)}, expected [start, end, label]")
    return tuple(found)


def _labels(row: dict[str, Any], key: str) -> tuple[str, ...] | None:
    labels = row.get(key)
    if labels is None:
        return None
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"{key} is {_short(labels)}, expected a list of phones")
    return tuple(labels)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _with_ids(utterances: Sequence[Utterance]) -> list[Utterance]:
    """Those without an id named after their recordings, each differently."""
    taken = {u.id for u in utterances}
    times: Counter[str] = Counter()
    named = []
    for utterance in utterances:
        name, stem = utterance.id, utterance.audio.stem
        while not name:
            times[stem] += 1
            wanted = f"{stem}-{times[stem]}" if times[stem] > 1 else stem
            name = "" if wanted in taken else wanted
        taken.add(name)
        named.append(replace(utterance, id=name))
    return named


# ---- folders


def _folder(path: PathLike) -> Path:
    path = Path(path)
    if not path.is_dir():
        raise FormatError(f"{path}: " + ("is a file, expected a folder" if path.exists() else "no such folder"))
    return path


def _by_preference(first: str) -> list[str]:
    """Suffixes of recordings, for where one recording is there in several formats."""
    return sorted(AUDIO_SUFFIXES, key=lambda suffix: (suffix != first, suffix))


def _beside(stem: Path, files: dict[str, Path], folder: Path) -> list[Utterance]:
    """The utterances of files that differ by suffix alone, in MFA's layout."""
    audio = next((files[suffix] for suffix in _by_preference(".wav") if suffix in files), None)
    name = stem.relative_to(folder)
    whole = Utterance(
        audio=audio or stem.with_name(f"{stem.name}.wav"),
        text="",
        id=name.as_posix(),
        speaker=name.parts[0] if len(name.parts) > 1 else "",
        set=folder.absolute().name,
        duration=None,
    )
    transcript = next((files[suffix] for suffix in TRANSCRIPT_SUFFIXES if suffix in files), None)
    if transcript is not None:
        whole = replace(whole, text=read_transcript(transcript).strip())
    return _from_grid(textgrid.read(files[_GRID]), whole) if _GRID in files else [whole]


def _from_grid(grid: Alignment, whole: Utterance) -> list[Utterance]:
    """Reference times of the whole recording, or one utterance an interval."""
    timed_words, timed_phones = _reference(grid, "words"), _reference(grid, "phones")
    if timed_words is not None or timed_phones is not None:
        text = whole.text if timed_words is None else " ".join(word.label for word in timed_words)
        phones = None if timed_phones is None else tuple(replace(p, label=_phone(p.label)) for p in timed_phones)
        return [replace(whole, text=text, duration=grid.duration, phones=phones, words=timed_words)]
    parts = sorted(((i.start, tier.name.strip(), i) for tier in grid.tiers for i in tier), key=lambda part: part[:2])
    if not parts:
        return [whole]
    return [
        replace(
            whole,
            text=part.label.strip(),
            id=f"{whole.id}#{number}",
            speaker=speaker,
            duration=part.duration,
            start=part.start,
        )
        for number, (_, speaker, part) in enumerate(parts, 1)
    ]


def _reference(grid: Alignment, kind: str) -> tuple[Interval, ...] | None:
    """What MFA put out: the tier of this name, or all speakers' tiers together; None if there is none."""
    tiers = [t for t in grid.tiers if t.name.lower() == kind or t.name.lower().endswith(f" - {kind}")]
    if not tiers:
        return None
    found = (i for tier in tiers for i in tier if i.label.strip().lower() not in _PAUSES)
    return tuple(sorted(found, key=lambda i: (i.start, i.end)))


def _phone(label: str) -> str:
    plain = label.strip().upper().rstrip("012")
    return plain if plain in PHONES else label.strip()


# ---- checks

_Problems = list[tuple[Kind, str]]
_Pronounce = Callable[[str], tuple[Pronunciation, ...]]


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
    given = utterance.heard if utterance.phones is None else tuple(phone.label for phone in utterance.phones)
    if not utterance.text.strip() and not utterance.heard:
        return 0, [("no text", "")]
    if given is not None:
        unknown = dict.fromkeys(label for label in given if label not in labels)
        return len(given), [("unknown phones", _some(list(unknown)))] if unknown else []
    words = words_of(utterance.text)
    if not words:
        return 0, [("no text", f"only symbols: {_short(utterance.text)}")]
    n_phones, silent = 0, []
    for word in words:
        spoken = [pronounce(part) for part in word.spoken]
        if not spoken or not all(spoken):
            silent.append(word.text)
            continue
        n_phones += sum(len(ways[0].phones) for ways in spoken)
        guessed.update(part for part, ways in zip(word.spoken, spoken, strict=True) if ways[0].source == "g2p")
    return n_phones, [("no pronunciation", _some(silent))] if silent else []


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


# ---- messages


def _refuse_broken(broken: list[str], path: Path, what: str) -> None:
    if broken:
        more = f"; and {len(broken) - SHOWN} more {what}" if len(broken) > SHOWN else ""
        raise FormatError(f"{path}: " + "; ".join(broken[:SHOWN]) + more)


def _some(names: Sequence[str]) -> str:
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
