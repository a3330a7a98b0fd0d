"""Where the command line writes an alignment, and in which form: checked before anything slow begins."""

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gradalign.clock import part
from gradalign.errors import FormatError

if TYPE_CHECKING:
    from gradalign.alignment import Alignment

Format = Literal["textgrid", "short-textgrid", "json", "ctm"]
"""The same as `gradalign.io.Format`, without waiting for NumPy."""

SUFFIX: dict[str, str] = {"textgrid": ".TextGrid", "short-textgrid": ".TextGrid", "json": ".json", "ctm": ".ctm"}
"""Of the file that is named after its recording, by format."""


def is_folder(path: str) -> bool:
    """Whether a path is a folder, or by the separator at its end is meant to be one."""
    return os.path.isdir(path) or path.endswith(("/", os.sep))


def target(output: str | None, audio: Path, suffix: str, *, overwrite: bool, inputs: Iterable[str | Path] = ()) -> Path:
    """The file to write for a recording, known to be free and writable.

    Args:
        output: A file or a folder, which is made if need be; None for beside the recording.
        audio: The recording, whose name the file takes where none is given.
        suffix: Which it takes then, such as ".TextGrid".
        overwrite: Whether the file may be there already.
        inputs: What the command reads; none of it may be written over.

    Raises:
        FormatError: If it is there already, or is an input, or cannot be written.
    """
    from gradalign.io._files import check_writable

    if output is None:
        path = audio.with_suffix(suffix)
    elif is_folder(output):
        make_folder(Path(output))
        path = Path(output) / audio.with_suffix(suffix).name
    else:
        path = Path(output)
    if path.exists() and not path.is_dir() and not overwrite:
        raise FormatError(f"{path}: exists already and was kept; pass --overwrite to replace it")
    check_no_input(path, inputs)
    check_writable(path, overwrite=overwrite)
    _check_access(path.parent)
    return path


def check_no_input(path: str | Path, inputs: Iterable[str | Path]) -> None:
    """Raise `FormatError` where a file to write is one that is read, or a recording: nothing replaces those."""
    from gradalign.audio import AUDIO_SUFFIXES

    if any(os.path.exists(one) and os.path.exists(path) and os.path.samefile(one, path) for one in inputs):
        raise FormatError(f"{path}: is read by this command, so it is not written to; choose another name")
    if Path(path).suffix.lower() in AUDIO_SUFFIXES:
        raise FormatError(f"{path}: has the suffix of a recording, which is not what is written; choose another name")


def make_folder(path: Path) -> None:
    """Make a folder to write to, if it is not there.

    Raises:
        FormatError: If it cannot be made or written to.
    """
    if path.exists() and not path.is_dir():
        raise FormatError(f"{path}: is a file, expected a folder to write to")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FormatError(f"{path}: cannot be made ({error}); choose another folder to write to") from error
    _check_access(path)


def writer(format: Format, tier: str | None, *, overwrite: bool) -> "Callable[[Alignment, Path], None]":
    """The function that puts an alignment into a file.

    Args:
        format: The form of the file.
        tier: The tier to write; None or "both" for all, or of a CTM file the words.
        overwrite: Replace a file that is there already.
    """

    def write(alignment: "Alignment", path: Path) -> None:
        from gradalign import io

        tiers = None if tier in (None, "both") else (tier,)
        with part("write"):
            io.write(alignment, path, format=format, overwrite=overwrite, tiers=tiers)

    return write


def as_text(alignment: "Alignment", format: Format, tier: str | None, *, name: str) -> str:
    """What the file would hold.

    Args:
        alignment: What to write.
        format: The form.
        tier: As for `writer`.
        name: Of the recording, for a CTM file.
    """
    from gradalign.io import ctm, json, textgrid

    if format == "ctm":
        return ctm.format(alignment, utterance=name, tier=tier or "words")
    if tier is not None and tier != "both":
        alignment = replace(alignment, tiers=(alignment.tier(tier),))
    return json.format(alignment) if format == "json" else textgrid.format(alignment, long=format == "textgrid")


def _check_access(folder: Path) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        raise FormatError(f"{folder}: you may not write there; choose another place with -o")
