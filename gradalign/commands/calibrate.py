"""``gradalign calibrate``."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gradalign import output as outputs
from gradalign.cache import prepare_jax
from gradalign.errors import FormatError
from gradalign.terminal import note, reporters, say, without_warnings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gradalign.bundle import Bundle
    from gradalign.manifest import Utterance


_TOGETHER = 4  # sentences that a voice reads in one manner


def run(args: argparse.Namespace) -> int:
    """Learn how a model's evidence relates to true times."""
    import tempfile

    from gradalign.bundle import CALIBRATION, folder_of

    path: Path = args.output or folder_of(args.model) / CALIBRATION
    target = outputs.target(str(path), Path(CALIBRATION), ".json", overwrite=args.overwrite)
    if args.data and args.voices:
        args.parser.error("--voices are for synthetic speech, which is made only without --data")
    if args.data and args.besides:
        args.parser.error("--besides is for recordings beside synthetic speech, which is made only without --data")
    if args.afresh and not args.data:
        args.parser.error("--afresh is for --data: on synthetic speech calibrations always begin afresh")
    if args.within and not args.besides:
        args.parser.error("--within is for recordings of --besides, and there are none")
    besides = _once(_with_times(args.besides or ()))
    for utterance in besides:
        if not utterance.audio.is_file():  # said now, not after synthetic speech has been made
            raise FormatError(f"{utterance.audio}: no such audio file; check the paths of --besides")
    with tempfile.TemporaryDirectory() as scratch:
        utterances, others, about = _timed_speech(args, Path(scratch))
        note(f"loading model {args.model}", quiet=args.quiet)
        prepare_jax()
        import numpy as np

        from gradalign import calibration
        from gradalign.bundle import fingerprint, flat_params, load
        from gradalign.calibrate import FEWEST
        from gradalign.calibrate import calibrate as learn
        from gradalign.timed_speech import among_people, read

        # What is learnt must not depend on the machine it is learnt on.
        bundle = load(args.model, calibrated=False, precision="float32")
        network = fingerprint(flat_params(bundle.network))
        timed, framed = ([read(utterance, bundle) for utterance in part] for part in (utterances, others))
        if not args.data:
            rng = np.random.default_rng(args.seed)
            rate = bundle.features.sample_rate
            timed, framed = (
                [among_people(utterance, rng, sample_rate=rate) for utterance in part] for part in (timed, framed)
            )
        recordings = [read(utterance, bundle) for utterance in besides]
        if besides:
            about += f", and {_named(besides, 'recordings')}"
            if args.within:
                about += f", whose times may be wrong by {args.within:g} s"
        onward = bool(args.data) and not args.afresh
        bundle = _own(bundle, args.model, network, needed=onward or len(framed) < FEWEST)
        report, status = reporters(quiet=args.quiet)
        # Confidence is learnt from transcripts that are made wrong: what is said of them would only alarm.
        with without_warnings():
            done = learn(
                bundle,
                timed,
                about=about,
                framed=framed,
                besides=recordings,
                within=args.within,
                onward=onward,
                steps=args.steps,
                seed=args.seed,
                report=report,
                status=status,
            )
    note("", quiet=args.quiet)
    calibration.save(done.calibrations, target, about=done.calibrated_on, network=network)
    if not args.quiet:
        print(f"{target}: learnt on {done.calibrated_on}")
    return 0


def _own(bundle: "Bundle", model: str, network: str, *, needed: bool) -> "Bundle":
    """The model with the calibrations that it has, as far as they can be used.

    Args:
        bundle: The model without them.
        model: Its name or folder.
        network: Its parameters, as `gradalign.bundle.fingerprint` gives them.
        needed: Whether something of them is wanted: then it is said why they cannot be used.
    """
    from gradalign import calibration
    from gradalign.bundle import CALIBRATION, folder_of

    path = folder_of(model) / CALIBRATION
    if not path.exists():
        return bundle
    try:
        known, about = calibration.load(path, network=network)
    except FormatError as error:
        if needed:
            say("warning", f"nothing is kept of what {model} has learnt, in {path}: {error.__cause__ or error}")
        return bundle
    return replace(bundle, calibrations=known, calibrated_on=about)


