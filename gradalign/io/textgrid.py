"""Praat TextGrids, long and short, through the package ``textgrid``. Only text files, not Praat's binary form."""

import io
import re
import tempfile
from itertools import pairwise
from pathlib import Path

import textgrid
from textgrid.exceptions import TextGridError

from gradalign.alignment import Alignment, Interval, Tier
from gradalign.errors import FormatError
from gradalign.io._files import PathLike, read_alignment, write_text

# The package rounds times to this many decimals as it reads: more than a double has, so that none are lost.
_ALL_DIGITS = 400
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_QUOTED = r'"(?:[^"]|"")*"'
# The package cannot read the points of a short file, and leaves labelled intervals without length out in silence.
_SHORT_POINT_TIER = re.compile(
    rf'^"TextTier"\s+{_QUOTED}\s+{_NUMBER}\s+{_NUMBER}\s+\d+(?:\s+{_NUMBER}\s+{_QUOTED})*\s*', re.MULTILINE
)
_SHORT_COUNT = re.compile(r"^<exists>\s+(\d+)[ \t]*$", re.MULTILINE)
_LABELLED = re.compile(rf'^\s*(?:xmin = )?({_NUMBER})\s+(?:xmax = )?({_NUMBER})\s+(?:text = )?"(?!")', re.MULTILINE)
_STRING = re.compile(_QUOTED)


def read(path: PathLike) -> Alignment:
    """The alignment in a TextGrid file in UTF-8, or in UTF-16 with a byte order mark.

    Args:
        path: The file, in Praat's long or short text form.

    Returns:
        See `parse`.

    Raises:
        FormatError: If there is no such file, or it is not a TextGrid; the message names it.
    """
    return read_alignment(path, parse)


def write(alignment: Alignment, path: PathLike, *, long: bool = True, overwrite: bool = False) -> None:
    """Write an alignment as a TextGrid in UTF-8, in one step.

    Args:
        alignment: What to write.
        path: Where to.
        long: Praat's long text form (its default); else the short one.
        overwrite: Replace a file that is there already.

    Raises:
        FormatError: If the path is taken or cannot be written, or a TextGrid cannot hold the alignment.
    """
    write_text(path, format(alignment, long=long), overwrite=overwrite)


def format(alignment: Alignment, *, long: bool = True) -> str:
    """The text of a TextGrid: each tier spans the recording without gaps, silence is an empty interval.

    Times keep every digit. Scores and the transcript have no place in a TextGrid and are left out.

    Args:
        alignment: What to write; at least one tier.
        long: Praat's long text form; else the short one.

    Returns:
        The file's text, with double quotes in labels and names doubled as Praat asks.

    Raises:
        FormatError: If there is no tier, a tier's name spans lines, or a label or a name holds a NUL
            character.

    References:
        Praat manual, "TextGrid file formats".
    """
    _check(alignment)
    return _long(alignment) if long else _short(alignment)


def parse(text: str) -> Alignment:
    """The alignment in the text of a TextGrid, long or short.

    Args:
        text: The whole file. Point tiers are left out; intervals whose label is empty or only white
            space are silence.

    Returns:
        The interval tiers over ``[0, xmax]``, with no transcript, method or model.

    Raises:
        FormatError: If it is not a TextGrid, is cut short, or its intervals overlap or have no length.
    """
    _check_lengths(text)
    grid = _load(_without_short_points(text))
    tiers = [tier for tier in grid.tiers if isinstance(tier, textgrid.IntervalTier)]
    try:
        return Alignment(float(grid.maxTime or 0.0), tuple(_tier(tier) for tier in tiers))
    except ValueError as error:
        raise FormatError(f"not an alignment: {error}") from error


def _check_lengths(text: str) -> None:
    """The package leaves out labelled intervals without length, without a word; so they are looked for here."""
    # What labels say may look like times; only their line breaks are kept, to count lines.
    masked = _STRING.sub(lambda found: '"' + re.sub(r"[^\n]", "x", found[0][1:-1]) + '"', text)
    for found in _LABELLED.finditer(masked):
        if float(found[1]) == float(found[2]):
            line = masked.count("\n", 0, found.start(1)) + 1
            raise FormatError(f"line {line}: a labelled interval starts and ends at {found[1]} s; give it a length")


