"""What is said to the person at the terminal: results on standard output, everything else on standard error."""

import logging
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradalign.alignment import Alignment, TranscriptWord
    from gradalign.corpus import Outcome


def say(kind: str, message: str) -> None:
    """Print one line on standard error, such as ``gradalign: warning: ...``.

    Args:
        kind: "error" or "warning".
        message: What happened; line breaks in it become spaces.
    """
    note("", quiet=False)
    print(f"gradalign: {kind}: {' '.join(message.split())}", file=sys.stderr)


def note(text: str, *, quiet: bool) -> None:
    """Replace the progress line of a terminal; elsewhere, or if ``quiet``, nothing.

    Args:
        text: The new line, cut to the width of the terminal; "" clears it.
        quiet: Show nothing.
    """
    if sys.stderr.isatty() and not quiet:
        columns = shutil.get_terminal_size().columns - 1
        print(f"\r\x1b[K{text[:columns]}", end="", file=sys.stderr, flush=True)


class _Saying(logging.Handler):
    """Says what is logged in the thread that made it, and which recording it is about."""

    def __init__(self, recording: Path):
        super().__init__(logging.WARNING)
        self._recording, self._thread = recording, threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Say one message."""
        if record.thread == self._thread:
            say(record.levelname.lower(), f"{self._recording}: {record.getMessage()}")


@contextmanager
def warnings_about(recording: Path) -> Iterator[None]:
    """Say the warnings that the package logs inside with the name of the recording, which it does not know itself.

    Args:
        recording: What is worked on.
    """
    with _handled(_Saying(recording)):
        yield


@contextmanager
def without_warnings() -> Iterator[None]:
    """Say nothing of the warnings that the package logs inside."""
    with _handled(logging.NullHandler()):
        yield


@contextmanager
def _handled(handler: logging.Handler) -> Iterator[None]:
    log = logging.getLogger("gradalign")
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


def reporters(*, quiet: bool) -> tuple[Callable[[str], None], Callable[[str], None]]:
    """What takes lines to keep, and what takes lines that the next one replaces.

    Args:
        quiet: Show neither.
    """

    def report(line: str) -> None:
        note("", quiet=quiet)
        if not quiet:
            print(line, flush=True)

    return report, lambda line: note(line, quiet=quiet)


def progress(run: "Iterator[Outcome]", total: int, *, quiet: bool) -> "Iterator[Outcome]":
    """The same outcomes, with a line on standard error: kept up to date on a terminal, else now and then.

    Args:
        run: Outcomes as they come, from `gradalign.corpus.run`.
        total: How many will come.
        quiet: Show nothing.

    Yields:
        Each outcome, after it was counted.
    """
    began = last = time.monotonic()
    on_terminal = sys.stderr.isatty()
    note(f"0/{total} recordings", quiet=quiet)
    for number, outcome in enumerate(run, start=1):
        now = time.monotonic()
        left = (now - began) / number * (total - number)
        line = f"{number}/{total} recordings, about {minutes(left)} left ({outcome.item.name})"
        note(line, quiet=quiet)
        if not (quiet or on_terminal) and now - last > 10:
            last = now
            print(f"gradalign: {line}", file=sys.stderr, flush=True)
        yield outcome
    note("", quiet=quiet)


def report_one(audio: Path, alignment: "Alignment", target: Path | None, *, quiet: bool) -> None:
    """Print what became of one recording: a warning for each word without a place, then a line of counts.

    Args:
        audio: The recording.
        alignment: Its alignment.
        target: The file that was written, or None if that was standard output: then no counts.
        quiet: Only the warnings.
    """
    for word in alignment.problems:
        say("warning", f"{audio}: {_problem(word)}")
    if not (quiet or target is None):
        print(f"{target}: {_counts(alignment)} in {alignment.duration:.2f} s")


def report_all(outcomes: "Sequence[Outcome]", total: int, output: Path, *, quiet: bool) -> None:
    """Print the table of a folder, one row a recording, and a line of sums; if ``quiet`` only what went wrong.

    Args:
        outcomes: What became of the recordings, as far as the run came.
        total: How many recordings there are.
        output: The folder of the alignments.
        quiet: No table; failures and words without a place as lines on standard error.
    """
    if quiet:
        for outcome in outcomes:
            if outcome.status == "failed":
                say("error", f"{outcome.item.name}: {outcome.message}")
            for word in outcome.alignment.problems if outcome.alignment else ():
                say("warning", f"{outcome.item.name}: {_problem(word)}")
        return
    width = max((len(outcome.item.name) for outcome in outcomes), default=0)
    for outcome in outcomes:
        print(f"{outcome.item.name:<{width}}  {outcome.status:<7}  {_details(outcome)}".rstrip())
    counts = {status: sum(o.status == status for o in outcomes) for status in ("aligned", "kept", "failed")}
    print(
        f"{total} recordings: " + ", ".join(f"{n} {status}" for status, n in counts.items()) + f"; output in {output}"
    )


def _details(outcome: "Outcome") -> str:
    if outcome.alignment is None:
        return outcome.message or "exists already; --overwrite replaces it"
    return "; ".join([_counts(outcome.alignment), *map(_problem, outcome.alignment.problems)])


def _counts(alignment: "Alignment") -> str:
    return ", ".join(f"{len(tier)} {tier.name}" for tier in alignment.tiers)


def _problem(word: "TranscriptWord") -> str:
    why = {"unpronounceable": "no pronunciation is known"}.get(word.status, "no place was found")
    return f"{word.text!r} at characters {word.start_char}-{word.end_char} was not aligned: {why}"


def minutes(seconds: float) -> str:
    """A length of time for people."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
