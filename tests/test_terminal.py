"""The lines that only a terminal sees, and those of a long run; what commands print is in test_cli.py."""

import io
import logging
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from gradalign import terminal
from gradalign.corpus import Item, Outcome

OUTCOMES = [Outcome(Item(f"{name}.wav", Path(name), None, Path(name)), "kept") for name in "abc"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def screen(monkeypatch) -> Terminal:
    """Standard error as a terminal of 40 columns."""
    screen = Terminal()
    monkeypatch.setattr(terminal, "sys", SimpleNamespace(stderr=screen))
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((40, 24)))
    return screen


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by six seconds whenever it is read."""
    times = iter(range(0, 1000, 6))
    monkeypatch.setattr("time.monotonic", lambda: float(next(times)))


def test_a_note_replaces_the_line_of_a_terminal_and_is_cut_to_its_width(screen):
    terminal.note("x" * 100, quiet=False)
    assert screen.getvalue() == "\r\x1b[K" + "x" * 39


def test_a_note_is_not_shown_when_quiet(screen):
    terminal.note("hidden", quiet=True)
    assert screen.getvalue() == ""


def test_a_note_is_not_shown_where_there_is_no_terminal(capsys):
    terminal.note("hidden", quiet=False)
    assert capsys.readouterr() == ("", "")


def test_a_message_clears_the_note_and_is_one_line(screen):
    terminal.say("error", "two\n  lines")
    assert screen.getvalue() == "\r\x1b[Kgradalign: error: two lines\n"


@pytest.mark.usefixtures("clock")
def test_progress_on_a_terminal_counts_each_recording_and_goes_away(screen):
    assert list(terminal.progress(iter(OUTCOMES), 3, quiet=False)) == OUTCOMES
    lines = screen.getvalue().split("\r\x1b[K")[1:]
    assert [line[:14] for line in lines] == ["0/3 recordings", "1/3 recordings", "2/3 recordings", "3/3 recordings", ""]
    assert lines[1] == "1/3 recordings, about 12 s left (a.wav)"[:39]


@pytest.mark.usefixtures("clock")
def test_progress_elsewhere_is_a_line_now_and_then(capsys):
    assert list(terminal.progress(iter(OUTCOMES), 3, quiet=False)) == OUTCOMES
    assert capsys.readouterr() == ("", "gradalign: 2/3 recordings, about 6 s left (b.wav)\n")


@pytest.mark.usefixtures("clock")
def test_progress_is_silent_when_quiet(screen):
    assert list(terminal.progress(iter(OUTCOMES), 3, quiet=True)) == OUTCOMES
    assert screen.getvalue() == ""


def test_warnings_are_left_unsaid_inside_only(capsys, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # those of the tests would take what is logged
    log = logging.getLogger("gradalign.readout")
    with terminal.without_warnings():
        log.warning("inside")
    log.warning("outside")
    assert capsys.readouterr().err == "outside\n"
