"""What each command does: one function a command, from the parsed arguments to the exit status.

Nothing heavy is imported before it is needed, so that help and wrong paths are answered at once.
"""

import argparse
import dataclasses
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gradalign import output as outputs
from gradalign.cache import prepare_jax
from gradalign.clock import part
from gradalign.errors import AlignmentError, FormatError, GradalignError
from gradalign.output import Format
from gradalign.terminal import note, progress, report_all, report_one, say

if TYPE_CHECKING:
    import numpy as np

    from gradalign.alignment import Alignment
    from gradalign.bundle import Bundle
    from gradalign.clock import Clock
    from gradalign.corpus import Outcome
    from gradalign.evaluation import FilePair
    from gradalign.inspection.health import Examined
    from gradalign.manifest import Utterance
    from gradalign.metrics import Comparison
    from gradalign.recognition import Recognition
    from gradalign.synth.corpus import Progress
    from gradalign.training.config import TrainConfig

    Reader = Callable[[int, float], np.ndarray]
    Heard = tuple[str, Callable[[], tuple[str, ...]], Reader]

_PROSE = (".txt", ".lab", ".text", ".md", ".json", ".ctm", ".textgrid", ".wav", ".flac", ".mp3", ".ogg", ".opus")
"""A TEXT of one word, or with a slash, that ends like this is meant to be a file."""


def align(args: argparse.Namespace) -> int:
    """Align one recording, or all of a folder."""
    clock = _clock() if args.profile else None
    status = _align_folder(args) if os.path.isdir(args.audio) else _align_file(args)
    if clock is not None:
        print(clock.stop(), file=sys.stderr)
    return status


def _clock() -> "Clock":
    """A running clock; JAX is imported before, or the time that takes would count as compiling's."""
    prepare_jax()
    from gradalign.clock import Clock

    return Clock().start()


def _align_file(args: argparse.Namespace) -> int:
    audio = _recording(args)
    transcript = _transcript(args, audio)
    format = _format(args)
    target = None if args.output == "-" else _target(args, audio, outputs.SUFFIX[format])
    alignment = _align_one(args, _bundle(args), audio, transcript)
    if target is None:
        # A file's bytes, whatever the terminal's encoding.
        sys.stdout.buffer.write(outputs.as_text(alignment, format, args.tier, name=audio.stem).encode("utf-8"))
        sys.stdout.flush()
    else:
        outputs.writer(format, args.tier, overwrite=args.overwrite)(alignment, target)
    report_one(audio, alignment, target, quiet=args.quiet)
    return 0


def _align_folder(args: argparse.Namespace) -> int:
    from gradalign import corpus

    if args.text is not None:
        args.parser.error(f"{args.audio} is a folder: each transcript must lie beside its recording, as x.txt or x.lab")
    if args.output == "-":
        args.parser.error("a folder of recordings needs a folder to write to: -o FOLDER")
    output = Path(args.output or args.audio)
    format = _format(args, to_folder=True)
    items = corpus.find(Path(args.audio), output, outputs.SUFFIX[format])
    outputs.make_folder(output)
    # A run that has nothing left to do need not wait for the model.
    bundle = _bundle(args) if any(corpus.pending(item, overwrite=args.overwrite) for item in items) else None

    def align_item(audio: Path, text: str) -> "Alignment":
        return _align_one(args, bundle or _bundle(args), audio, text, in_folder=True)

    outcomes: list[Outcome] = []
    stopped = False
    try:
        write = outputs.writer(format, args.tier, overwrite=args.overwrite)
        run = corpus.run(items, align_item, write, overwrite=args.overwrite)
        outcomes.extend(progress(run, len(items), quiet=args.quiet))
    except KeyboardInterrupt:
        stopped = True
    report_all(outcomes, len(items), output, quiet=args.quiet)
    if stopped:
        say("error", "interrupted; the same command goes on from here")
        return 130
    return int(any(outcome.status == "failed" for outcome in outcomes))


