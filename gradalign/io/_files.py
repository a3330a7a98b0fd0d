"""Text files in and out: every way in which a path can be wrong becomes a `FormatError`."""

import codecs
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from gradalign.alignment import Alignment
from gradalign.errors import FormatError

PathLike = str | os.PathLike[str]


def read_alignment(path: PathLike, parse: Callable[[str], Alignment]) -> Alignment:
    """What ``parse`` makes of the text in ``path``; its errors then name the file."""
    text = read_text(path)
    try:
        return parse(text)
    except FormatError as error:
        raise FormatError(f"{os.fspath(path)}: {error}") from error


def read_text(path: PathLike) -> str:
    """The text in ``path``: UTF-16 where it starts with that byte order mark (as Praat writes), else UTF-8."""
    path = Path(path)
    if path.is_dir():
        raise FormatError(f"{path}: is a directory, expected a file; name one file in it")
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise FormatError(f"{path}: no such file; check the path") from error
    except (OSError, ValueError) as error:
        raise FormatError(f"{path}: cannot be read ({error}); check the path and its permissions") from error
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(
            f"{path}: is not text in UTF-8, nor in UTF-16 with a byte order mark (byte {error.start}: "
            f"{error.reason}); save it as UTF-8 text"
        ) from error


def write_text(path: PathLike, text: str, *, overwrite: bool) -> None:
    """Put ``text`` into ``path`` in one step: a reader sees the old file or the whole new one, never a part."""
    path = Path(path)
    check_writable(path, overwrite=overwrite)
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise FormatError(
            f"{path}: the text holds {text[error.start]!r}, half a surrogate pair, which no text file can hold; "
            f"repair the label or transcript"
        ) from error
    draft = path.parent / f".gradalign-{secrets.token_hex(8)}.tmp"
    try:
        draft.write_bytes(data)
        os.replace(draft, path)
    except OSError as error:
        raise FormatError(f"{path}: cannot be written ({error}); check the directory's permissions") from error
    finally:
        draft.unlink(missing_ok=True)


def check_writable(path: Path, *, overwrite: bool) -> None:
    """Raise `FormatError` where ``path`` is taken, or has no directory to lie in."""
    if not path.parent.is_dir():
        raise FormatError(f"{path}: there is no directory {path.parent} to write to; create it first")
    if path.exists() and not path.is_file():
        raise FormatError(f"{path}: is not a regular file, expected a path to write to; choose another name")
    if path.exists() and not overwrite:
        raise FormatError(f"{path}: exists already and was kept; pass overwrite=True (--overwrite) to replace it")
