"""``gradalign inspect``."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import gradalign
from gradalign import output as outputs
from gradalign.cache import prepare_jax
from gradalign.commands import _shared
from gradalign.errors import AlignmentError, FormatError, GradalignError
from gradalign.terminal import note, say

if TYPE_CHECKING:
    import numpy as np

    from gradalign.bundle import Bundle
    from gradalign.inspection.health import Examined
    from gradalign.manifest import Utterance

    Reader = Callable[[int, float], np.ndarray]
    Heard = tuple[str, Callable[[], tuple[str, ...]], Reader]

LIMIT = 10
"""Recordings of a manifest that are looked at, unless asked for otherwise."""


def run(args: argparse.Namespace) -> int:
    """Report what a model's encoder does to the order of time."""
    if args.manifest is not None and args.audio is not None:
        args.parser.error("give a recording or --manifest, not both")
    if args.limit is not None and args.manifest is None:
        args.parser.error("--limit goes with --manifest FILE")
    target = _page(args)
    heard = _heard(args)
    note(f"loading model {args.model}", quiet=args.quiet)
    prepare_jax()
    from gradalign import bundle as bundles
    from gradalign.inspection.health import health
    from gradalign.inspection.page import draw, table

    folder = bundles.folder_of(args.model)
    if args.save and not os.access(folder, os.W_OK):  # a file is written beside the config, which it then replaces
        raise FormatError(f"{folder}: you may not write there; copy the model's folder and inspect that")
    try:
        bundle = bundles.load(folder, calibrated=False)
    finally:
        note("", quiet=args.quiet)
    examined = []
    for number, (name, labels, read) in enumerate(heard, start=1):
        note(f"{number}/{len(heard)}: {name} (the first one takes longer)", quiet=args.quiet)
        try:
            examined.append(_examine(bundle, name, labels, read))
        except (GradalignError, ValueError) as error:
            if len(heard) == 1:
                raise
            say("warning", f"{name} was left out: {error}")
        finally:
            note("", quiet=args.quiet)
    if not examined:
        raise GradalignError("none of the recordings could be used")
    report = health(bundle, examined)
    if args.json:
        import json

        print(json.dumps(report.to_dict(), indent=1))
    else:
        print(table(report))
    if target is not None:
        draw(report, path=target)
    if args.save:
        bundles.save_time_order(report.order, folder)
    return 0


def _page(args: argparse.Namespace) -> Path | None:
    """Where the page of pictures goes, known to be possible before anything slow begins."""
    if args.output is None:
        return None
    _shared.require_matplotlib()
    if outputs.is_folder(args.output) or Path(args.output).suffix.lower() not in (".png", ".pdf", ".svg"):
        args.parser.error(f"-o {args.output}: expected a file that ends in .png, .pdf or .svg")
    return outputs.target(args.output, Path("report"), ".png", overwrite=args.overwrite)


def _heard(args: argparse.Namespace) -> "list[Heard]":
    """What the model is inspected on: names, labels, and how to get the samples."""
    from gradalign import audio as audio_files
    from gradalign.transcript import Transcript

    def reader(audio: Path, start: float = 0.0, duration: float | None = None):
        def read(sample_rate: int, max_duration_s: float) -> "np.ndarray":
            # A part of a recording may be short enough though the whole is not.
            limit = max_duration_s if duration is None else None
            samples = audio_files.read(audio, channel=args.channel, sample_rate=sample_rate, max_duration_s=limit)
            stop = None if duration is None else round(sample_rate * (start + duration))
            samples = samples[round(sample_rate * start) : stop]
            if len(samples) > max_duration_s * sample_rate:
                raise AlignmentError(f"it is longer than {max_duration_s:.0f} s, the most that the model takes")
            return samples

        return read

    if args.manifest is None:
        if args.audio is None:
            audio, text = example()
        else:
            audio = _shared.recording(args)
            text = _shared.transcript(args, audio)
        return [(audio.name, lambda: Transcript.from_text(text).labels, reader(audio))]
    from gradalign import manifest

    found = manifest.read(args.manifest)
    usable = manifest.check(found).usable
    if not usable:
        raise FormatError(f"{args.manifest}: none of {len(found)} utterances can be used: {manifest.check(found)}")
    count = min(args.limit or LIMIT, len(usable))
    chosen = [usable[(2 * i + 1) * len(usable) // (2 * count)] for i in range(count)]

    def labels_of(utterance: "Utterance"):
        if utterance.phones is not None:
            return lambda: tuple(phone.label for phone in utterance.phones or ())
        if utterance.heard is not None:
            return lambda: utterance.heard or ()
        return lambda: Transcript.from_text(utterance.text).labels

    return [(u.id, labels_of(u), reader(u.audio, u.start, u.duration)) for u in chosen]


def _examine(bundle: "Bundle", name: str, labels: "Callable[[], tuple[str, ...]]", read: "Reader") -> "Examined":
    from gradalign.inspection.health import examine_recording

    samples = read(bundle.features.sample_rate, bundle.max_duration_s)
    return examine_recording(bundle, samples, labels(), name=name)


def example() -> tuple[Path, str]:
    """The recording that comes with the package, and what is said in it.

    Raises:
        FormatError: If it is not there.
    """
    here = Path(gradalign.__file__).parent
    for folder in (here / "examples", here.parent / "docs" / "examples"):
        if (folder / "example.wav").is_file() and (folder / "example.txt").is_file():
            return folder / "example.wav", (folder / "example.txt").read_text("utf-8")
    raise FormatError("the example recording is missing; give a recording and what is said in it")
