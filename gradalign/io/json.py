"""The lossless form of an alignment: one JSON object with a version. Evidence is not stored."""

import json
from typing import Any, get_args

from gradalign.alignment import Alignment, Interval, Status, Tier, TranscriptWord
from gradalign.errors import FormatError
from gradalign.io._files import PathLike, read_alignment, write_text

FORMAT = "gradalign-alignment"
VERSION = 1


def read(path: PathLike) -> Alignment:
    """The alignment in a JSON file that `write` wrote.

    Args:
        path: The file, in UTF-8.

    Returns:
        The alignment, equal to the one written.

    Raises:
        FormatError: If there is no such file or `parse` refuses it; the message names it.
    """
    return read_alignment(path, parse)


def write(alignment: Alignment, path: PathLike, *, overwrite: bool = False) -> None:
    """Write an alignment as JSON, in one step.

    Args:
        alignment: What to write.
        path: Where to.
        overwrite: Replace a file that is there already.

    Raises:
        FormatError: If the path is taken or cannot be written, or a score is not finite.
    """
    write_text(path, format(alignment), overwrite=overwrite)


def format(alignment: Alignment) -> str:
    """The alignment as JSON text; ``parse(format(a)) == a``, to the last bit of every time and score.

    Args:
        alignment: What to write. Its evidence is left out.

    Returns:
        One object, indented, with the keys format, version, duration, method, model, transcript,
        words and tiers.

    Raises:
        FormatError: If a score is not finite: JSON has no NaN and no infinity.
    """
    content = {
        "format": FORMAT,
        "version": VERSION,
        "duration": float(alignment.duration),
        "method": alignment.method,
        "model": alignment.model,
        "transcript": alignment.transcript,
        "words": [{name: getattr(word, name) for name in _WORD_FIELDS} for word in alignment.words],
        "tiers": [{"name": t.name, "intervals": [_interval_row(i) for i in t]} for t in alignment.tiers],
    }
    try:
        return json.dumps(content, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    except ValueError as error:
        raise FormatError(f"a score is NaN or infinite, which JSON cannot hold ({error})") from error


def parse(text: str) -> Alignment:
    """The alignment in JSON text.

    Args:
        text: What `format` gave. Keys that are not known are ignored.

    Returns:
        The alignment.

    Raises:
        FormatError: If the text is not JSON, not an alignment, or of a version this release cannot
            read; the message names the line (not JSON) or the key (not an alignment).
    """
    content = _load(text)
    _check_version(content)
    words = [_word(row, f"words[{n}]") for n, row in enumerate(_get(content, "words", list, ""))]
    tiers = [_tier(row, f"tiers[{n}]") for n, row in enumerate(_get(content, "tiers", list, ""))]
    transcript, method, model = (_get(content, key, str, "", null=True) for key in ("transcript", "method", "model"))
    try:
        duration = _get(content, "duration", float, "")
        return Alignment(duration, tuple(tiers), transcript, tuple(words), method, model)
    except ValueError as error:
        raise FormatError(f"not an alignment: {error}") from error


_WORD_FIELDS = ("text", "start_char", "end_char", "status", "index")


def _interval_row(interval: Interval) -> dict[str, Any]:
    row: dict[str, Any] = {"start": float(interval.start), "end": float(interval.end), "label": interval.label}
    row["score"] = None if interval.score is None else float(interval.score)
    for name in ("start_range", "end_range"):
        limits = getattr(interval, name)
        if limits is not None:
            row[name] = [float(limits[0]), float(limits[1])]
    if interval.confidence is not None:
        row["confidence"] = float(interval.confidence)
    return row


def _load(text: str) -> Any:
    def refuse(constant: str) -> float:
        raise FormatError(f"holds {constant}, which is not JSON; every number must be finite")

    try:
        return json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise FormatError(f"line {error.lineno}: not JSON ({error.msg})") from error
    except (RecursionError, ValueError) as error:
        raise FormatError(f"not JSON that can be read ({error})") from error


def _check_version(content: Any) -> None:
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise FormatError(f'not an alignment: expected an object with "format": "{FORMAT}", got {found!r}')
    version = _get(content, "version", int, "")
    if version > VERSION:
        raise FormatError(f"is of version {version}, this release reads up to {VERSION}; upgrade gradalign")
    if version < 1:
        raise FormatError(f"is of version {version}, expected 1 to {VERSION}")


def _tier(row: Any, where: str) -> Tier:
    intervals = [_interval(r, f"{where}.intervals[{n}]") for n, r in enumerate(_get(row, "intervals", list, where))]
    try:
        return Tier(_get(row, "name", str, where), tuple(intervals))
    except ValueError as error:
        raise FormatError(f"{where}: {error}") from error


def _interval(row: Any, where: str) -> Interval:
    start, end = (_get(row, key, float, where) for key in ("start", "end"))
    label, score = _get(row, "label", str, where), _get(row, "score", float, where, null=True)
    start_range, end_range = _range(row, "start_range", where), _range(row, "end_range", where)
    confidence = _get(row, "confidence", float, where) if "confidence" in row else None
    try:
        return Interval(start, end, label, score, start_range, end_range, confidence)
    except ValueError as error:
        raise FormatError(f"{where}: {error}") from error


def _range(row: Any, key: str, where: str) -> tuple[float, float] | None:
    if key not in row:
        return None
    limits = _get(row, key, list, where)
    if len(limits) != 2 or not all(isinstance(x, int | float) and not isinstance(x, bool) for x in limits):
        raise FormatError(f"{where}.{key} is {limits!r}, expected two numbers")
    return float(limits[0]), float(limits[1])


def _word(row: Any, where: str) -> TranscriptWord:
    text, status = (_get(row, key, str, where) for key in ("text", "status"))
    if status not in get_args(Status):
        raise FormatError(f"{where}: status is {status!r}, expected one of {', '.join(get_args(Status))}")
    start, end = (_get(row, key, int, where) for key in ("start_char", "end_char"))
    try:
        return TranscriptWord(text, start, end, status, _get(row, "index", int, where, null=True))
    except ValueError as error:
        raise FormatError(f"{where}: {error}") from error


def _get(row: Any, key: str, kind: type, where: str, *, null: bool = False) -> Any:
    """``row[key]``, which must be of ``kind``; a whole number will do for a float, ``null`` only if allowed."""
    name = f"{where}.{key}".lstrip(".")
    if not isinstance(row, dict) or key not in row:
        raise FormatError(f"{name} is missing")
    value = row[key]
    if (value is None and null) or (isinstance(value, kind) and not isinstance(value, bool)):
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    raise FormatError(f"{name} is {value!r}, expected {kind.__name__}{' or null' if null else ''}")
