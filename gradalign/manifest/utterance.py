"""One utterance of a corpus."""

import math
from dataclasses import dataclass
from pathlib import Path

from gradalign._types import Seconds
from gradalign.alignment import Interval


@dataclass(frozen=True, slots=True)
class Utterance:
    """What is said in a recording, or in the part ``[start, start + duration)`` of one.

    Attributes:
        audio: The recording.
        text: What is said in it, as people write it; "" where that is not known.
        id: Name of the utterance, for reports.
        speaker: Who says it, or "" if that is not known.
        set: Name of the corpus it belongs to.
        duration: Length in seconds as the source states it, >= 0; None where it states none, which
            means up to the end of the recording.
        start: Where it begins in the recording, in seconds, >= 0.
        phones: Exact or reference times of the phones in seconds from ``start``, or None.
        words: The same of the words.
        heard: The phones without times, where a recogniser heard them and the text is not known; else None.

    Raises:
        ValueError: If the duration or the start is negative or not finite.
    """

    audio: Path
    text: str
    id: str
    speaker: str
    set: str
    duration: Seconds | None
    start: Seconds = 0.0
    phones: tuple[Interval, ...] | None = None
    words: tuple[Interval, ...] | None = None
    heard: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name, value in (("duration", self.duration), ("start", self.start)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"the {name} is {value}, expected seconds, finite and >= 0")

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The phones, where they are given with times or were heard; None where only the text tells."""
        return self.heard if self.phones is None else tuple(phone.label for phone in self.phones)
