"""The result of an alignment: intervals, tiers, and what became of each word of the transcript.

Host side only: plain Python and NumPy, no JAX. Everything is checked once, on construction, so
that writers and metrics never check again.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float, Int

from gradalign._types import Seconds
from gradalign.timing import FrameGrid

if TYPE_CHECKING:
    from pathlib import Path

Status = Literal["aligned", "unpronounceable", "unplaced"]


@dataclass(frozen=True, slots=True)
class Interval:
    """A labelled stretch of time, half-open ``[start, end)`` in seconds.

    Attributes:
        start: Seconds, >= 0.
        end: Seconds, > ``start``.
        label: What is said there. Never empty: silence is the absence of an interval.
        score: Mean log-probability-like score per frame of the evidence that placed it, higher is
            better; None where the source gives none (a file read from elsewhere).
        start_range: Between these times the start lies with a probability of 90 %, by calibrated evidence; else None.
        end_range: The same of the end.
        confidence: Of a word, how likely it is that it was said and that both of its boundaries are within 50 ms of
            the true ones, in [0, 1]; None where the model has not learnt to tell.

    Raises:
        ValueError: On a non-finite or negative time, a length that is not positive, a confidence outside [0, 1], or
            no label.
    """

    start: Seconds
    end: Seconds
    label: str
    score: float | None = None
    start_range: tuple[Seconds, Seconds] | None = None
    end_range: tuple[Seconds, Seconds] | None = None
    confidence: float | None = None

    def __post_init__(self) -> None:
        for limits in (self.start_range, self.end_range):
            if limits is not None and not (math.isfinite(limits[1] - limits[0]) and 0 <= limits[0] <= limits[1]):
                raise ValueError(f"interval {self.label!r}: needs 0 <= low <= high for a range of times, got {limits}")
        if self.confidence is not None and not 0 <= self.confidence <= 1:
            raise ValueError(f"interval {self.label!r}: a confidence lies in [0, 1], got {self.confidence}")
        if not (math.isfinite(self.start) and math.isfinite(self.end)):
            raise ValueError(f"interval {self.label!r}: times must be finite, got [{self.start}, {self.end})")
        if not 0 <= self.start < self.end:
            raise ValueError(
                f"interval {self.label!r}: needs 0 <= start < end in seconds, got [{self.start}, {self.end})"
            )
        if not self.label.strip():
            raise ValueError(f"the interval at {self.start} s has an empty label; leave silence out instead")

    @property
    def duration(self) -> Seconds:
        """Length in seconds, > 0."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Tier:
    """Intervals of one kind in time order, never overlapping; gaps are silence.

    Attributes:
        name: For example "words" or "phones".
        intervals: Strictly increasing in time.

    Raises:
        ValueError: If two intervals overlap or are out of order; all of them are named.
    """

    name: str
    intervals: tuple[Interval, ...]

    def __post_init__(self) -> None:
        wrong = [
            f"{a.label!r} [{a.start}, {a.end}) then {b.label!r} [{b.start}, {b.end})"
            for a, b in zip(self.intervals, self.intervals[1:], strict=False)
            if b.start < a.end
        ]
        if wrong:
            raise ValueError(f"tier {self.name!r}: intervals overlap or are out of order: " + "; ".join(wrong))

    def __iter__(self) -> Iterator[Interval]:
        return iter(self.intervals)

    def __len__(self) -> int:
        return len(self.intervals)

    def __getitem__(self, index: int) -> Interval:
        return self.intervals[index]


