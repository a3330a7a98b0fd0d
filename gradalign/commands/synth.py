"""``gradalign synth``."""

import argparse
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradalign import output as outputs
from gradalign.terminal import note, say

if TYPE_CHECKING:
    from gradalign.synth.corpus import Progress


def run(args: argparse.Namespace) -> int:
    """Make timed speech from text, or list the voices."""
    from gradalign import synth as engines

    if args.list_voices:
        installed = set(engines.voices())
        for voice, package in engines.packages().items():
            print(f"{voice:<32} {'installed' if voice in installed else f'apt-get install {package}'}")
        return 0
    if args.output is None:
        args.parser.error("where to? give a folder: -o FOLDER")
        raise AssertionError("argparse has left")
    from gradalign.synth import corpus
    from gradalign.synth.augment import parse

    if args.sets and not any(corpus.is_manifest(path) for path in args.texts or ()):
        args.parser.error("--sets goes with --texts MANIFEST.jsonl")
    try:
        voices = engines.matching(args.voices or corpus.VOICES)
        augmentations = parse(args.augment)
    except ValueError as error:
        args.parser.error(str(error))
    texts, left_out = corpus.read_texts(args.texts or [corpus.SENTENCES], sets=args.sets)
    if left_out:
        say("warning", f"{left_out} sentences were left out: the voices read English in ASCII")
    outputs.make_folder(args.output)
    settings = corpus.Settings(voices, args.seed, args.each, augmentations, args.textgrid)
    run = corpus.write(texts, args.output, settings, hours=args.hours, overwrite=args.overwrite)
    return _synth(run, args)


def _synth(run: "Iterator[Progress]", args: argparse.Namespace) -> int:
    """Go through the run, and say how far it came."""
    last, n_failed, stopped = None, 0, False
    told = time.monotonic()
    try:
        for last in run:
            for failure in last.failures:
                say("warning", failure)
            n_failed += len(last.failures)
            of = "" if args.hours is None else f" of {args.hours:g}"
            line = f"{last.utterances} recordings, {last.hours:.2f}{of} h"
            note(line, quiet=args.quiet)
            if not (args.quiet or sys.stderr.isatty()) and time.monotonic() - told > 10:
                told = time.monotonic()
                print(f"gradalign: {line}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        stopped = True
    note("", quiet=args.quiet)
    if last is not None and not args.quiet:
        print(
            f"{args.output / 'manifest.jsonl'}: {last.utterances} recordings, {last.hours:.2f} h; "
            f"{last.utterances - last.kept} made, {last.kept} kept, {n_failed} failed"
        )
    if stopped:
        say("error", "interrupted; the same command goes on from here")
        return 130
    return int(n_failed > 0)
