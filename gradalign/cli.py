"""The command ``gradalign``: its arguments, and its exit status. What is done lies in `gradalign.commands`.

Nothing heavy is imported before it is needed, so that help and wrong paths are answered at once.
"""

import argparse
import io
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from gradalign._types import LoadedPrecision, Method
from gradalign.commands import align, calibrate, evaluate, info, inspect, plot, recognise, synth, train
from gradalign.errors import GradalignError
from gradalign.output import Format
from gradalign.terminal import say

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

_RECOGNISE = """\
Print the phones that the model hears in recordings, or the words of a list.

  gradalign recognise rec.wav                          the phones
  gradalign recognise rec.wav --words words.txt        the words, of those in words.txt
  gradalign recognise *.wav --n-best 3                 the three best of each, with their scores
  gradalign recognise *.wav --json -o heard.json       all that is known, one line a recording
  gradalign recognise *.wav --surest 0.9 -o more.jsonl a manifest to train on, of what it is surest of

The word list is a text file, one word a line or any English text: any word of it may be heard any
number of times, in any order. Phones are CMUdict's, without stress."""

_TRAIN = """\
Train a model as a TOML file says, on all devices of this machine.

  gradalign train run.toml -o run/                     paths in it are relative to its folder
  gradalign train run.toml -o run/ --resume            go on after a crash or Ctrl-C, as if nothing happened
  gradalign train run.toml -o test/ --set steps=50 --set optimizer.peak=1e-3
  gradalign train run.toml --check                     only read and check the data
  gradalign train en-us --data FOLDER -o run/          the recipe of a model that comes with gradalign

Ctrl-C ends the run after the current update, with a checkpoint. The models are in run/models: last,
best (on speech kept aside) and step-N; use one with --model run/models/last.

Needs grain and orbax: pip install "gradalign[train]"."""

_CALIBRATE = """\
Learn how a model's evidence relates to true times: how gradients, attention and CTC posteriors are to
be filtered and weighed, what silence looks like, and how sure a word may be.

  gradalign calibrate run/models/last                  on synthetic speech, whose times are exact
  gradalign calibrate en-us --data mine/ -o mine.json  on a dozen recordings with TextGrids, of words at least
  gradalign calibrate MODEL --besides own.jsonl        on both: times may be the model's own
  gradalign align rec.wav "what was said" --calibration mine.json

Writes calibration.json into the model's folder, where align finds it. Takes long on synthetic
speech, longer with recordings besides, and minutes on a dozen recordings, from which it learns in what
they differ from what the model has learnt before."""

_SYNTH = """\
Make timed speech from text with the speech synthesisers of this machine.

  gradalign synth -o speech/                           the sentences that come with gradalign, two voices each
  gradalign synth -o speech/ --texts book.txt --hours 2 --augment all
  gradalign synth -o speech/ --voices flite-slt "espeak-en-us*" --each --textgrid
  gradalign synth --list-voices                        all voices, and the packages that bring them

Writes manifest.jsonl, with the times of words and phones, and audio/*.flac. A run that was stopped goes
on with the same command, or with more --hours. The same command gives the same files."""

_INSPECT = """\
Find out whether a model's encoder keeps the order of time, and if not, which block turns it around.

  gradalign inspect en-us                              on the recording that comes with gradalign
  gradalign inspect run/models/last rec.wav rec.txt -o report.png
  gradalign inspect MODEL --manifest dev.jsonl --limit 20 --json
  gradalign inspect MODEL rec.wav "The words." --save  note the verdict in the model's config.json

Attention encoder-decoders may reverse time inside: then cross-attention, posteriors and gradients at deep
layers point at the wrong frames, and only gradients at the input can be aligned with. No reference times
are needed, but a transcript that is right. The last line is the verdict: "encoder keeps time order",
"encoder reverses time in block K", or "mixed" with the reason. After --save the aligner refuses what a
reversed encoder would spoil."""

