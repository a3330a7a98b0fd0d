"""Many recordings: which files of a folder belong together, and one run over all of them.

No models and no printing here: the caller says how one recording is aligned, and shows the outcomes.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from gradalign.alignment import Alignment
from gradalign.audio import AUDIO_SUFFIXES
from gradalign.errors import FormatError, GradalignError
from gradalign.io.transcript import read_transcript

TRANSCRIPT_SUFFIXES = (".txt", ".lab")
"""Suffixes of a transcript beside its recording; the first that is there is taken."""

Status = Literal["aligned", "kept", "failed"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Item:
    """One recording of a folder.

    Attributes:
        name: Path of the recording below the folder, for reports.
        audio: The recording.
        transcript: The text file beside it, or None if there is none.
        output: Where its alignment goes.
        clash: Another recording that has the same output, or None; such an item is not aligned.
    """

    name: str
    audio: Path
    transcript: Path | None
    output: Path
    clash: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one recording.

    Attributes:
        item: The recording.
        status: "aligned"; "kept" (its output was there already and nothing was done); "failed".
        message: Why it failed, "" otherwise.
        alignment: The result without its evidence, if aligned.
    """

    item: Item
    status: Status
    message: str = ""
    alignment: Alignment | None = None


def find(folder: Path, output: Path, suffix: str) -> list[Item]:
    """The recordings in a folder and all folders below, by name.

    Args:
        folder: Where to look, for files with one of `AUDIO_SUFFIXES`.
        output: Folder of the alignments, which lie in it as the recordings lie in ``folder``.
        suffix: Of the alignments, such as ".TextGrid".

    Raises:
        FormatError: If there is no recording.
    """
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES and p.is_file())
    if not found:
        raise FormatError(
            f"{folder}: no recordings in this folder or below; expected files such as x.wav, each with x.txt or x.lab"
        )
    items: list[Item] = []
    taken: dict[Path, str] = {}
    for path in found:
        name = path.relative_to(folder)
        target = (output / name).with_suffix(suffix)
        items.append(Item(str(name), path, transcript_beside(path), target, taken.get(target)))
        taken.setdefault(target, str(name))
    return items


def without_recording(folder: Path, items: Iterable[Item]) -> list[str]:
    """Transcripts of a folder that have no recording beside them, as paths below it.

    Args:
        folder: Where `find` looked.
        items: What it found.
    """
    recorded = {item.audio.with_suffix("") for item in items}
    texts = sorted(path for path in folder.rglob("*") if path.suffix.lower() in TRANSCRIPT_SUFFIXES)
    return [str(path.relative_to(folder)) for path in texts if path.with_suffix("") not in recorded]


def by_size(items: Iterable[Item]) -> list[Item]:
    """Small files first, which is in order of length as far as can be told without reading.

    So recordings of one padded shape follow each other, and its programs are loaded once.
    """
    return sorted(items, key=lambda item: item.audio.stat().st_size)


def run(
    items: Iterable[Item],
    align: Callable[[Path, str], Alignment],
    write: Callable[[Alignment, Path], None],
    *,
    overwrite: bool = False,
    jobs: int = 1,
) -> Iterator[Outcome]:
    """Align recordings, each written as soon as it is aligned.

    So a run that was stopped loses nothing: run again, it keeps what is there and does the rest. One
    bad recording is reported and does not stop the others; an error that is not one of ours (a bug,
    memory) is logged with its traceback as well.

    With several jobs, one recording is read and written while another one is computed, in threads: JAX computes
    without Python's lock.

    Args:
        items: From `find`.
        align: From a recording and its transcript to the alignment; called from threads.
        write: Puts an alignment into a file, whose folder is there; called from threads.
        overwrite: Align again where there is an output already.
        jobs: Recordings at a time, >= 1.

    Yields:
        One outcome an item, in order.
    """

    def outcome(item: Item) -> Outcome:
        if item.clash is not None:
            return Outcome(item, "failed", f"{item.clash} has the same name and so the same output; rename one of them")
        if item.output.exists() and not overwrite:
            return Outcome(item, "kept")
        return _run_one(item, align, write)

    if jobs == 1:  # in this thread, which an interrupt stops at once
        yield from map(outcome, items)
        return
    pool = ThreadPoolExecutor(jobs, thread_name_prefix="gradalign")
    try:
        rest, waiting = iter(items), deque[Future[Outcome]]()
        while True:
            # One more than there are jobs, so that none waits for whoever takes the outcomes.
            waiting.extend(pool.submit(outcome, item) for item in islice(rest, jobs + 1 - len(waiting)))
            if not waiting:
                break
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def pending(item: Item, *, overwrite: bool = False) -> bool:
    """Whether `run` would align this one."""
    return item.clash is None and item.transcript is not None and (overwrite or not item.output.exists())


def transcript_beside(audio: Path) -> Path | None:
    """The transcript with the name of a recording, or None."""
    beside = (audio.with_suffix(suffix) for suffix in TRANSCRIPT_SUFFIXES)
    return next((path for path in beside if path.is_file()), None)


def _run_one(item: Item, align: Callable[[Path, str], Alignment], write: Callable[[Alignment, Path], None]) -> Outcome:
    try:
        if item.transcript is None:
            wanted = " or ".join(item.audio.with_suffix(suffix).name for suffix in TRANSCRIPT_SUFFIXES)
            raise FormatError(f"no transcript; expected {wanted} beside it")
        alignment = align(item.audio, read_transcript(item.transcript))
        item.output.parent.mkdir(parents=True, exist_ok=True)
        write(alignment, item.output)
    except (GradalignError, OSError) as error:
        return Outcome(item, "failed", str(error))
    except Exception as error:
        _log.exception("%s: unexpected error", item.name)
        return Outcome(item, "failed", f"unexpected {type(error).__name__}: {error}")
    return Outcome(item, "aligned", alignment=alignment)