def evaluate(args: argparse.Namespace) -> int:
    """Compare one alignment, or all of a folder, with a reference."""
    from gradalign.evaluation import compare_files, pair_files
    from gradalign.io._files import check_writable, write_text
    from gradalign.metrics import Comparison

    files = pair_files(args.reference, args.hypothesis)
    for warning in files.warnings:
        say("warning", warning)
    if args.json is not None:
        check_writable(args.json, overwrite=args.overwrite)
    comparisons, failed = [], 0
    for pair in files.pairs:
        try:
            comparisons.append(compare_files(pair, tier=args.tier, match=args.match))
        except GradalignError as error:
            failed += 1
            say("error", str(error))
            if len(files.pairs) > 1:  # leaving a broken file out would flatter the others
                comparisons += _missing(pair, args)
    if not comparisons:
        return 1
    pooled = Comparison.pooled(comparisons)
    print(pooled)
    if args.json is not None:
        import json

        measures = {"tier": args.tier, "match": args.match, **pooled.to_dict()}
        write_text(args.json, json.dumps(measures, indent=1) + "\n", overwrite=args.overwrite)
    return int(failed > 0 or not files.complete)


def _missing(pair: "FilePair", args: argparse.Namespace) -> "list[Comparison]":
    """A hypothesis that cannot be read is charged like one that is not there; nothing if it is the reference."""
    from gradalign.evaluation import FilePair, compare_files

    try:
        return [compare_files(FilePair(pair.reference, None), tier=args.tier, match=args.match)]
    except GradalignError:
        return []


def plot(args: argparse.Namespace) -> int:
    """Align one recording and draw it."""
    if importlib.util.find_spec("matplotlib") is None:
        raise GradalignError('plots need matplotlib, which is not installed: pip install "gradalign[plot]"')
    audio = _recording(args)
    transcript = _transcript(args, audio)
    target = _target(args, audio, ".png")
    if target.suffix.lower() not in (".png", ".pdf", ".svg"):
        args.parser.error(f"{target}: cannot draw a {target.suffix or 'file without suffix'}; use .png, .pdf or .svg")
    alignment = _align_one(args, _bundle(args), audio, transcript)
    alignment.plot(path=target)
    report_one(audio, alignment, target, quiet=args.quiet)
    return 0


def recognise(args: argparse.Namespace) -> int:
    """Print what the model hears in recordings."""
    recordings = _recordings(args.audio)
    text = None if args.words is None else _word_file(args.words)
    if args.word_penalty is not None and text is None:
        args.parser.error("--word-penalty goes with --words WORDLIST")
    if args.output is not None and outputs.is_folder(args.output):
        args.parser.error(f"-o {args.output}: is a folder; expected one file for all recordings")
    other = args.json or text is not None or args.n_best > 1 or args.channel is not None
    if args.surest is not None and (args.output is None or Path(args.output).suffix != ".jsonl" or other):
        args.parser.error(
            "--surest writes a manifest of phones: it goes with -o FILE.jsonl, without --json, --words, --n-best and "
            "--channel"
        )
    target = None if args.output is None else _target(args, recordings[0], ".txt")
    note(f"loading model {args.model}", quiet=args.quiet)
    prepare_jax()
    from gradalign.bundle import load
    from gradalign.recognition import word_list

    try:
        bundle, vocabulary = load(args.model, calibrated=False), None if text is None else word_list(text)
    finally:
        note("", quiet=args.quiet)
    lines, all_found, failed = [], [], 0
    for number, audio in enumerate(recordings, start=1):
        progress_of = f"{number}/{len(recordings)}: " * (len(recordings) > 1)
        note(f"{progress_of}recognising {audio.name} (a new length takes longer)", quiet=args.quiet)
        try:
            found = _recognise_one(args, bundle, audio, vocabulary)
        except GradalignError as error:
            failed += 1
            message = str(error)
            say("error", message if str(audio) in message else f"{audio}: {message}")
            continue
        finally:
            note("", quiet=args.quiet)
        line = _recognised(args, bundle, audio, found)
        lines.append(line)
        all_found.append((audio, found))
        if target is None:
            print(line, flush=True)
    if target is not None and args.surest is not None:
        _write_heard(all_found, args.surest, target, overwrite=args.overwrite)
    elif target is not None and lines:
        from gradalign.io._files import write_text

        write_text(target, "\n".join(lines) + "\n", overwrite=args.overwrite)
    return int(failed > 0)


def _write_heard(found: "list[tuple[Path, Recognition]]", share: float, target: Path, *, overwrite: bool) -> None:
    """A manifest of the recordings in which the model is surest of what it hears, by log-probability a phone."""
    from gradalign.manifest import Utterance, write

    heard = [(audio, one) for audio, one in found if one.labels]
    heard.sort(key=lambda pair: pair[1].log_prob / len(pair[1].labels), reverse=True)
    kept = sorted(heard[: round(share * len(heard))], key=lambda pair: str(pair[0]))
    if not kept:
        raise GradalignError(f"nothing to write to {target}: phones were heard in {len(heard)} recordings")
    write(
        [Utterance(audio, "", str(audio.with_suffix("")), "", "heard", None, heard=one.labels) for audio, one in kept],
        target,
        overwrite=overwrite,
    )


