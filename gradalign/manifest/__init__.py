"""Corpora: the utterances of a manifest or a folder, and whether they can be used.

Three layouts are read: NeMo-style manifests (JSON lines), LibriSpeech's folders, and the folders of the
Montreal Forced Aligner (MFA). Of recordings only the headers are read, and no JAX is imported.
"""

from pathlib import Path

from gradalign.errors import FormatError
from gradalign.io._files import PathLike
from gradalign.manifest._messages import SHOWN
from gradalign.manifest.checking import Kind, Report, check
from gradalign.manifest.folders import read_librispeech, read_mfa
from gradalign.manifest.lines import read_manifest, write
from gradalign.manifest.utterance import Utterance

__all__ = [
    "SHOWN",
    "Kind",
    "Report",
    "Utterance",
    "check",
    "read",
    "read_librispeech",
    "read_manifest",
    "read_mfa",
    "write",
]


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
