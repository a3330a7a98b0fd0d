"""How messages about many utterances are kept short."""

from collections.abc import Sequence
from pathlib import Path

from gradalign.errors import FormatError

SHOWN = 5
"""Names a report or a message gives of each kind; of the others it gives the number."""


def refuse_broken(broken: list[str], path: Path, what: str) -> None:
    """Raise `FormatError` with the first of the messages, if there are any."""
    if broken:
        more = f"; and {len(broken) - SHOWN} more {what}" if len(broken) > SHOWN else ""
        raise FormatError(f"{path}: " + "; ".join(broken[:SHOWN]) + more)


def some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def short(value: object) -> str:
    """A value as Python shows it, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
