"""``gradalign inspect``."""

import argparse
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import gradalign
from gradalign import output as outputs
from gradalign.cache import prepare_jax
from gradalign.commands import _shared
from gradalign.errors import AlignmentError, FormatError, GradalignError
from gradalign.terminal import note, say

if TYPE_CHECKING:
    from gradalign.bundle import Bundle
    from gradalign.inspection.health import Examined
    from gradalign.manifest import Utterance

LIMIT = 10
"""Recordings of a manifest that are looked at, unless asked for otherwise."""


def run(args: argparse.Namespace) -> int:
    """Report what a model's encoder does to the order of time."""
    if args.manifest is not None and args.audio is not None:
        args.parser.error("give a recording or --manifest, not both")
    if args.limit is not None and args.manifest is None:
        args.parser.error("--limit goes with --manifest FILE")
    target = _page(args)
    recordings = _recordings(args)
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
    for number, recording in enumerate(recordings, start=1):
        note(f"{number}/{len(recordings)}: {recording.name} (the first one takes longer)", quiet=args.quiet)
        try:
            examined.append(_examine(bundle, recording, args.channel))
        except (GradalignError, ValueError) as error:
            if len(recordings) == 1:
                raise
            say("warning", f"{recording.name} was left out: {error}")
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


class _Recording(NamedTuple):
    """What the model is inspected on, in seconds; labels are found and samples read when its turn has come."""

    name: str
    labels: Callable[[], tuple[str, ...]]
    audio: Path
    start: float = 0.0
    duration: float | None = None


def _recordings(args: argparse.Namespace) -> list[_Recording]:
    """The recording that was given, some of the manifest, or the one that comes with the package."""
    from gradalign.transcript import Transcript

    if args.manifest is None:
        if args.audio is None:
            audio, text = example()
        else:
            audio = _shared.recording(args)
            text = _shared.transcript(args, audio)
        return [_Recording(audio.name, lambda: Transcript.from_text(text).labels, audio)]
    from gradalign import manifest

    found = manifest.read(args.manifest)
    report = manifest.check(found)
    usable = report.usable
    if not usable:
        raise FormatError(f"{args.manifest}: none of {len(found)} utterances can be used: {report}")
    count = min(args.limit or LIMIT, len(usable))
    chosen = [usable[(2 * i + 1) * len(usable) // (2 * count)] for i in range(count)]

    def labels_of(utterance: "Utterance") -> tuple[str, ...]:
        return Transcript.from_text(utterance.text).labels if utterance.labels is None else utterance.labels

    return [_Recording(u.id, partial(labels_of, u), u.audio, u.start, u.duration) for u in chosen]


def _examine(bundle: "Bundle", recording: _Recording, channel: int | None) -> "Examined":
    """Read a recording, or the part of one, and measure the model on it."""
    from gradalign import audio
    from gradalign.inspection.health import examine_recording

    rate, longest = bundle.features.sample_rate, bundle.max_duration_s
    # A part of a recording may be short enough though the whole is not.
    limit = longest if recording.duration is None else None
    samples = audio.read(recording.audio, channel=channel, sample_rate=rate, max_duration_s=limit)
    stop = None if recording.duration is None else round(rate * (recording.start + recording.duration))
    samples = samples[round(rate * recording.start) : stop]
    if len(samples) > longest * rate:
        raise AlignmentError(f"it is longer than {longest:.0f} s, the most that the model takes")
    return examine_recording(bundle, samples, recording.labels(), name=recording.name)


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