def _calibration_speech(args: argparse.Namespace, folder: Path) -> list[list[Path]]:
    """Manifests of synthetic speech to calibrate on, and of other sentences for the classifier of frames."""
    from gradalign import synth as engines
    from gradalign.synth import corpus
    from gradalign.synth.augment import parse

    try:
        voices = engines.matching(args.voices or corpus.CALIBRATION_VOICES)
    except ValueError as error:
        args.parser.error(str(error))
    texts, _ = corpus.read_texts([corpus.SENTENCES])
    augmentation = parse(["room", "band", "pitch"])
    # Always the same two parts, so that a classifier that is kept never saw the sentences of the weights.
    sentences = (texts[::4], [text for i, text in enumerate(texts) if i % 4])
    parts: list[list[Path]] = []
    for number, (wanted, own) in enumerate(zip((args.utterances, args.frame_utterances), sentences, strict=True)):
        manifests, n_made = [], 0
        for i, (voice, few) in enumerate(_readings(own, voices, wanted)):
            part = folder / f"{number}-{i}"
            settings = corpus.Settings((voice,), 1000 * (args.seed + number) + i, True, augmentation, False)
            *_, last = corpus.write(few, part, settings)
            manifests.append(part / "manifest.jsonl")
            n_made += last.utterances
            note(f"speaking: {n_made} of {wanted} sentences", quiet=args.quiet)
        parts.append(manifests)
    note("", quiet=args.quiet)
    return parts


def _readings(texts: "Sequence[str]", voices: "Sequence[str]", wanted: int) -> "Iterator[tuple[str, Sequence[str]]]":
    """Who reads what, a few sentences at a time in one rate and pitch: all texts once, then again by other voices.

    So few utterances hold many texts, rates and pitches: what is learnt from a few texts by all voices fits these.
    At most every voice reads every text.
    """
    groups = [texts[first : first + _TOGETHER] for first in range(0, len(texts), _TOGETHER)]
    for reading in range(len(voices)):
        for i, group in enumerate(groups):
            if wanted <= 0:
                return
            yield voices[(i + reading) % len(voices)], group[:wanted]
            wanted -= len(group)


def _timed_speech(args: argparse.Namespace, scratch: Path) -> "tuple[list[Utterance], list[Utterance], str]":
    """Utterances with times, as many as asked for and drawn by the seed; others for frames; and what all of it is."""
    import random

    draw = random.Random(args.seed)
    if args.data:
        # A recording that is listed twice must not be in both parts.
        timed = _once(_with_times(args.data))
        draw.shuffle(timed)
        chosen, rest = timed[: args.utterances], timed[args.utterances :]
        others = [utterance for utterance in rest if utterance.phones][: args.frame_utterances]
    else:
        chosen, others = (
            draw.sample(part, min(wanted, len(part)))
            for part, wanted in zip(
                map(_with_times, _calibration_speech(args, scratch)),
                (args.utterances, args.frame_utterances),
                strict=True,
            )
        )
    return chosen, others, _named(chosen, "recordings" if args.data else "synthetic utterances")


def _once(utterances: "Sequence[Utterance]") -> "list[Utterance]":
    """Each utterance once, in however many manifests it is."""
    return list({(u.audio.resolve(), u.start, u.id): u for u in utterances}.values())


def _named(utterances: "Sequence[Utterance]", kind: str) -> str:
    """How many they are, and of whom."""
    speakers = sorted({u.speaker for u in utterances if u.speaker})
    if not speakers:
        return f"{len(utterances)} {kind}"
    whose = ", ".join(speakers) if len(speakers) <= 12 else f"{len(speakers)} speakers"
    return f"{len(utterances)} {kind} of {whose}"


def _with_times(sources: "Sequence[Path]") -> "list[Utterance]":
    """The utterances of corpora that have times of words, and perhaps of phones; none of no corpora."""
    from gradalign import manifest

    found = [u for source in sources for u in manifest.read(source)]
    timed = [u for u in found if u.words]
    if sources and not timed:
        raise FormatError(
            f"{', '.join(map(str, sources))}: none of {len(found)} utterances has times of words; expected "
            'a manifest of gradalign synth, or recordings with TextGrids beside them that have a tier "words"'
        )
    return timed
