"""``gradalign calibrate``."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from gradalign import output as outputs
from gradalign.cache import prepare_jax
from gradalign.errors import FormatError
from gradalign.terminal import note, reporters

if TYPE_CHECKING:
    from gradalign.manifest import Utterance


def run(args: argparse.Namespace) -> int:
    """Learn how a model's evidence relates to true times."""
    import tempfile

    from gradalign.bundle import CALIBRATION, folder_of

    path: Path = args.output or folder_of(args.model) / CALIBRATION
    target = outputs.target(str(path), Path(CALIBRATION), ".json", overwrite=args.overwrite)
    if args.data and args.voices:
        args.parser.error("--voices are for synthetic speech, which is made only without --data")
    with tempfile.TemporaryDirectory() as scratch:
        sources = args.data or [_calibration_speech(args, Path(scratch))]
        utterances, about = _timed_speech(args, sources)
        note(f"loading model {args.model}", quiet=args.quiet)
        prepare_jax()
        import numpy as np

        from gradalign import calibration
        from gradalign.bundle import load
        from gradalign.calibrate import among_people, read
        from gradalign.calibrate import calibrate as learn

        bundle = load(args.model, calibrated=False)
        timed = [read(utterance, bundle) for utterance in utterances]
        if not args.data:
            rng = np.random.default_rng(args.seed)
            rate = bundle.features.sample_rate
            timed = [among_people(utterance, rng, sample_rate=rate) for utterance in timed]
        report, status = reporters(quiet=args.quiet)
        done = learn(bundle, timed, about=about, steps=args.steps, seed=args.seed, report=report, status=status)
    note("", quiet=args.quiet)
    calibration.save(done.calibrations, target, about=about)
    if not args.quiet:
        print(f"{target}: learnt on {about}")
    return 0


def _calibration_speech(args: argparse.Namespace, folder: Path) -> Path:
    """Synthetic speech to calibrate on."""
    from gradalign import synth as engines
    from gradalign.synth import corpus
    from gradalign.synth.augment import parse

    try:
        voices = engines.matching(args.voices or corpus.CALIBRATION_VOICES)
    except ValueError as error:
        args.parser.error(str(error))
    texts, _ = corpus.read_texts([corpus.SENTENCES])
    share = -(-args.utterances // len(voices))
    settings = corpus.Settings(voices, args.seed, True, parse(["room", "band", "pitch"]), False)
    for last in corpus.write(texts[:: max(1, len(texts) // share)][:share], folder, settings):
        note(f"speaking: {last.utterances} of {args.utterances} sentences", quiet=args.quiet)
    note("", quiet=args.quiet)
    return folder / "manifest.jsonl"


def _timed_speech(args: argparse.Namespace, sources: "list[Path]") -> "tuple[list[Utterance], str]":
    """Utterances with times, as many as asked for and drawn by the seed; and what they are, in words."""
    import random

    from gradalign import manifest

    found = [u for source in sources for u in manifest.read(source)]
    timed = [u for u in found if u.phones and u.words]
    if not timed:
        raise FormatError(
            f"{', '.join(map(str, sources))}: none of {len(found)} utterances has times of both phones and words; "
            "expected a manifest of gradalign synth, or recordings with TextGrids beside them"
        )
    chosen = random.Random(args.seed).sample(timed, min(args.utterances, len(timed)))
    speakers = sorted({u.speaker for u in chosen if u.speaker})
    kind = "recordings" if args.data else "synthetic utterances"
    named = (
        f" of {', '.join(speakers)}" if 0 < len(speakers) <= 12 else f" of {len(speakers)} speakers" * bool(speakers)
    )
    return chosen, f"{len(chosen)} {kind}{named}"
