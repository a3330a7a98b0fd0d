"""Writes the golden files of test_io.py; run it by hand after a wanted change of a format."""

from pathlib import Path

from gradalign import io
from gradalign.alignment import Alignment, Interval, Tier, TranscriptWord

HERE = Path(__file__).parent

ALIGNMENT = Alignment(
    duration=1.5,
    tiers=(
        Tier("words", (Interval(0.125, 0.5, 'say "é"', -0.75), Interval(0.5, 1.0625, "日本", None))),
        Tier("phones", (Interval(0.125, 0.25, "S", -1.0), Interval(0.25, 0.5, "EY1"), Interval(0.5, 1.0625, "n"))),
    ),
    transcript='say "é" 日本 1!',
    words=(
        TranscriptWord('say "é"', 0, 7, "aligned", 0),
        TranscriptWord("日本", 8, 10, "aligned", 1),
        TranscriptWord("1!", 11, 13, "unpronounceable"),
    ),
    method="gradient",
    model="tiny",
)

FILES: dict[str, io.Format] = {
    "two_words.TextGrid": "textgrid",
    "two_words.short.TextGrid": "short-textgrid",
    "two_words.json": "json",
    "two_words.ctm": "ctm",
}

if __name__ == "__main__":
    for name, format in FILES.items():
        io.write(ALIGNMENT, HERE / name, format=format, overwrite=True)
