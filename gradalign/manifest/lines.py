"""NeMo-style manifests, one JSON object a line: reading and writing."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradalign._types import Seconds
from gradalign.alignment import Interval
from gradalign.errors import FormatError
from gradalign.io._files import PathLike, read_text, write_text
from gradalign.manifest._messages import refuse_broken, short
from gradalign.manifest.utterance import Utterance


def read_manifest(path: PathLike) -> list[Utterance]:
    """The utterances of a NeMo-style manifest, one JSON object a line.

    Args:
        path: The manifest, in UTF-8. Each line has ``audio_filepath`` (relative to the manifest, or absolute)
            and ``text``, and may have ``duration`` and ``offset`` (seconds), ``speaker``, ``set``, ``id``,
            ``phones`` and ``words`` (lists of ``[start, end, label]`` in seconds from the offset), and ``heard`` (a
            list of phones). Other keys are ignored, and so are blank lines.

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
    refuse_broken(broken, path, "broken lines")
    if not found:
        raise FormatError(f"{path}: holds no utterance; expected one JSON object a line")
    return _with_ids(found)


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


def _from_json(line: str, manifest: Path) -> Utterance:
    def refuse(constant: str) -> float:
        raise ValueError(f"{constant} is not JSON")

    try:
        row = json.loads(line, parse_constant=refuse)
    except ValueError as error:
        raise ValueError(f"got {short(line)}, expected one JSON object ({error})") from error
    if not isinstance(row, dict):
        raise ValueError(f"got {short(line)}, expected one JSON object")
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
        raise ValueError(f"{key} is {short(row[key])}, expected text")
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
    raise ValueError(f"{key} is {short(value)}, expected seconds")


def _intervals(row: dict[str, Any], key: str) -> tuple[Interval, ...] | None:
    rows = row.get(key)
    if rows is None:
        return None
    if not isinstance(rows, list):
        raise ValueError(f"{key} is {short(rows)}, expected a list of [start, end, label]")
    found = []
    for n, entry in enumerate(rows):
        match entry:
            case [start, end, str(label)] if _is_number(start) and _is_number(end):
                try:
                    found.append(Interval(float(start), float(end), label))
                except ValueError as error:
                    raise ValueError(f"{key}[{n}]: {error}") from error
            case _:
                raise ValueError(f"{key}[{n}] is {short(entry)}, expected [start, end, label]")
    return tuple(found)


def _labels(row: dict[str, Any], key: str) -> tuple[str, ...] | None:
    labels = row.get(key)
    if labels is None:
        return None
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"{key} is {short(labels)}, expected a list of phones")
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
