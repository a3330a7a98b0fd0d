"""Alignments to and from files: the suffix, or ``format``, chooses the module."""

from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from gradalign.alignment import Alignment
from gradalign.errors import FormatError
from gradalign.io import ctm, json, textgrid
from gradalign.io._files import PathLike

__all__ = ["Format", "ctm", "json", "read", "textgrid", "write"]

Format = Literal["textgrid", "short-textgrid", "json", "ctm"]
"""Names of the formats; the two TextGrids differ only in writing."""

_SUFFIXES: dict[str, Format] = {".textgrid": "textgrid", ".json": "json", ".ctm": "ctm"}


def read(path: PathLike, format: Format | None = None) -> Alignment:
    """The alignment in a file.

    Args:
        path: The file.
        format: Its format; by default what the suffix says (.TextGrid, .json or .ctm, in any case).

    Returns:
        The alignment; only JSON gives back the transcript, method and model, only JSON and CTM scores.

    Raises:
        FormatError: If the suffix is not known, or the file is missing, unreadable or malformed.
        ValueError: If ``format`` is not one of `Format`.
    """
    modules = {"textgrid": textgrid, "short-textgrid": textgrid, "json": json, "ctm": ctm}
    return modules[_format_of(path, format)].read(path)


def write(
    alignment: Alignment,
    path: PathLike,
    *,
    format: Format | None = None,
    overwrite: bool = False,
    tiers: tuple[str, ...] | None = None,
) -> None:
    """Write an alignment to a file, in one step.

    Args:
        alignment: What to write.
        path: Where to.
        format: The format; by default what the suffix says (.TextGrid, .json or .ctm, in any case).
        overwrite: Replace a file that is there already, which is else kept.
        tiers: Names of the tiers to write, in this order; by default all of them, for CTM the words
            (or the only tier there is). CTM takes one.

    Raises:
        FormatError: If the suffix is not known, the path is taken or cannot be written, or the format
            cannot hold the alignment.
        ValueError: If ``format`` or a tier is not known, or CTM is given other than one tier.
    """
    chosen = _format_of(path, format)
    if tiers is not None:
        alignment = _with_tiers(alignment, tiers)
    if chosen == "json":
        json.write(alignment, path, overwrite=overwrite)
    elif chosen == "ctm":
        ctm.write(alignment, path, tier=_only_tier(alignment, tiers), overwrite=overwrite)
    else:
        textgrid.write(alignment, path, long=chosen == "textgrid", overwrite=overwrite)


def _format_of(path: PathLike, format: str | None) -> Format:
    if format is None:
        suffix = Path(path).suffix
        if suffix.lower() not in _SUFFIXES:
            raise FormatError(
                f"{path}: cannot tell the format from the suffix {suffix!r}, expected .TextGrid, .json or .ctm; "
                f"rename it (in Python, format= names it)"
            )
        return _SUFFIXES[suffix.lower()]
    for known in get_args(Format):
        if format == known:
            return known
    raise ValueError(f"format is {format!r}, expected one of {', '.join(get_args(Format))}")


def _with_tiers(alignment: Alignment, names: tuple[str, ...]) -> Alignment:
    known = [tier.name for tier in alignment.tiers]
    if not names or set(names) - set(known):
        raise ValueError(f"tiers are {list(names)}, expected some of {known}")
    return replace(alignment, tiers=tuple(alignment.tier(name) for name in names))


def _only_tier(alignment: Alignment, asked: tuple[str, ...] | None) -> str:
    names = [tier.name for tier in alignment.tiers]
    if len(names) == 1:
        return names[0]
    if asked is None and "words" in names:
        return "words"
    raise ValueError(f"a CTM file holds one tier, this alignment has {names}; name one of them")
