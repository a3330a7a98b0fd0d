"""Files with the words of a recording, as people write them."""

import os
import re
from pathlib import Path

from gradalign.audio import AUDIO_SUFFIXES
from gradalign.errors import FormatError
from gradalign.io._files import read_text


def read_transcript(path: Path) -> str:
    """The text in a transcript file, in UTF-8, or UTF-16 with a byte order mark.

    Raises:
        FormatError: If it is missing, a folder, not text, or a file of another kind by its suffix.
    """
    if path.is_dir():
        raise FormatError(f"{path} is a directory; expected the transcript as text or as a text file")
    if not os.path.exists(path):
        raise FormatError(f"{path}: no such transcript file; check the path (words that look like one go into a file)")
    if path.suffix.lower() in AUDIO_SUFFIXES:
        raise FormatError(f"{path} is a recording; the recording comes first, then its transcript")
    expected = "expected only the words that are said, for example in a .txt file"
    if path.suffix.lower() in (".textgrid", ".json", ".ctm", ".srt", ".vtt", ".eaf", ".docx", ".rtf", ".pdf"):
        raise FormatError(f"{path} is not plain text; {expected}")
    text = read_text(path)
    # HTK's labels are named .lab as well; no one says numbers of five digits and a word in every line.
    rows = [row for row in text.splitlines() if row.strip()]
    if rows and all(re.match(r"\s*\d+\s+\d{5,}\s+[^\s\d]", row) for row in rows):
        raise FormatError(f"{path} holds labels with their times; {expected}")
    return text
