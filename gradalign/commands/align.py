"""``gradalign align``."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gradalign import output as outputs
from gradalign.cache import prepare_jax
from gradalign.commands import _shared
from gradalign.output import Format
from gradalign.terminal import progress, report_all, report_one, say

if TYPE_CHECKING:
    from gradalign.alignment import Alignment
    from gradalign.clock import Clock
    from gradalign.corpus import Outcome


_FORMATS: dict[str, Format] = {".textgrid": "textgrid", ".json": "json", ".ctm": "ctm"}
"""What the suffix of -o stands for, in lower case."""


def run(args: argparse.Namespace) -> int:
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
    if args.jobs is not None:
        args.parser.error("--jobs goes with a folder of recordings; leave it out")
    audio = _shared.recording(args)
    transcript = _shared.transcript(args, audio)
    format = _format(args)
    target = (
        None
        if args.output == "-"
        else _shared.target(args, audio, outputs.SUFFIX[format], inputs=_shared.text_files(args, audio))
    )
    alignment = _shared.align_one(args, _shared.loaded(args), audio, transcript)
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
    from gradalign.bundle import folder_of

    if args.text is not None:
        args.parser.error(f"{args.audio} is a folder: each transcript must lie beside its recording, as x.txt or x.lab")
    if args.output == "-":
        args.parser.error("a folder of recordings needs a folder to write to: -o FOLDER")
    output = Path(args.output or args.audio)
    format = _format(args, to_folder=True)
    if output.suffix.lower() in _FORMATS and not output.is_dir():
        args.parser.error(
            f"-o {args.output}: a folder of recordings needs a folder to write to, which is named like a file; give "
            f"--format {_FORMATS[output.suffix.lower()]} -o FOLDER"
        )
    items = corpus.find(Path(args.audio), output, outputs.SUFFIX[format])
    if alone := corpus.without_recording(Path(args.audio), items):
        shown = ", ".join(alone[:5]) + f" and {len(alone) - 5} more" * (len(alone) > 5)
        say("warning", f"no recording that can be read (.wav, .flac, .mp3, ...) lies beside {shown}")
    outputs.make_folder(output)
    # A run that has nothing left to do need not wait for the model, but a mistyped one is still an error.
    folder_of(args.model)
    bundle = _shared.loaded(args) if any(corpus.pending(item, overwrite=args.overwrite) for item in items) else None

    def align_item(audio: Path, text: str) -> "Alignment":
        return _shared.align_one(args, bundle or _shared.loaded(args), audio, text, in_folder=True)

    outcomes: list[Outcome] = []
    stopped = False
    try:
        write = outputs.writer(format, args.tier, overwrite=args.overwrite)
        # A profile divides the time of one recording after the other.
        jobs = 1 if args.profile else args.jobs or 2
        run = corpus.run(corpus.by_size(items), align_item, write, overwrite=args.overwrite, jobs=jobs)
        outcomes.extend(progress(run, len(items), quiet=args.quiet))
    except KeyboardInterrupt:
        stopped = True
    outcomes.sort(key=lambda outcome: outcome.item.name)
    report_all(outcomes, len(items), output, quiet=args.quiet)
    if stopped:
        say("error", "interrupted; the same command goes on from here")
        return 130
    return int(any(outcome.status == "failed" for outcome in outcomes))


def _format(args: argparse.Namespace, *, to_folder: bool = False) -> Format:
    """The format asked for by name or by the suffix of -o."""
    format = args.format
    if format is None and not (to_folder or args.output in (None, "-") or outputs.is_folder(args.output)):
        suffix = Path(args.output).suffix
        if suffix.lower() not in _FORMATS:
            args.parser.error(
                f"-o {args.output}: cannot tell the format from the suffix {suffix!r}; end it in .TextGrid, .json or "
                f".ctm, or give --format; for a folder end it in {os.sep}"
            )
        format = _FORMATS[suffix.lower()]
    meant = _FORMATS.get(Path(args.output or "").suffix.lower())
    if meant and format and not to_folder and outputs.SUFFIX[meant] != outputs.SUFFIX[format]:
        args.parser.error(f"-o {args.output} and --format {format} are two forms of file; leave one of them out")
    if format == "ctm" and args.tier == "both":
        args.parser.error("a CTM file holds one tier: give --tier words or --tier phones")
    return format or "textgrid"
