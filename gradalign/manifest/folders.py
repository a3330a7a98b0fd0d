"""Corpora that are folders: LibriSpeech's layout, and that of the Montreal Forced Aligner (MFA)."""

from dataclasses import replace
from pathlib import Path

from gradalign.alignment import Alignment, Interval
from gradalign.audio import AUDIO_SUFFIXES
from gradalign.corpus import TRANSCRIPT_SUFFIXES
from gradalign.errors import FormatError
from gradalign.io import textgrid
from gradalign.io._files import PathLike, read_text
from gradalign.io.transcript import read_transcript
from gradalign.lexicon import PHONES
from gradalign.manifest._messages import refuse_broken
from gradalign.manifest.utterance import Utterance

_GRID = ".textgrid"
_PAUSES = frozenset({"sil", "sp", "<eps>"})


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
    refuse_broken(broken, folder, "broken files")
    if not found:
        raise FormatError(f"{folder}: no recordings in this folder or below; expected files such as x.wav with x.lab")
    return found


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
