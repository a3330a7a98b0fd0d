"""The command ``gradalign``: its arguments, and its exit status. What is done lies in `gradalign.commands`.

Nothing heavy is imported before it is needed, so that help and wrong paths are answered at once.
"""

import argparse
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from gradalign import commands
from gradalign._types import Method
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

_INFO = "Describe a model: labels, sizes, times, its card."


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments without the program's name; by default those of the process.

    Returns:
        The exit status: 0 all done, 1 something failed, 130 interrupted. Wrong usage, help and
        version leave by SystemExit as argparse does.
    """
    args = _parser().parse_args(argv)
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
        say("error", "interrupted; files that were written are complete")
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
    _add_align(_command(group, "align", commands.align, "align recordings with their transcripts", _ALIGN))
    _add_evaluate(_command(group, "evaluate", commands.evaluate, "compare alignments with a reference", _EVALUATE))
    _add_plot(_command(group, "plot", commands.plot, "draw an alignment and what it was read off", _PLOT))
    _add_info(_command(group, "info", commands.info, "describe a model", _INFO))
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


def _add_method(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", default="en-us", help="name of a model or its folder (default: %(default)s)")
    command.add_argument(
        "--method",
        choices=get_args(Method),
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


def _add_info(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", nargs="?", default="en-us", help="name or folder (default: en-us)")
