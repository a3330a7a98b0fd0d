"""What each command does: one function a command, from the parsed arguments to the exit status.

Nothing heavy is imported before it is needed, so that help and wrong paths are answered at once.
"""

import argparse
import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gradalign import output as outputs
from gradalign.cache import prepare_jax
from gradalign.errors import FormatError, GradalignError
from gradalign.output import Format
from gradalign.terminal import note, progress, report_all, report_one, say

if TYPE_CHECKING:
    from gradalign.alignment import Alignment
    from gradalign.bundle import Bundle
    from gradalign.corpus import Outcome
    from gradalign.evaluation import FilePair
    from gradalign.metrics import Comparison

_PROSE = (".txt", ".lab", ".text", ".md", ".json", ".ctm", ".textgrid", ".wav", ".flac", ".mp3", ".ogg", ".opus")
"""A TEXT of one word, or with a slash, that ends like this is meant to be a file."""


def align(args: argparse.Namespace) -> int:
    """Align one recording, or all of a folder."""
    if os.path.isdir(args.audio):
        return _align_folder(args)
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
        "leaves": ", ".join(["features", "stem", *(f"block-{k + 1}" for k in range(config.encoder_layers)), "encoder"]),
        "labels": f"{len(bundle.labels)}: {' '.join(bundle.labels)}",
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
    """The model, loaded; the leaf is checked against it."""
    note(f"loading model {args.model}", quiet=args.quiet)
    prepare_jax()
    from gradalign.aligner import leaf_depth
    from gradalign.bundle import load

    try:
        bundle = load(args.model)
        leaf_depth(args.leaf, bundle.network.config.encoder_layers)
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
        )
    finally:
        if not in_folder:
            note("", quiet=args.quiet)