@dataclass(frozen=True, slots=True)
class TranscriptWord:
    """One word of the transcript as the user wrote it, and what became of it.

    Attributes:
        text: The word as written, ``transcript[start_char:end_char]``.
        start_char: Offset of its first character in the transcript.
        end_char: Offset one past its last character.
        status: "aligned"; "unpronounceable" (no pronunciation is known: it has no interval);
            "unplaced" (it has one, but its stretch of a long recording could not be aligned).
        index: Position of its interval in the words tier, or None where it has none.
    """

    text: str
    start_char: int
    end_char: int
    status: Status
    index: int | None = None

    def __post_init__(self) -> None:
        if (self.status == "aligned") != (self.index is not None):
            raise ValueError(f"word {self.text!r}: status {self.status!r} does not go with interval index {self.index}")


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an alignment was read off, kept for plots and research; never written to files.

    Attributes:
        features: Log-mel frames on ``feature_grid``.
        feature_grid: Times of the rows of ``features``.
        scores: ``[labels, frames]`` log scores on ``grid``, higher where the label is.
        silence: ``[frames]`` log score of silence on ``grid``.
        path: Per frame of ``grid`` the index of the label there, or -1 in silence. With calibrated methods it follows
            scores of boundaries, too, which are not kept.
        labels: Name of each row of ``scores``.
        grid: Times of the columns of ``scores``.
    """

    features: Float[np.ndarray, "feature_frames mels"]
    feature_grid: FrameGrid
    scores: Float[np.ndarray, "labels frames"]
    silence: Float[np.ndarray, " frames"]
    path: Int[np.ndarray, " frames"]
    labels: tuple[str, ...]
    grid: FrameGrid


@dataclass(frozen=True, slots=True, repr=False)
class Alignment:
    """When each word and phone of a transcript was said.

    Attributes:
        duration: Length of the recording in seconds, > 0.
        tiers: Usually "words" and "phones". Every interval lies in ``[0, duration]``. Where ``words`` is
            given, each word starts with its first phone and ends with its last; alignments read from
            elsewhere need not.
        transcript: The text as given, or None for an alignment read from a file without one.
        words: One entry a word of the transcript, aligned or not; empty where there is none.
        method: Source of the evidence (see `gradalign.align`), or None if unknown.
        model: Name of the model, or None if unknown.
        evidence: What the times were read off, if kept. Not compared and not written to files.

    Raises:
        ValueError: If the duration is not positive, two tiers share a name, an interval leaves the
            recording, or the entries of ``words`` do not fit the tiers.
    """

    duration: Seconds
    tiers: tuple[Tier, ...]
    transcript: str | None = None
    words: tuple[TranscriptWord, ...] = ()
    method: str | None = None
    model: str | None = None
    evidence: Evidence | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.duration) and self.duration > 0):
            raise ValueError(f"an alignment needs a positive duration in seconds, got {self.duration}")
        names = [tier.name for tier in self.tiers]
        if len(set(names)) < len(names):
            raise ValueError(f"tier names must differ, got {names}")
        for tier in self.tiers:
            if tier.intervals and tier.intervals[-1].end > self.duration:
                last = tier.intervals[-1]
                raise ValueError(
                    f"tier {tier.name!r}: {last.label!r} ends at {last.end} s, after the recording's end at "
                    f"{self.duration} s"
                )
        if self.words and "words" in names:
            self._check_words()

    def _check_words(self) -> None:
        """Each interval has its word of the transcript, and starts and ends with phones if there are any."""
        entries = self.tier("words")
        indices = [word.index for word in self.words if word.index is not None]
        if indices != list(range(len(entries))):
            raise ValueError(
                f"the transcript's words point at intervals {indices}, the words tier has {len(entries)}: each "
                "interval needs exactly one word, in order"
            )
        if "phones" not in [tier.name for tier in self.tiers]:
            return
        starts = {phone.start for phone in self.tier("phones")}
        ends = {phone.end for phone in self.tier("phones")}
        wrong = [f"{w.label!r} [{w.start}, {w.end})" for w in entries if w.start not in starts or w.end not in ends]
        if wrong:
            raise ValueError("these words do not start with a phone and end with one: " + ", ".join(wrong))

    def tier(self, name: str) -> Tier:
        """The tier called ``name``.

        Raises:
            KeyError: If there is none; the message lists those there are.
        """
        for tier in self.tiers:
            if tier.name == name:
                return tier
        raise KeyError(f"no tier {name!r}; this alignment has {[t.name for t in self.tiers]}")

    @property
    def problems(self) -> tuple[TranscriptWord, ...]:
        """The words that have no interval."""
        return tuple(word for word in self.words if word.status != "aligned")

    def phones_of(self, word: Interval) -> tuple[Interval, ...]:
        """The phones inside ``word`` in time order; `KeyError` if there is no tier of phones."""
        return tuple(p for p in self.tier("phones") if word.start <= p.start and p.end <= word.end)

    def to_textgrid(self, path: "str | Path", *, long: bool = True, overwrite: bool = False) -> None:
        """Write a Praat TextGrid; see `gradalign.io.textgrid.write`."""
        from gradalign.io import textgrid

        textgrid.write(self, path, long=long, overwrite=overwrite)

    def plot(self, **options: Any) -> Any:
        """Draw saliency over the spectrogram with the tiers; see `gradalign.plot.plot` for options and errors."""
        from gradalign.plot import plot

        return plot(self, **options)

    def __repr__(self) -> str:
        by = " by ".join(x for x in (self.model, self.method) if x)
        lines = [f"Alignment of {self.duration:.2f} s" + (f" ({by})" if by else "")]
        phones = "phones" in [tier.name for tier in self.tiers]
        for tier in self.tiers:
            if tier.name == "phones" and len(self.tiers) > 1:
                continue
            width = max([len(i.label) for i in tier] + [4])
            shown = [*tier.intervals[:30]]
            for i in shown:
                inside = " ".join(p.label for p in self.phones_of(i)) if phones and tier.name == "words" else ""
                lines.append(f"  {i.start:8.3f} {i.end:8.3f}  {i.label:<{width}}  {inside}".rstrip())
            if len(tier) > len(shown):
                lines.append(f"  ... and {len(tier) - len(shown)} more in tier {tier.name!r}")
        for word in self.problems:
            lines.append(f"  not aligned: {word.text!r} at characters {word.start_char}-{word.end_char}: {word.status}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """A table for notebooks: one row a word, with its phones."""
        from html import escape

        head = "<tr><th>start</th><th>end</th><th>word</th><th>phones</th></tr>"
        names = [tier.name for tier in self.tiers]
        main = self.tier("words") if "words" in names else (self.tiers[0] if self.tiers else Tier("", ()))
        rows = [
            f"<tr><td>{i.start:.3f}</td><td>{i.end:.3f}</td><td>{escape(i.label)}</td><td>"
            + escape(" ".join(p.label for p in self.phones_of(i)) if {"words", "phones"} <= set(names) else "")
            + "</td></tr>"
            for i in main
        ]
        rows += [
            f"<tr><td colspan=2>{escape(w.status)}</td><td>{escape(w.text)}</td><td></td></tr>" for w in self.problems
        ]
        return "<table>" + head + "".join(rows) + "</table>"