def _recordings(names: list[str]) -> list[Path]:
    """The recordings, all known to be files before anything slow begins."""
    problems = [f"{name} is a directory; expected audio files" for name in names if os.path.isdir(name)]
    problems += [f"{name}: no such audio file; check the path" for name in names if not os.path.exists(name)]
    if problems:
        raise FormatError("; ".join(problems))
    return [Path(name) for name in names]


def _word_file(path: Path) -> str:
    """The text of a word list."""
    from gradalign import corpus
    from gradalign.io._files import read_text

    if not path.exists():
        raise FormatError(f"{path}: no such word list; expected a text file, one word a line")
    if path.is_dir() or path.suffix.lower() in (*corpus.AUDIO_SUFFIXES, ".textgrid", ".json", ".ctm"):
        raise FormatError(f"{path} is not plain text; expected a text file of words, one a line")
    return read_text(path)


def _recognise_one(
    args: argparse.Namespace,
    bundle: "Bundle",
    audio: Path,
    vocabulary: dict[str, tuple[tuple[str, ...], ...]] | None,
) -> "Recognition":
    from gradalign import audio as audio_files
    from gradalign import recognition

    waveform = audio_files.read(
        audio, channel=args.channel, sample_rate=bundle.features.sample_rate, max_duration_s=bundle.max_duration_s
    )
    beam = max(args.beam, args.n_best)
    if vocabulary is None:
        return recognition.recognise(bundle, waveform, beam=beam, ctc_weight=args.ctc_weight)
    return recognition.recognise_words(
        bundle, waveform, vocabulary, beam=beam, ctc_weight=args.ctc_weight, word_penalty=args.word_penalty
    )


def _recognised(args: argparse.Namespace, bundle: "Bundle", audio: Path, found: "Recognition") -> str:
    """What is printed for a recording: its hypotheses, or one JSON object."""
    hypotheses = found.n_best[: args.n_best]
    if args.json:
        import json

        rows = [
            {"log_prob": round(h.log_prob, 4)}
            | ({} if args.words is None else {"words": list(h.words)})
            | {"phones": list(h.labels)}
            for h in hypotheses
        ]
        return json.dumps({"audio": str(audio), "model": bundle.name, "n_best": rows}, ensure_ascii=False)
    name = f"{audio}: " * (len(args.audio) > 1)
    texts = [" ".join(h.labels if args.words is None else h.words) for h in hypotheses]
    if args.n_best == 1:
        return name + texts[0]
    return "\n".join(f"{name}{h.log_prob:9.2f}  {text}" for h, text in zip(hypotheses, texts, strict=True))


def train(args: argparse.Namespace) -> int:
    """Train a model as a file says."""
    from gradalign.bundle import folder_of
    from gradalign.training import config as configs

    path = Path(args.config)
    if not path.is_file():
        try:
            if path.suffix:
                raise FormatError(f"{path}: no such file")
            path = folder_of(args.config) / "train.toml"
        except FormatError as error:
            expected = "expected a TOML file (docs/training.md), or a model that has its recipe, train.toml"
            raise FormatError(f"no such training config: {error}. {expected}") from error
        if not path.is_file():
            raise FormatError(f"model {args.config} comes without a recipe: there is no {path}")
    config = configs.read(path, changes=args.set)
    data = args.data or path.parent
    if args.check:
        return _check_data(config, data)
    output: Path | None = args.output
    if output is None:
        args.parser.error("where to? give -o FOLDER")
        raise AssertionError("argparse has left")
    if missing := [name for name in ("grain", "orbax.checkpoint") if not _is_installed(name)]:
        raise GradalignError(f'training needs {" and ".join(missing)}: pip install "gradalign[train]"')
    prepare_jax()
    _log_to_terminal(quiet=args.quiet)
    from gradalign.training.loop import train

    report, status = _reporters(args)
    done = train(
        config,
        output,
        data=data,
        cache=args.cache,
        resume=args.resume,
        init=args.init,
        report=report,
        status=status,
    )
    if done.reason == "interrupted":
        note("", quiet=args.quiet)
        say(
            "warning", f"interrupted after update {done.step} of {config.steps}; the same command with --resume goes on"
        )
        return 130
    early = f", which is where it stopped: {config.run.patience} measurements without a better one"
    report(f"{done.model}: the model after update {done.step}{early if done.reason == 'no better' else ''}")
    if done.best is not None and done.per is not None:
        report(f"{done.best}: the one with the lowest PER on speech kept aside, {100 * done.per:.1f} %")
    return 0


