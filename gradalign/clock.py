"""Where the time of a run goes: its parts by name, and the compiling inside them. Costs nothing unless switched on."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

from gradalign._types import Seconds

Part = Literal["model", "read", "features", "variants", "encode", "gradients", "lattice", "write"]
"""What the time is divided into. Compiling is taken out of each and counted by itself. With gradients, the forward
pass through the encoder is in the same program as they are, and so in "gradients"; "encode" is that of CTC and
attention. "variants" is the choice among pronunciations."""


class Clock:
    """Takes the times of everything between `start` and `stop`; one clock a process at a time."""

    def __init__(self) -> None:
        self._parts: list[tuple[Part, float, float]] = []
        self._compiling: list[tuple[float, float]] = []
        self._started = self._stopped = time.perf_counter()

    def start(self) -> "Clock":
        """Begin, and listen to JAX, which says when it compiles."""
        global _running
        from jax import monitoring

        if _running is None and not _listening:
            monitoring.register_event_duration_secs_listener(_heard)
            _listening.append(True)
        _running = self
        self._started = time.perf_counter()
        return self

    def stop(self) -> "Clock":
        """End."""
        global _running
        _running = None
        self._stopped = time.perf_counter()
        return self

    def seconds(self) -> dict[str, Seconds]:
        """Seconds of each part, of "compile", of all that is none of these ("other"), and the "total"."""
        compiling = _union(self._compiling)
        found: dict[str, Seconds] = dict.fromkeys((*get_args(Part), "compile"), 0.0)
        for part, start, end in self._parts:
            inside = sum(max(0.0, min(end, b) - max(start, a)) for a, b in compiling)
            found[part] += end - start - inside
        found["compile"] = sum(b - a for a, b in compiling)
        total = self._stopped - self._started
        return found | {"other": total - sum(found.values()), "total": total}

    def __str__(self) -> str:
        """A table, one line a part."""
        seconds = self.seconds()
        total = max(seconds["total"], 1e-9)
        return "\n".join(f"{name:9s} {value:8.3f} s {100 * value / total:5.1f} %" for name, value in seconds.items())


_running: Clock | None = None
_listening: list[bool] = []


@contextmanager
def part(name: Part) -> Iterator[None]:
    """Count what runs inside as this part, if a clock is running. Parts must not lie inside each other.

    Args:
        name: The part. What JAX computes must be waited for inside.
    """
    if _running is None:
        yield
        return
    start = time.perf_counter()
    try:
        yield
    finally:
        if _running is not None:
            _running._parts.append((name, start, time.perf_counter()))


def _heard(event: str, duration_secs: float, **_: str | int) -> None:
    """JAX tells how long tracing, lowering, compiling or reading a compiled program took."""
    # Events of the cache are not counted: reading a program is inside "compile", and one of them is the time *saved*.
    if _running is not None and event.startswith("/jax/core/compile/"):
        now = time.perf_counter()
        _running._compiling.append((now - duration_secs, now))


def _union(intervals: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The same time, in intervals that do not overlap: JAX compiles functions inside functions."""
    merged: list[tuple[float, float]] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged
