"""``gradalign plot``."""

import argparse

from gradalign.commands import _shared
from gradalign.terminal import report_one


def run(args: argparse.Namespace) -> int:
    """Align one recording and draw it."""
    _shared.require_matplotlib()
    audio = _shared.recording(args)
    transcript = _shared.transcript(args, audio)
    target = _shared.target(args, audio, ".png")
    if target.suffix.lower() not in (".png", ".pdf", ".svg"):
        args.parser.error(f"{target}: cannot draw a {target.suffix or 'file without suffix'}; use .png, .pdf or .svg")
    alignment = _shared.align_one(args, _shared.loaded(args), audio, transcript)
    alignment.plot(path=target)
    report_one(audio, alignment, target, quiet=args.quiet)
    return 0