def _reporters(args: argparse.Namespace) -> tuple[Callable[[str], None], Callable[[str], None]]:
    """What takes lines to keep, and what takes lines that the next one replaces."""

    def report(line: str) -> None:
        note("", quiet=args.quiet)
        if not args.quiet:
            print(line, flush=True)

    return report, lambda line: note(line, quiet=args.quiet)


def _check_data(config: "TrainConfig", data: Path) -> int:
    """Print what is wrong with the speech that a config names."""
    from gradalign import manifest

    status = 0
    for source in (*config.data.train, *config.data.dev):
        found = manifest.read(data / source.path)
        chosen = [u for u in found if not source.weights or u.set in source.weights]
        report = manifest.check(chosen, max_duration_s=config.data.lengths[-1] * config.features.grid.hop_s)
        print(f"{source.path}: {report}")
        missing = sorted(source.weights.keys() - {u.set for u in report.usable})
        if missing or not report.usable:
            say("error", f"{source.path}: nothing usable" + (f" of the set {', '.join(missing)}" if missing else ""))
            status = 1
    return status


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package around it
        return False


def _log_to_terminal(*, quiet: bool) -> None:
    """Show what the package logs, such as reports on data, and nothing of other packages."""
    import logging

    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("absl").setLevel(logging.ERROR)
    logging.getLogger("gradalign").setLevel(logging.WARNING if quiet else logging.INFO)


def calibrate(args: argparse.Namespace) -> int:
    """Learn how a model's evidence relates to true times."""
    import tempfile

    from gradalign.bundle import CALIBRATION, folder_of
    from gradalign.io._files import check_writable

    target: Path = args.output or folder_of(args.model) / CALIBRATION
    check_writable(target, overwrite=args.overwrite)
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
        report, status = _reporters(args)
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


def synth(args: argparse.Namespace) -> int:
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


def inspect(args: argparse.Namespace) -> int:
    """Report what a model's encoder does to the order of time."""
    if args.manifest is not None and args.audio is not None:
        args.parser.error("give a recording or --manifest, not both")
    target = _page(args)
    heard = _heard(args)
    note(f"loading model {args.model}", quiet=args.quiet)
    prepare_jax()
    from gradalign import bundle as bundles
    from gradalign.inspection.health import health
    from gradalign.inspection.page import draw, table

    folder = bundles.folder_of(args.model)
    if args.save and not os.access(folder / "config.json", os.W_OK):
        raise FormatError(
            f"{folder / 'config.json'}: you may not write there; copy the model's folder and inspect that"
        )
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
    if importlib.util.find_spec("matplotlib") is None:
        raise GradalignError('plots need matplotlib, which is not installed: pip install "gradalign[plot]"')
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
            audio = _recording(args)
            text = _transcript(args, audio)
        return [(audio.name, lambda: Transcript.from_text(text).labels, reader(audio))]
    from gradalign import manifest

    found = manifest.read(args.manifest)
    usable = manifest.check(found).usable
    if not usable:
        raise FormatError(f"{args.manifest}: none of {len(found)} utterances can be used: {manifest.check(found)}")
    count = min(args.limit, len(usable))
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
    here = Path(__file__).parent
    for folder in (here / "examples", here.parent / "docs" / "examples"):
        if (folder / "example.wav").is_file() and (folder / "example.txt").is_file():
            return folder / "example.wav", (folder / "example.txt").read_text("utf-8")
    raise FormatError("the example recording is missing; give a recording and what is said in it")


