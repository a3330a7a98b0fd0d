"""``gradalign recognise``."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from gradalign import output as outputs
from gradalign.cache import prepare_jax
from gradalign.commands import _shared
from gradalign.errors import FormatError, GradalignError
from gradalign.terminal import note, say

if TYPE_CHECKING:
    from gradalign.bundle import Bundle
    from gradalign.recognition import Recognition


def run(args: argparse.Namespace) -> int:
    """Print what the model hears in recordings."""
    recordings = _recordings(args.audio)
    _check_options(args)
    text = None if args.words is None else _word_file(args.words)
    target = (
        None
        if args.output is None
        else _shared.target(
            args, recordings[0], ".txt", inputs=[*recordings, *([] if args.words is None else [args.words])]
        )
    )
    note(f"loading model {args.model}", quiet=args.quiet)
    prepare_jax()
    from gradalign.bundle import load
    from gradalign.recognition import word_list

    try:
        bundle, vocabulary = load(args.model, calibrated=False), None if text is None else word_list(text)
    finally:
        note("", quiet=args.quiet)
    all_found: list[tuple[Path, Recognition]] = []
    for number, audio in enumerate(recordings, start=1):
        progress_of = f"{number}/{len(recordings)}: " * (len(recordings) > 1)
        note(f"{progress_of}recognising {audio.name} (a new length takes longer)", quiet=args.quiet)
        try:
            found = _recognise_one(args, bundle, audio, vocabulary)
        except GradalignError as error:
            message = str(error)
            say("error", message if str(audio) in message else f"{audio}: {message}")
            continue
        finally:
            note("", quiet=args.quiet)
        if args.surest is None:
            _tell(_recognised(args, bundle, audio, found), target, first=not all_found, overwrite=args.overwrite)
        all_found.append((audio, found))
    if target is not None and args.surest is not None:
        _write_surest(all_found, args.surest, target, overwrite=args.overwrite)
    return int(len(all_found) < len(recordings))


def _check_options(args: argparse.Namespace) -> None:
    """Leave with a message if options do not go together."""
    if args.word_penalty is not None and args.words is None:
        args.parser.error("--word-penalty goes with --words WORDLIST")
    if args.output is not None and outputs.is_folder(args.output):
        args.parser.error(f"-o {args.output}: is a folder; expected one file for all recordings")
    other = args.json or args.words is not None or args.n_best > 1 or args.channel is not None
    if args.surest is not None and (args.output is None or Path(args.output).suffix != ".jsonl" or other):
        args.parser.error(
            "--surest writes a manifest of phones: it goes with -o FILE.jsonl, without --json, --words, --n-best and "
            "--channel"
        )


def _tell(lines: str, target: Path | None, *, first: bool, overwrite: bool) -> None:
    """Print what was heard in a recording, or put it at the end of the file: a run that is killed keeps the others."""
    if target is None:
        print(lines, flush=True)
        return
    mode = "a" if not first else "w" if overwrite else "x"
    # As on a terminal, a file name that is no Unicode must not stop the run.
    with target.open(mode, encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        file.write(f"{lines}\n")


def _write_surest(found: "list[tuple[Path, Recognition]]", share: float, target: Path, *, overwrite: bool) -> None:
    """A manifest of the recordings in which the model is surest of what it hears, by log-probability a phone."""
    from gradalign.manifest import Utterance, write

    heard = [(audio, one) for audio, one in found if one.labels]
    heard.sort(key=lambda pair: pair[1].log_prob / len(pair[1].labels), reverse=True)
    kept = sorted(heard[: round(share * len(heard))], key=lambda pair: str(pair[0]))
    if not kept:
        raise GradalignError(
            f"nothing to write to {target}: phones were heard in {len(heard)} recordings, of which a share of "
            f"{share:g} is none; give more recordings or a larger --surest"
        )
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
    from gradalign.audio import AUDIO_SUFFIXES
    from gradalign.io._files import read_text

    if not path.exists():
        raise FormatError(f"{path}: no such word list; expected a text file, one word a line")
    if path.is_dir() or path.suffix.lower() in (*AUDIO_SUFFIXES, ".textgrid", ".json", ".ctm"):
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
