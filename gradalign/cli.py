"""The command ``gradalign``: align, evaluate, plot, info. Each calls one function of the library.

Nothing heavy is imported before it is needed, so that help and wrong paths are answered at once.
"""

import argparse
import importlib.util
import logging
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from gradalign.errors import FormatError, GradalignError

if TYPE_CHECKING:
    from gradalign.alignment import Alignment, TranscriptWord
    from gradalign.bundle import Bundle
    from gradalign.corpus import Outcome
    from gradalign.metrics import Comparison

Format = Literal["textgrid", "short-textgrid", "json", "ctm"]
_SUFFIX: dict[str, str] = {"textgrid": ".TextGrid", "short-textgrid": ".TextGrid", "json": ".json", "ctm": ".ctm"}
_PROSE = (".txt", ".lab", ".text", ".md", ".json", ".ctm", ".textgrid", ".wav", ".flac", ".mp3", ".ogg", ".opus")
"""A TEXT of one word that ends like this is meant to be a file."""

_EXIT = """\
exit status: 0 all done (a word that could not be aligned is a warning), 1 something failed,
2 wrong usage, 130 interrupted"""

_ALIGN = """\
Find out when each word and phone of a transcript was said.

  gradalign align rec.wav "She had your dark suit."    writes rec.TextGrid
  gradalign align rec.wav rec.txt -o rec.json          the transcript from a file
  gradalign align rec.wav                              the transcript from rec.txt or rec.lab
  gradalign align recordings/ -o aligned/              every x.wav with its x.txt or x.lab

Outputs that are there already are kept. So a folder that was interrupted goes on where it stopped:
give the same command again. A word that cannot be pronounced, such as one of another alphabet, gets
no interval; it is named in a warning."""

_EVALUATE = """\
Measure how far alignments are from a reference.

  gradalign evaluate right.TextGrid mine.TextGrid
  gradalign evaluate reference/ aligned/ --tier phones

Folders are paired by file name without suffix, in all folders below. A recording of the reference
without a hypothesis counts with all its units missing."""

_PLOT = """\
Align one recording and draw the spectrogram, the saliency with the path through it, and the tiers.

  gradalign plot rec.wav "She had your dark suit."     writes rec.png
  gradalign plot rec.wav rec.txt -o rec.pdf

Needs matplotlib: pip install "gradalign[plot]"."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments without the program's name; by default those of the process.

    Returns:
        The exit status: 0 all done, 1 something failed, 130 interrupted. Wrong usage, help and
        version leave by SystemExit as argparse does.
    """
    args = _parser().parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when jaxlib is loaded: no notes on CPU features
    try:
        return args.run(args)
    except (GradalignError, ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError):  # the reader of our output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        _say("error", str(error))
        return 1
    except KeyboardInterrupt:
        _say("error", "interrupted; files that were written are complete")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gradalign",
        description="Forced alignment of English speech: when was each word and phone of a transcript said?",
        epilog=f"gradalign COMMAND --help says more.\n\n{_EXIT}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_align(_command(commands, "align", _align, "align recordings with their transcripts", _ALIGN))
    _add_evaluate(_command(commands, "evaluate", _evaluate, "compare alignments with a reference", _EVALUATE))
    _add_plot(_command(commands, "plot", _plot, "draw an alignment and what it was read off", _PLOT))
    info = _command(commands, "info", _info, "describe a model", "Describe a model: labels, sizes, times, its card.")
    info.add_argument("model", metavar="MODEL", nargs="?", default="en-us", help="name or folder (default: en-us)")
    return parser


class _Version(argparse.Action):
    """Prints the version, which is looked up only then."""

    def __call__(self, parser, namespace, values, option_string=None):
        from gradalign import __version__

        print(f"gradalign {__version__}")
        parser.exit(0)


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[[argparse.Namespace], int],
    summary: str,
    description: str,
) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=_EXIT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run, parser=command)
    return command