def info(args: argparse.Namespace) -> int:
    """Describe a model."""
    prepare_jax()
    import jax

    from gradalign import bundle as bundles

    bundle = bundles.load(args.model)
    config, features = bundle.network.config, bundle.features
    rows = {
        "model": bundle.name,
        "folder": bundles.folder_of(args.model),
        "parameters": f"{bundle.network.n_parameters():,}",
        "encoder": f"{config.encoder_layers} Conformer blocks of width {config.dim}, {config.heads} heads",
        "decoder": f"{config.decoder_layers} Transformer layers",
        "features": f"{features.n_mels} log-mel bands of {features.sample_rate} Hz sound",
        "frames": f"{1000 * bundle.grid.hop_s:g} ms gradient, {1000 * bundle.encoder_grid.hop_s:g} ms others",
        "longest": f"{bundle.max_duration_s:g} s in one piece",
        "calibrated": bundle.calibrated_on or "no: gradalign calibrate does it",
        "leaves": ", ".join(["features", "stem", *(f"block-{k + 1}" for k in range(config.encoder_layers)), "encoder"]),
        "labels": f"{len(bundle.labels)}: {' '.join(bundle.labels)}",
        "time order": bundle.time_order or 'not inspected; see "gradalign inspect"',
        "runs on": jax.default_backend(),
    }
    for name, value in rows.items():
        print(f"{name:<11} {value}")
    print("\n" + bundle.card.strip() if bundle.card.strip() else "\nThis model has no card (card.md).")
    return 0


def _recording(args: argparse.Namespace) -> Path:
    """The recording, known to be a file before anything slow begins."""
    if os.path.isdir(args.audio):
        raise FormatError(f"{args.audio} is a directory; expected an audio file")
    if not os.path.exists(args.audio):
        raise FormatError(f"{args.audio}: no such audio file; check the path")
    return Path(args.audio)


def _transcript(args: argparse.Namespace, audio: Path) -> str:
    """The text that is meant by TEXT_OR_FILE, or by its absence."""
    from gradalign import corpus

    if args.text is None:
        beside = corpus.transcript_beside(audio)
        if beside is None:
            args.parser.error(
                f"what is said in {audio}? give the text or a text file after it, or put "
                f"{audio.with_suffix('.txt').name} beside it"
            )
            raise AssertionError("argparse has left")
        return corpus.read_transcript(beside)
    text: str = args.text
    is_path = os.path.exists(text)
    one_name = len(text.split()) == 1 or "/" in text or os.sep in text
    looks_like_path = one_name and text.lower().endswith(_PROSE)
    return corpus.read_transcript(Path(text)) if is_path or looks_like_path else text


def _format(args: argparse.Namespace, *, to_folder: bool = False) -> Format:
    """The format asked for by name or by the suffix of -o."""
    format = args.format
    if format is None and not (to_folder or args.output in (None, "-") or outputs.is_folder(args.output)):
        suffix = Path(args.output).suffix
        known: dict[str, Format] = {".textgrid": "textgrid", ".json": "json", ".ctm": "ctm"}
        if suffix.lower() not in known:
            args.parser.error(
                f"-o {args.output}: cannot tell the format from the suffix {suffix!r}; end it in .TextGrid, .json or "
                f".ctm, or give --format; for a folder end it in {os.sep}"
            )
        format = known[suffix.lower()]
    if format == "ctm" and args.tier == "both":
        args.parser.error("a CTM file holds one tier: give --tier words or --tier phones")
    return format or "textgrid"


def _target(args: argparse.Namespace, audio: Path, suffix: str) -> Path:
    return outputs.target(args.output, audio, suffix, overwrite=args.overwrite)


def _bundle(args: argparse.Namespace) -> "Bundle":
    """The model, loaded; leaf and method are checked against it."""
    note(f"loading model {args.model}", quiet=args.quiet)
    prepare_jax()
    from gradalign import calibration
    from gradalign.aligner import chosen_method
    from gradalign.bundle import load
    from gradalign.readout import leaf_depth

    try:
        with part("model"):
            bundle = load(args.model, calibrated=args.calibration is None)
            if args.calibration is not None:
                found, about = calibration.load(args.calibration)
                bundle = dataclasses.replace(bundle, calibrations=found, calibrated_on=about)
        leaf_depth(args.leaf, bundle.network.config.encoder_layers)
        chosen_method(args.method, bundle, plain=args.leaf != "features")
    except ValueError as error:
        args.parser.error(str(error))
    finally:
        note("", quiet=args.quiet)
    return bundle


def _align_one(
    args: argparse.Namespace, bundle: "Bundle", audio: Path, transcript: str, *, in_folder: bool = False
) -> "Alignment":
    from gradalign.aligner import align

    if not in_folder:
        note(f"aligning {audio.name} (the first recording of a new length takes longer)", quiet=args.quiet)
    try:
        return align(
            audio,
            transcript,
            model=bundle,
            method=args.method,
            channel=args.channel,
            leaf=args.leaf,
            keep_evidence=not in_folder,
            exact=args.exact,
        )
    finally:
        if not in_folder:
            note("", quiet=args.quiet)