def _check(alignment: Alignment) -> None:
    if not alignment.tiers:
        raise FormatError("a TextGrid needs at least one tier, this alignment has none")
    wrong = []
    for tier in alignment.tiers:
        if "\0" in tier.name or len(f"{tier.name}.".splitlines()) > 1:
            wrong.append(f"tier name {tier.name!r} has a line break or a NUL character")
        wrong += [f"label {i.label!r} at {i.start} s has a NUL character" for i in tier if "\0" in i.label]
    if wrong:
        raise FormatError("a TextGrid cannot hold this alignment: " + "; ".join(wrong) + "; rename these")


class _Kept(io.StringIO):
    """A text buffer that outlives the package's ``close``."""

    def close(self) -> None:
        """Stay open."""


def _long(alignment: Alignment) -> str:
    # The package takes a maximum of 0 for none, and doubles quotes in labels but not in names.
    grid = textgrid.TextGrid(minTime=0.0, maxTime=float(alignment.duration))
    for tier in alignment.tiers:
        out = textgrid.IntervalTier(str(tier.name).replace('"', '""'), 0.0, float(alignment.duration))
        out.intervals = [textgrid.Interval(*row) for row in _filled(tier, alignment.duration)]
        grid.append(out)
    kept = _Kept()
    grid.write(kept)
    return kept.getvalue()


def _short(alignment: Alignment) -> str:
    # The package does not write this form.
    end = repr(float(alignment.duration))
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "0.0", end, "<exists>"]
    lines.append(str(len(alignment.tiers)))
    for tier in alignment.tiers:
        rows = _filled(tier, alignment.duration)
        lines += ['"IntervalTier"', _quoted(tier.name), "0.0", end, str(len(rows))]
        for start, stop, label in rows:
            lines += [repr(start), repr(stop), _quoted(label)]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _filled(tier: Tier, duration: float) -> list[tuple[float, float, str]]:
    """The tier's intervals with empty ones in the gaps, over ``[0, duration]``."""
    edges = [0.0, *(t for i in tier for t in (float(i.start), float(i.end))), float(duration)]
    labels = ["", *(label for i in tier for label in (i.label, ""))]
    return [(a, b, label) for (a, b), label in zip(pairwise(edges), labels, strict=True) if a < b]


def _without_short_points(text: str) -> str:
    text, n_dropped = _SHORT_POINT_TIER.subn("", text)
    if not n_dropped:
        return text
    return _SHORT_COUNT.sub(lambda found: f"<exists>\n{int(found[1]) - n_dropped}", text, count=1)


def _load(text: str) -> textgrid.TextGrid:
    # The package reads only from a path.
    grid = textgrid.TextGrid()
    try:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "text")
            path.write_bytes(text.removeprefix("\ufeff").encode("utf-8"))
            grid.read(str(path), round_digits=_ALL_DIGITS, encoding="utf-8")
    except (TextGridError, ValueError) as error:
        raise FormatError(
            f"not a TextGrid in text form{_where(grid)}: {error}; open it in Praat and save it as a text file"
        ) from error
    except (AttributeError, IndexError, TypeError, EOFError) as error:
        raise FormatError(
            f"not a TextGrid in text form{_where(grid)}: a line is not what the format asks for, or the end is "
            f"missing; open it in Praat and save it as a text file"
        ) from error
    return grid


def _where(grid: textgrid.TextGrid) -> str:
    return f" (tier {len(grid.tiers) + 1})" if grid.maxTime is not None else ""


def _tier(tier: textgrid.IntervalTier) -> Tier:
    intervals = (Interval(i.minTime, i.maxTime, i.mark) for i in tier if i.mark.strip())
    return Tier(str(tier.name).replace('""', '"'), tuple(intervals))