def _add_align(command: argparse.ArgumentParser) -> None:
    command.add_argument("audio", metavar="AUDIO", help="recording (WAV, FLAC, Ogg, Opus, MP3, ...) or folder of them")
    command.add_argument("text", metavar="TEXT_OR_FILE", nargs="?", help="what is said in it, or a text file with that")
    command.add_argument(
        "-o",
        "--output",
        metavar="PATH",
        help="file or folder to write to, - for standard output (default: beside the recording)",
    )
    command.add_argument(
        "--format", choices=get_args(Format), help="default: what the suffix of -o says (.TextGrid, .json, .ctm)"
    )
    command.add_argument(
        "--tier", choices=("words", "phones", "both"), help="what to write (default: both; of a CTM file: words)"
    )
    _add_method(command)
    command.add_argument("--quiet", action="store_true", help="no progress and no report, only warnings and errors")


def _add_method(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", default="en-us", help="name of a model or its folder (default: %(default)s)")
    command.add_argument(
        "--method",
        choices=("gradient", "ctc", "attention", "equal"),
        default="gradient",
        help="evidence: saliency of each label (gradient, the default), the CTC head, cross-attention, or none: "
        "labels spread evenly (equal)",
    )
    command.add_argument(
        "--leaf",
        default="features",
        metavar="LAYER",
        help="where gradients are taken: features (default), stem, block-1, block-2, ..., encoder",
    )
    command.add_argument("--channel", type=int, metavar="N", help="channel to align, from 0 (default: mean of all)")
    command.add_argument("--overwrite", action="store_true", help="replace outputs that are there already")


def _add_evaluate(command: argparse.ArgumentParser) -> None:
    command.add_argument("reference", metavar="REF", type=Path, help="file (.TextGrid, .json, .ctm) or folder of them")
    command.add_argument("hypothesis", metavar="HYP", type=Path, help="what is measured: a file or a folder likewise")
    command.add_argument("--tier", default="words", metavar="NAME", help="tier to compare (default: words)")
    command.add_argument(
        "--match",
        choices=("label", "position"),
        default="label",
        help="pair only units with equal labels (default), or substituted ones too",
    )
    command.add_argument("--json", metavar="FILE", type=Path, help="write the measures there as well, in seconds")
    command.add_argument("--overwrite", action="store_true", help="replace FILE if it is there already")


def _add_plot(command: argparse.ArgumentParser) -> None:
    command.add_argument("audio", metavar="AUDIO", help="recording")
    command.add_argument("text", metavar="TEXT_OR_FILE", nargs="?", help="what is said in it, or a text file with that")
    command.add_argument(
        "-o", "--output", metavar="PATH", help="picture: .png, .pdf or .svg (default: the recording's name with .png)"
    )
    _add_method(command)
    command.set_defaults(quiet=False)


def _align(args: argparse.Namespace) -> int:
    if os.path.isdir(args.audio):
        return _align_folder(args)
    audio = _recording(args)
    transcript = _transcript(args, audio)
    format = _format(args)
    target = None if args.output == "-" else _target(args, audio, _SUFFIX[format])
    alignment = _align_one(args, _bundle(args), audio, transcript)
    if target is None:
        print(_formatted(alignment, format, args.tier, audio.stem), end="")
    else:
        _writer(args, format)(alignment, target)
    for word in alignment.problems:
        _say("warning", f"{audio}: {_problem(word)}")
    if not (args.quiet or target is None):
        print(f"{target}: {_counts(alignment)} in {alignment.duration:.2f} s")
    return 0


def _align_folder(args: argparse.Namespace) -> int:
    from gradalign import corpus

    if args.text is not None:
        args.parser.error(f"{args.audio} is a folder: each transcript must lie beside its recording, as x.txt or x.lab")
    if args.output == "-":
        args.parser.error("a folder of recordings needs a folder to write to: -o FOLDER")
    output = Path(args.output or args.audio)
    format = _format(args, to_folder=True)
    items = corpus.find(Path(args.audio), output, _SUFFIX[format])
    _make_folder(output)
    # A run that has nothing left to do need not wait for the model.
    bundle = _bundle(args) if any(corpus.pending(item, overwrite=args.overwrite) for item in items) else None

    def align(audio: Path, text: str) -> "Alignment":
        return _align_one(args, bundle or _bundle(args), audio, text, in_folder=True)

    outcomes: list[Outcome] = []
    stopped = False
    try:
        run = corpus.run(items, align, _writer(args, format), overwrite=args.overwrite)
        outcomes.extend(_with_progress(run, len(items), quiet=args.quiet))
    except KeyboardInterrupt:
        stopped = True
    _report(outcomes, len(items), output, quiet=args.quiet)
    if stopped:
        _say("error", "interrupted; the same command goes on from here")
        return 130
    return int(any(outcome.status == "failed" for outcome in outcomes))


def _evaluate(args: argparse.Namespace) -> int:
    from gradalign.io._files import check_writable, write_text
    from gradalign.metrics import Comparison

    pairs = _pairs(args.reference, args.hypothesis)
    if args.json is not None:
        check_writable(args.json, overwrite=args.overwrite)
    comparisons, failed = [], 0
    for reference, hypothesis in pairs:
        try:
            comparisons.append(_comparison(reference, hypothesis, args))
        except GradalignError as error:
            failed += 1
            _say("error", str(error))
    if not comparisons:
        return 1
    pooled = Comparison.pooled(comparisons)
    print(pooled)
    if args.json is not None:
        import json

        measures = {"tier": args.tier, "match": args.match, **pooled.to_dict()}
        write_text(args.json, json.dumps(measures, indent=1) + "\n", overwrite=args.overwrite)
    return int(failed > 0 or any(hypothesis is None for _, hypothesis in pairs))


def _plot(args: argparse.Namespace) -> int:
    if importlib.util.find_spec("matplotlib") is None:
        raise GradalignError('plots need matplotlib, which is not installed: pip install "gradalign[plot]"')
    audio = _recording(args)
    transcript = _transcript(args, audio)
    target = _target(args, audio, ".png")
    if target.suffix.lower() not in (".png", ".pdf", ".svg"):
        args.parser.error(f"{target}: cannot draw a {target.suffix or 'file without suffix'}; use .png, .pdf or .svg")
    alignment = _align_one(args, _bundle(args), audio, transcript)
    alignment.plot(path=target)
    for word in alignment.problems:
        _say("warning", f"{audio}: {_problem(word)}")
    print(f"{target}: {_counts(alignment)} in {alignment.duration:.2f} s")
    return 0


def _info(args: argparse.Namespace) -> int:
    _prepare_jax()
    import jax

    from gradalign import bundle as bundles

    bundle = bundles.load(args.model)
    config, features = bundle.network.config, bundle.features
    size = sum(int(values.size) for values in bundles.flat_params(bundle.network).values())
    rows = {
        "model": bundle.name,
        "folder": bundles.folder_of(args.model),
        "parameters": f"{size:,}",
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
    looks_like_path = len(text.split()) == 1 and text.lower().endswith(_PROSE)
    return corpus.read_transcript(Path(text)) if is_path or looks_like_path else text


def _format(args: argparse.Namespace, *, to_folder: bool = False) -> str:
    """The format asked for by name or by the suffix of -o."""
    format = args.format
    if format is None and not (to_folder or args.output in (None, "-") or _is_folder(args.output)):
        suffix = Path(args.output).suffix
        known = {".textgrid": "textgrid", ".json": "json", ".ctm": "ctm"}
        if suffix.lower() not in known:
            args.parser.error(
                f"-o {args.output}: cannot tell the format from the suffix {suffix!r}; end it in .TextGrid, .json or "
                f".ctm, or give --format; for a folder end it in {os.sep}"
            )
        format = known[suffix.lower()]
    if format == "ctm" and args.tier == "both":
        args.parser.error("a CTM file holds one tier: give --tier words or --tier phones")
    return format or "textgrid"


def _is_folder(path: str) -> bool:
    return os.path.isdir(path) or path.endswith(("/", os.sep))


def _target(args: argparse.Namespace, audio: Path, suffix: str) -> Path:
    """Where the output goes, known to be free and writable before anything slow begins."""
    from gradalign.io._files import check_writable

    if args.output is None:
        target = audio.with_suffix(suffix)
    elif _is_folder(args.output):
        _make_folder(Path(args.output))
        target = Path(args.output) / audio.with_suffix(suffix).name
    else:
        target = Path(args.output)
    if target.exists() and not target.is_dir() and not args.overwrite:
        raise FormatError(f"{target}: exists already and was kept; pass --overwrite to replace it")
    check_writable(target, overwrite=args.overwrite)
    _check_access(target.parent)
    return target


def _make_folder(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise FormatError(f"{path}: is a file, expected a folder to write to")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FormatError(f"{path}: cannot be made ({error}); choose another folder to write to") from error
    _check_access(path)


def _check_access(folder: Path) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        raise FormatError(f"{folder}: you may not write there; choose another place with -o")


def _writer(args: argparse.Namespace, format: str) -> "Callable[[Alignment, Path], None]":
    def write(alignment: "Alignment", path: Path) -> None:
        from gradalign import io

        tiers = None if args.tier in (None, "both") else (args.tier,)
        io.write(alignment, path, format=format, overwrite=args.overwrite, tiers=tiers)  # type: ignore[arg-type]

    return write


def _formatted(alignment: "Alignment", format: str, tier: str | None, name: str) -> str:
    from gradalign.io import ctm, json, textgrid

    if format == "ctm":
        return ctm.format(alignment, utterance=name, tier=tier or "words")
    if tier not in (None, "both"):
        alignment = replace(alignment, tiers=(alignment.tier(tier),))
    return json.format(alignment) if format == "json" else textgrid.format(alignment, long=format == "textgrid")


def _bundle(args: argparse.Namespace) -> "Bundle":
    """The model, loaded; the leaf is checked against it."""
    _note(f"loading model {args.model}", quiet=args.quiet)
    _prepare_jax()
    from gradalign.aligner import leaf_depth
    from gradalign.bundle import load

    try:
        bundle = load(args.model)
        leaf_depth(args.leaf, bundle.network.config.encoder_layers)
    except ValueError as error:
        args.parser.error(str(error))
    finally:
        _note("", quiet=args.quiet)
    return bundle


def _align_one(
    args: argparse.Namespace, bundle: "Bundle", audio: Path, transcript: str, *, in_folder: bool = False
) -> "Alignment":
    from gradalign.aligner import align

    if not in_folder:
        _note(f"aligning {audio.name} (the first recording of a new length takes longer)", quiet=args.quiet)
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
            _note("", quiet=args.quiet)


def _pairs(reference: Path, hypothesis: Path) -> list[tuple[Path, Path | None]]:
    """Each file of the reference with its hypothesis; None where there is none."""
    if reference.is_dir() != hypothesis.is_dir() and reference.exists() and hypothesis.exists():
        raise FormatError(f"{reference} and {hypothesis}: one is a file, the other a folder; give two of a kind")
    for path in (reference, hypothesis):
        if not path.exists():
            raise FormatError(f"{path}: no such file or folder; check the path")
    if not reference.is_dir():
        return [(reference, hypothesis)]
    references, hypotheses = _alignments_in(reference), _alignments_in(hypothesis)
    if not references.keys() & hypotheses.keys():
        raise FormatError(
            f"{reference} and {hypothesis}: no two alignments have the same name without suffix "
            f"({len(references)} and {len(hypotheses)} files)"
        )
    for name in sorted(references.keys() - hypotheses.keys()):
        _say(
            "warning", f"{references[name]}: no hypothesis of that name in {hypothesis}; all its units count as missing"
        )
    if extra := hypotheses.keys() - references.keys():
        _say("warning", f"{len(extra)} hypotheses have no reference and are left out, such as {hypotheses[min(extra)]}")
    return [(references[name], hypotheses.get(name)) for name in sorted(references)]


def _alignments_in(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in (".textgrid", ".json", ".ctm") or not path.is_file():
            continue
        name = str(path.relative_to(folder).with_suffix(""))
        if name in found:
            raise FormatError(f"{path} and {found[name]} are alignments of the same name; keep one of them")
        found[name] = path
    return found


def _comparison(reference: Path, hypothesis: Path | None, args: argparse.Namespace) -> "Comparison":
    from gradalign import io
    from gradalign.alignment import Alignment, Tier
    from gradalign.metrics import compare

    right = _with_tier(io.read(reference), args.tier, reference)
    if hypothesis is None:
        found = Alignment(right.duration, (Tier(args.tier, ()),))
    else:
        found = _with_tier(io.read(hypothesis), args.tier, hypothesis)
    return compare(right, found, tier=args.tier, match=args.match)


def _with_tier(alignment: "Alignment", tier: str, path: Path) -> "Alignment":
    names = [t.name for t in alignment.tiers]
    if tier not in names:
        raise FormatError(f"{path}: has no tier {tier!r}; it has {', '.join(names) or 'none'}: choose with --tier")
    return alignment


def _with_progress(run: "Iterator[Outcome]", total: int, *, quiet: bool) -> "Iterator[Outcome]":
    """The same outcomes, with a line on standard error: kept up to date on a terminal, else now and then."""
    began = last = time.monotonic()
    on_terminal = sys.stderr.isatty()
    _note(f"0/{total} recordings", quiet=quiet)
    for number, outcome in enumerate(run, start=1):
        now = time.monotonic()
        left = (now - began) / number * (total - number)
        line = f"{number}/{total} recordings, about {_minutes(left)} left ({outcome.item.name})"
        _note(line, quiet=quiet)
        if not (quiet or on_terminal) and now - last > 10:
            last = now
            print(f"gradalign: {line}", file=sys.stderr, flush=True)
        yield outcome
    _note("", quiet=quiet)


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _report(outcomes: "Sequence[Outcome]", total: int, output: Path, *, quiet: bool) -> None:
    """The table of results; in a quiet run only what went wrong."""
    if quiet:
        for outcome in outcomes:
            if outcome.status == "failed":
                _say("error", f"{outcome.item.name}: {outcome.message}")
            for word in outcome.alignment.problems if outcome.alignment else ():
                _say("warning", f"{outcome.item.name}: {_problem(word)}")
        return
    width = max((len(outcome.item.name) for outcome in outcomes), default=0)
    for outcome in outcomes:
        print(f"{outcome.item.name:<{width}}  {outcome.status:<7}  {_details(outcome)}".rstrip())
    counts = {status: sum(o.status == status for o in outcomes) for status in ("aligned", "kept", "failed")}
    print(
        f"{total} recordings: " + ", ".join(f"{n} {status}" for status, n in counts.items()) + f"; output in {output}"
    )


def _details(outcome: "Outcome") -> str:
    if outcome.alignment is None:
        return outcome.message or "exists already; --overwrite replaces it"
    return "; ".join([_counts(outcome.alignment), *map(_problem, outcome.alignment.problems)])


def _counts(alignment: "Alignment") -> str:
    return ", ".join(f"{len(tier)} {tier.name}" for tier in alignment.tiers)


def _problem(word: "TranscriptWord") -> str:
    why = {"unpronounceable": "no pronunciation is known"}.get(word.status, "no place was found")
    return f"{word.text!r} at characters {word.start_char}-{word.end_char} was not aligned: {why}"


def _say(kind: str, message: str) -> None:
    """One line on standard error."""
    _note("", quiet=False)
    print(f"gradalign: {kind}: {' '.join(message.split())}", file=sys.stderr)


def _note(text: str, *, quiet: bool) -> None:
    """Replace the progress line of a terminal; elsewhere nothing."""
    if sys.stderr.isatty() and not quiet:
        columns = shutil.get_terminal_size().columns - 1
        print(f"\r\x1b[K{text[:columns]}", end="", file=sys.stderr, flush=True)


def _prepare_jax() -> None:
    """Import JAX without noise, and let it keep compiled programs between runs."""
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.ERROR)
    import jax

    folder = _cache_folder()
    if folder is None or jax.config.values.get("jax_compilation_cache_dir") is not None:
        return
    warnings.filterwarnings("ignore", message=".*persistent compilation cache")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _cache_folder() -> Path | None:
    """Where compiled programs are kept; None where that cannot be, or GRADALIGN_CACHE is empty."""
    asked = os.environ.get("GRADALIGN_CACHE")
    if asked == "":
        return None
    if asked is not None:
        root = Path(asked)
    elif sys.platform == "win32":
        root = Path(os.environ.get("LOCALAPPDATA") or "~/AppData/Local").expanduser() / "gradalign"
    elif sys.platform == "darwin":
        root = Path("~/Library/Caches/gradalign").expanduser()
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "gradalign"
    try:
        (root / "jax").mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return None
    return root / "jax" if os.access(root / "jax", os.W_OK) else None
