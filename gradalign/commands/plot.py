"""``gradalign plot``."""

import argparse

from gradalign.commands import _shared
from gradalign.terminal import report_one


def run(args: argparse.Namespace) -> int:
    """Align one recording and draw it."""
    _shared.require_matplotlib()
    audio = _shared.recording(args)
    transcript = _shared.transcript(args, audio)
    target = _shared.target(args, audio, ".png", inputs=_shared.text_files(args, audio))
    if target.suffix.lower() not in (".png", ".pdf", ".svg"):
        args.parser.error(f"{target}: cannot draw a {target.suffix or 'file without suffix'}; use .png, .pdf or .svg")
    bundle = _shared.loaded(args)
    from gradalign import audio as audio_files
    from gradalign.aligner import longest_whole_s

    # Longer ones are aligned in stretches, of which no evidence is kept.
    audio_files.read(audio, channel=args.channel, max_duration_s=longest_whole_s(bundle))
    alignment = _shared.align_one(args, bundle, audio, transcript)
    alignment.plot(path=target)
    report_one(audio, alignment, target, quiet=args.quiet)
    return 0
