"""NIST time-marked conversation files: one line a word, ``utterance channel start duration label [score]``."""

import math
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path

from gradalign.alignment import Alignment, Interval, Tier
from gradalign.errors import FormatError
from gradalign.io._files import PathLike, read_alignment, write_text

_PER_SECOND = 1_000_000
_ROUNDED = Decimal("0.015")


def read(path: PathLike) -> Alignment:
    """The alignment in a CTM file of one utterance; `parse_many` reads several.

    Args:
        path: The file, in UTF-8.

    Returns:
        See `parse`.

    Raises:
        FormatError: If there is no such file or `parse` refuses it; the message names file and line.
    """
    return read_alignment(path, parse)


def write(
    alignment: Alignment,
    path: PathLike,
    *,
    utterance: str | None = None,
    tier: str = "words",
    overwrite: bool = False,
) -> None:
    """Write one tier of an alignment as CTM, in one step.

    Args:
        alignment: What to write.
        path: Where to.
        utterance: First column; by default the file's name without its suffix, white space as ``_``.
        tier: Which tier.
        overwrite: Replace a file that is there already.

    Raises:
        FormatError: If the path is taken or cannot be written, or `format` refuses the alignment.
        KeyError: If there is no such tier.
    """
    name = _joined(Path(path).stem) if utterance is None else utterance
    write_text(path, format(alignment, utterance=name, tier=tier), overwrite=overwrite)


def format(alignment: Alignment, *, utterance: str = "utterance", tier: str = "words") -> str:
    """The text of a CTM file, one line an interval of ``tier``, channel 1.

    Starts and ends are rounded to microseconds before the duration is taken, so that what touches
    still touches and nothing collapses. The score is written as it is: a mean log score, not the
    confidence in [0, 1] that NIST tools expect. CTM holds neither silence nor the recording's length.

    Args:
        alignment: What to write.
        utterance: First column: not empty, no white space, not starting with ``;;``.
        tier: Which tier.

    Returns:
        The lines; white space within a label becomes ``_``, since columns are parted by it.

    Raises:
        FormatError: If the utterance's name will not do, an interval is shorter than a microsecond,
            or a score is not finite.
        KeyError: If there is no such tier.

    References:
        NIST SCTK, "ctm" file format: https://github.com/usnistgov/SCTK/blob/master/doc/infmts.htm
    """
    if utterance != _joined(utterance) or not utterance or utterance.startswith(";;"):
        raise FormatError(
            f"the utterance's name is {utterance!r}; a CTM file needs one without white space that does not start "
            f"with ;;"
        )
    return "".join(f"{utterance} 1 {_columns(interval)}\n" for interval in alignment.tier(tier))


def parse(text: str) -> Alignment:
    """The alignment in the text of a CTM file of one utterance.

    Args:
        text: The whole file.

    Returns:
        One tier, "words"; the duration is the last word's end, since CTM does not give it.

    Raises:
        FormatError: As `parse_many`; also if there is no utterance, or more than one.
    """
    found = parse_many(text)
    if len(found) != 1:
        names = ", ".join(list(found)[:5]) + (", ..." if len(found) > 5 else "")
        raise FormatError(
            f"holds {len(found)} utterances ({names}), expected one; gradalign.io.ctm.parse_many reads several"
            if found
            else "holds no word, so no alignment; expected lines of utterance, channel, start, duration, label"
        )
    return next(iter(found.values()))


def parse_many(text: str) -> dict[str, Alignment]:
    """The alignments in the text of a CTM file, by utterance.

    Files whose times were rounded to two decimals can make a word end after the next one's start. Up
    to 15 ms, the most that this rounding can do, the word is cut there; more is an error.

    Args:
        text: The whole file. Lines starting with ``;;`` and empty ones are skipped.

    Returns:
        One alignment an utterance, in order of first appearance, each with one tier, "words".

    Raises:
        FormatError: If a line has fewer than five or more than six columns, a time or a score is not a
            number, a word has no length, words overlap, or an utterance has two channels; with its line.
    """
    rows: dict[str, list[tuple[int, Decimal, Decimal, str, float | None]]] = {}
    channels: dict[str, str] = {}
    for number, columns in _lines(text):
        name, channel = columns[:2]
        if channels.setdefault(name, channel) != channel:
            raise FormatError(
                f"line {number}: utterance {name!r} has the channels {channels[name]!r} and {channel!r}, expected "
                f"one; split the file by channel"
            )
        rows.setdefault(name, []).append(_row(number, columns))
    return {name: _alignment(some) for name, some in rows.items()}


def _joined(text: str) -> str:
    return "_".join(text.split()) if text.strip() else "_" * bool(text)


def _columns(interval: Interval) -> str:
    start, end = round(interval.start * _PER_SECOND), round(interval.end * _PER_SECOND)
    where = f"label {interval.label!r} at {interval.start} s"
    if end <= start:
        raise FormatError(f"{where}: is shorter than a microsecond, which a CTM file cannot hold")
    if interval.score is not None and not math.isfinite(interval.score):
        raise FormatError(f"{where}: the score is {interval.score}, expected a finite number or none")
    score = "" if interval.score is None else f" {float(interval.score)!r}"
    return f"{_seconds(start)} {_seconds(end - start)} {_joined(interval.label)}{score}"


def _seconds(microseconds: int) -> str:
    whole, part = divmod(microseconds, _PER_SECOND)
    return f"{whole}.{part:06d}"


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(text.split("\n"), 1):
        columns = line.split()
        if columns and not columns[0].startswith(";;"):
            if len(columns) not in (5, 6):
                raise FormatError(
                    f"line {number}: has {len(columns)} columns, expected utterance, channel, start, duration, label "
                    f"and perhaps a score: {line.strip()[:80]!r}"
                )
            yield number, columns


def _row(number: int, columns: list[str]) -> tuple[int, Decimal, Decimal, str, float | None]:
    try:
        start, duration, *score = (Decimal(column) for column in columns[2:4] + columns[5:])
    except InvalidOperation as error:
        raise FormatError(f"line {number}: a time or score is not a number: {' '.join(columns)[:80]!r}") from error
    if not all(value.is_finite() for value in (start, duration, *score)) or start < 0 or duration <= 0:
        raise FormatError(
            f"line {number}: start is {start} s and duration {duration} s, expected start >= 0 and duration > 0, "
            f"all finite"
        )
    return number, start, start + duration, columns[4], float(score[0]) if score else None


def _alignment(rows: list[tuple[int, Decimal, Decimal, str, float | None]]) -> Alignment:
    rows = sorted(rows, key=lambda row: row[1])
    intervals = []
    for (number, start, end, label, score), following in zip(rows, [*rows[1:], None], strict=True):
        if following is not None and end > following[1]:
            if end - following[1] > _ROUNDED or following[1] <= start:
                raise FormatError(
                    f"lines {number} and {following[0]}: {label!r} ends at {end} s, after {following[3]!r} starts at "
                    f"{following[1]} s"
                )
            end = following[1]
        intervals.append(Interval(float(start), float(end), label, score))
    return Alignment(intervals[-1].end, (Tier("words", tuple(intervals)),))