_INFO = "Describe a model: labels, sizes, times, its card."


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments without the program's name; by default those of the process.

    Returns:
        The exit status: 0 all done, 1 something failed, 130 interrupted. Wrong usage, help and
        version leave by SystemExit as argparse does.
    """
    args, unknown = _parser().parse_known_args(argv)
    if unknown:
        args.parser.error(
            f"unrecognized arguments: {' '.join(unknown)}; see {args.parser.prog} --help (what begins with - and is no "
            "option goes after --)"
        )
    for stream in (sys.stdout, sys.stderr):  # a word in another alphabet must not stop a run on a narrow terminal
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when jaxlib is loaded: no notes on CPU features
    try:
        return args.run(args)
    except (GradalignError, ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError):  # the reader of our output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        say("error", str(error))
        return 1
    except KeyboardInterrupt:
        say("error", "interrupted; what was written is complete")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gradalign",
        description="Forced alignment of English speech: when was each word and phone of a transcript said?",
        epilog=f"gradalign COMMAND --help says more.\n\n{_EXIT}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    group = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_align(_command(group, "align", align.run, "align recordings with their transcripts", _ALIGN))
    _add_evaluate(_command(group, "evaluate", evaluate.run, "compare alignments with a reference", _EVALUATE))
    _add_plot(_command(group, "plot", plot.run, "draw an alignment and what it was read off", _PLOT))
    _add_recognise(_command(group, "recognise", recognise.run, "print what the model hears", _RECOGNISE))
    _add_train(_command(group, "train", train.run, "train a model", _TRAIN))
    _add_calibrate(_command(group, "calibrate", calibrate.run, "learn when to trust what", _CALIBRATE))
    _add_synth(_command(group, "synth", synth.run, "make timed speech from text", _SYNTH))
    _add_inspect(_command(group, "inspect", inspect.run, "find out whether a model reverses time", _INSPECT))
    _add_info(_command(group, "info", info.run, "describe a model", _INFO))
    return parser


class _Version(argparse.Action):
    """Prints the version, which is looked up only then."""

    def __call__(self, parser, namespace, values, option_string=None):
        from gradalign import __version__

        print(f"gradalign {__version__}")
        parser.exit(0)


def _command(
    group: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[[argparse.Namespace], int],
    summary: str,
    description: str,
) -> argparse.ArgumentParser:
    command = group.add_parser(
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
    command.add_argument(
        "--jobs",
        metavar="N",
        type=_COUNT,
        help="recordings of a folder at a time: one is read and written while another is computed (default: 2; with "
        "--profile 1)",
    )
    command.add_argument("--profile", action="store_true", help="say at the end where the time went")


def _add_method(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", default="en-us", help="name of a model or its folder (default: %(default)s)")
    command.add_argument(
        "--method",
        choices=get_args(Method),
        help="evidence: all of it or one kind, weighed as the model has learnt to (calibrated...), or as it is: "
        "saliency of each label (gradient), cross-attention, the CTC head, or none: labels spread evenly (equal); "
        "default: calibrated, or gradient where the model is not",
    )
    command.add_argument(
        "--calibration", metavar="FILE", type=Path, help="of gradalign calibrate, in place of the model's own"
    )
    command.add_argument(
        "--leaf",
        default="features",
        metavar="LAYER",
        help="where gradients are taken: features (default), stem, block-1, block-2, ..., encoder",
    )
    command.add_argument(
        "--exact",
        action="store_true",
        help="follow each label's gradient through the whole recording, not a window only: slower",
    )
    command.add_argument(
        "--precision",
        choices=get_args(LoadedPrecision),
        help="what the network computes in: float32; mixed, where gradients in windows are multiplied in bfloat16 "
        "(default on CPUs with AMX, which are faster with it); or bfloat16, for devices that are faster with that",
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


def _add_recognise(command: argparse.ArgumentParser) -> None:
    command.add_argument("audio", metavar="AUDIO", nargs="+", help="recordings (WAV, FLAC, Ogg, Opus, MP3, ...)")
    command.add_argument("--words", metavar="WORDLIST", type=Path, help="hear words of this text file, not phones")
    command.add_argument(
        "--beam", metavar="N", type=_COUNT, default=4, help="hypotheses kept; more takes longer (default: %(default)s)"
    )
    command.add_argument(
        "--ctc-weight",
        metavar="W",
        type=_number("a number from 0 to 1", 0.0, 1.0),
        default=0.3,
        help="share of the CTC head in the score, from 0 to 1; the rest is the decoder's (default: %(default)s)",
    )
    command.add_argument(
        "--word-penalty",
        metavar="X",
        type=_number("a number", -1e9, 1e9),
        help="subtracted for each word; more gives fewer and longer words (default: log of the number of words / 2)",
    )
    command.add_argument(
        "--n-best", metavar="N", type=_COUNT, default=1, help="print this many hypotheses at most (default: 1)"
    )
    command.add_argument("--json", action="store_true", help="print JSON, one object a recording, each on a line")
    command.add_argument(
        "--surest",
        metavar="SHARE",
        type=_number("a number from 0 to 1", 0.0, 1.0),
        help="write a manifest to train on, with the phones heard in this share of the recordings, the surest ones; "
        "needs -o FILE.jsonl",
    )
    command.add_argument("-o", "--output", metavar="FILE", help="write there (default: standard output)")
    command.add_argument("--model", default="en-us", help="name of a model or its folder (default: %(default)s)")
    command.add_argument("--channel", type=int, metavar="N", help="channel to hear, from 0 (default: mean of all)")
    command.add_argument("--overwrite", action="store_true", help="replace FILE if it is there already")
    command.add_argument("--quiet", action="store_true", help="no progress, only warnings and errors")


def _number(expected: str, low: float, high: float = math.inf, *, whole: bool = False) -> Callable[[str], int | float]:
    """What reads an option whose value lies from ``low`` to ``high``."""

    def read(text: str) -> int | float:
        try:
            number = int(text) if whole else float(text)
        except ValueError:
            number = math.nan
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"expected {expected}; got {text!r}")
        return number

    return read


_COUNT = _number("a whole number, at least 1", 1.0, whole=True)


def _add_train(command: argparse.ArgumentParser) -> None:
    command.add_argument("config", metavar="CONFIG", help="TOML file, or a model with a recipe (train.toml)")
    command.add_argument("-o", "--output", metavar="FOLDER", type=Path, help="checkpoints, metrics and models")
    command.add_argument(
        "--data", metavar="FOLDER", type=Path, help="what paths of the config are relative to (default: its folder)"
    )
    command.add_argument(
        "--cache", metavar="FOLDER", type=Path, help="features, to be shared by runs (default: features in the output)"
    )
    command.add_argument("--resume", action="store_true", help="go on from the last checkpoint, if there is one")
    command.add_argument(
        "--init",
        metavar="MODEL",
        action="append",
        default=[],
        help="begin with the parameters of this model; given more than once, with the mean of several",
    )
    command.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="change an option, such as optimizer.peak=1e-3"
    )
    command.add_argument("--check", action="store_true", help="read and check the config and the data, then stop")
    command.add_argument("--quiet", action="store_true", help="no progress, only warnings and errors")


def _add_synth(command: argparse.ArgumentParser) -> None:
    command.add_argument("-o", "--output", metavar="FOLDER", type=Path, help="manifest.jsonl and the recordings")
    command.add_argument(
        "--texts",
        metavar="FILE",
        type=Path,
        nargs="+",
        help="text files, one sentence a line or prose, or manifests (.jsonl); default: sentences of gradalign's own",
    )
    command.add_argument("--sets", metavar="NAME", nargs="+", default=[], help="take only these sets of the manifests")
    command.add_argument(
        "--voices", metavar="VOICE", nargs="+", help='names or patterns such as "espeak-en-us*" (default: four voices)'
    )
    length = command.add_mutually_exclusive_group()
    length.add_argument(
        "--hours",
        metavar="H",
        type=_number("a number of hours above 0, up to 10000", 1e-9, 1e4),
        help="stop when this much is full, and read texts again until then",
    )
    length.add_argument("--each", action="store_true", help="every voice reads every text (default: two of them do)")
    seed = _number("a whole number, at least 0", 0.0, whole=True)
    command.add_argument("--seed", metavar="N", type=seed, default=0, help="of every choice (default: %(default)s)")
    command.add_argument(
        "--augment",
        metavar="NAME[=LOW:HIGH]",
        nargs="+",
        default=[],
        help="do these to half of the recordings each: all, speed, pitch, room, noise, band, codec",
    )
    command.add_argument("--textgrid", action="store_true", help="write textgrid/*.TextGrid as well")
    command.add_argument("--list-voices", action="store_true", help="list all voices, then stop")
    command.add_argument("--overwrite", action="store_true", help="replace a corpus made with other options")
    command.add_argument("--quiet", action="store_true", help="no progress and no report, only warnings and errors")


def _add_calibrate(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", help="name of a model or its folder")
    command.add_argument(
        "--data",
        metavar="CORPUS",
        type=Path,
        nargs="+",
        help="speech with times of words, and perhaps of phones: a manifest, or a folder of recordings with TextGrids "
        "(default: synthetic speech, made now)",
    )
    command.add_argument(
        "--afresh",
        action="store_true",
        help="with --data: learn weights from these alone, without beginning with those that the model has",
    )
    command.add_argument(
        "--besides",
        metavar="CORPUS",
        type=Path,
        nargs="+",
        help="recordings with times to learn weights from beside the synthetic speech, all of them; their times may be "
        "the model's own (benchmarks/own_times.py): confidence and the classifier are learnt without them",
    )
    command.add_argument(
        "--within",
        metavar="S",
        type=_number("seconds from 0 to 1", 0.0, 1.0),
        default=0.0,
        help="seconds by which each boundary of these recordings may be wrong, such as 0.04 (default: 0, their times "
        "are taken as exact)",
    )
    command.add_argument(
        "--voices", metavar="VOICE", nargs="+", help="of the synthetic speech: names or patterns, see gradalign synth"
    )
    command.add_argument(
        "--utterances", metavar="N", type=_COUNT, default=192, help="how many to learn from (default: %(default)s)"
    )
    command.add_argument(
        "--frame-utterances",
        metavar="N",
        type=_number("a whole number, at least 0", 0.0, whole=True),
        default=800,
        help="how many others to learn the classifier of frames from; with fewer than 100 the model keeps the one "
        "it has, if any (default: %(default)s)",
    )
    command.add_argument(
        "--steps", metavar="N", type=_COUNT, default=50, help="iterations for each method (default: %(default)s)"
    )
    seed = _number("a whole number, at least 0", 0.0, whole=True)
    command.add_argument("--seed", metavar="N", type=seed, default=0, help="of every choice (default: %(default)s)")
    command.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        help="write there (default: calibration.json in the model's folder)",
    )
    command.add_argument("--overwrite", action="store_true", help="replace a calibration that is there already")
    command.add_argument("--quiet", action="store_true", help="no progress, only warnings and errors")


def _add_inspect(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", help="name of a model or its folder")
    command.add_argument("audio", metavar="AUDIO", nargs="?", help="recording (default: one that comes with gradalign)")
    command.add_argument("text", metavar="TEXT_OR_FILE", nargs="?", help="what is said in it, or a text file with that")
    command.add_argument(
        "--manifest", metavar="FILE", type=Path, help="recordings of a manifest or corpus folder, in place of AUDIO"
    )
    command.add_argument("--limit", metavar="N", type=_COUNT, help="take so many of them, evenly spread (default: 10)")
    command.add_argument("-o", "--output", metavar="FILE", help="draw a page there: .png, .pdf or .svg")
    command.add_argument("--json", action="store_true", help="print one JSON object with all measures")
    command.add_argument("--save", action="store_true", help="note the verdict in the model's config.json")
    command.add_argument("--channel", type=int, metavar="N", help="channel to hear, from 0 (default: mean of all)")
    command.add_argument("--overwrite", action="store_true", help="replace FILE if it is there already")
    command.add_argument("--quiet", action="store_true", help="no progress, only warnings and errors")


def _add_info(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", nargs="?", default="en-us", help="name or folder (default: en-us)")
