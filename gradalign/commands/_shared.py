"""What several commands do alike with their arguments."""

import argparse
import importlib.util
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from gradalign import output as outputs
from gradalign.cache import prepare_jax
from gradalign.clock import part
from gradalign.errors import FormatError, GradalignError
from gradalign.terminal import minutes, note, warnings_about

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gradalign._types import Method
    from gradalign.alignment import Alignment
    from gradalign.bundle import Bundle

_PROSE = r".*\.(txt|lab|text|md|json|ctm|textgrid|srt|vtt|eaf|csv|tsv|docx|rtf|wav|flac|mp3|ogg|opus)"
"""A TEXT that ends like this, in lower case, is meant to be a file; so is one word with a suffix or a slash."""


def require_matplotlib() -> None:
    """Raise `GradalignError` where plots cannot be drawn, before anything slow begins."""
    if importlib.util.find_spec("matplotlib") is None:
        raise GradalignError('plots need matplotlib, which is not installed: pip install "gradalign[plot]"')


def recording(args: argparse.Namespace) -> Path:
    """The recording, known to be a file before anything slow begins."""
    if os.path.isdir(args.audio):
        raise FormatError(f"{args.audio} is a directory; expected an audio file")
    if not os.path.exists(args.audio):
        raise FormatError(f"{args.audio}: no such audio file; check the path")
    return Path(args.audio)


def transcript(args: argparse.Namespace, audio: Path) -> str:
    """The text that is meant by TEXT_OR_FILE, or by its absence."""
    from gradalign import corpus
    from gradalign.io.transcript import read_transcript

    if args.text is None:
        beside = corpus.transcript_beside(audio)
        if beside is None:
            args.parser.error(
                f"what is said in {audio}? give the text or a text file after it, or put "
                f"{audio.with_suffix('.txt').name} beside it"
            )
            raise AssertionError("argparse has left")
        return read_transcript(beside)
    text: str = args.text
    is_path = os.path.exists(text)
    one_name = len(text.split()) == 1 and re.search(r"[^\d]/|/[^\d]|\\|\w\.[A-Za-z]\w{1,4}$", text)
    looks_like_path = one_name or re.fullmatch(_PROSE, text.lower())
    return read_transcript(Path(text)) if is_path or looks_like_path else text


def target(args: argparse.Namespace, audio: Path, suffix: str, *, inputs: "Iterable[str | Path]" = ()) -> Path:
    """The file to write for a recording; see `gradalign.output.target`."""
    return outputs.target(args.output, audio, suffix, overwrite=args.overwrite, inputs=(audio, *inputs))


def text_files(args: argparse.Namespace, audio: Path) -> list[str | Path]:
    """The file, if any, from which `transcript` took the text."""
    from gradalign import corpus

    found = corpus.transcript_beside(audio) if args.text is None else args.text
    return [] if found is None else [found]


def loaded(args: argparse.Namespace) -> "Bundle":
    """The model, loaded; the options of the method are checked against it."""
    note(f"loading model {args.model}", quiet=args.quiet)
    prepare_jax()
    from gradalign.aligner import chosen_method
    from gradalign.bundle import load
    from gradalign.nn.config import leaf_depth

    try:
        with part("model"):
            bundle = load(args.model, calibration=args.calibration, precision=args.precision)
        leaf_depth(args.leaf, bundle.network.config.encoder_layers)
        _check_used(args, chosen_method(args.method, bundle, plain=args.leaf != "features"), bundle)
    except ValueError as error:
        args.parser.error(str(error))
    finally:
        note("", quiet=args.quiet)
    return bundle


def _check_used(args: argparse.Namespace, method: "Method", bundle: "Bundle") -> None:
    """Leave with a message if an option would be without effect."""
    from gradalign.aligner import follows_gradients

    if args.calibration is not None and method not in bundle.calibrations:
        args.parser.error(f"--calibration goes with a calibrated method, got {method!r}; give --method or leave it out")
    if args.exact and not follows_gradients(method, bundle):
        args.parser.error(f"--exact goes with methods that follow gradients, got {method!r}; leave it out")


def align_one(
    args: argparse.Namespace, bundle: "Bundle", audio: Path, transcript: str, *, in_folder: bool = False
) -> "Alignment":
    from gradalign.aligner import align

    if not in_folder:
        note(f"aligning {audio.name} (the first recording of a new length takes longer)", quiet=args.quiet)
    try:
        with warnings_about(audio):
            return align(
                audio,
                transcript,
                model=bundle,
                method=args.method,
                channel=args.channel,
                leaf=args.leaf,
                keep_evidence=not in_folder,
                exact=args.exact,
                progress=lambda done, all_: note(f"{audio.name}: {minutes(done)} of {minutes(all_)}", quiet=args.quiet),
            )
    finally:
        if not in_folder:
            note("", quiet=args.quiet)
