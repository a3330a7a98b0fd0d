"""What gradients cost: against the usual ways of taking them, in passes through the encoder, and from end to end.

    python benchmarks/speed.py                                     # every section that needs no data
    python benchmarks/speed.py --sections passes tse --manifest ../shared/data/dev.jsonl --json speed.json

Sections: "torch" (one `torch.autograd.grad` a label, same weights; needs torch), "jacrev" (`jax.jacrev` of the whole
function: time, and memory as compiled), "passes" (cost in forward passes of the encoder at 25, 100 and 400 labels),
"tse" (compressed against exact boundaries; needs a manifest with references), "precision" (mixed and bfloat16 against
float32, boundaries and time, whatever --precision; needs a manifest), "rtf" (real-time factor on the manifest), "batch"
(several utterances in one compiled call against one after the other, and a folder with several jobs against one; needs
a manifest), "long" (half an hour in one file: cost against files of a minute, memory; needs a manifest), "startup" (new
processes on a 5 s file), "viterbi" (1500 frames x 200 labels, against ctc-forced-aligner where it is installed).
Ratios are of medians of one run, interleaved, after warm-up. Run it on an idle machine.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sources import Recording, about, add_model, from_manifest
from speed_of_programs import jacrev_section, passes_section, startup_section, torch_section, viterbi_section
from speed_on_recordings import (
    batch_section,
    long_section,
    precision_section,
    rtf_section,
    tse_section,
)
from speed_shared import Section

from gradalign import bundle
from gradalign.cache import prepare_jax

SECTIONS = ("torch", "jacrev", "passes", "tse", "precision", "rtf", "batch", "long", "startup", "viterbi")


def main() -> int:
    """Measure, print a table, write JSON; 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    add_model(parser)
    parser.add_argument("--manifest", type=Path, help="recordings with references, for the sections that need one")
    parser.add_argument("--refs", type=Path, help="reference times (default: <manifest>_refs.jsonl)")
    parser.add_argument(
        "--limit", type=int, default=20, help="recordings of about 10 s in tse, and files in rtf, batch and precision"
    )
    parser.add_argument("-n", type=int, default=5, help="timings of each, of which the median counts")
    parser.add_argument("--json", type=Path, help="write all measures here")
    args = parser.parse_args()
    prepare_jax()
    model = bundle.load(args.model, precision=args.precision)
    recordings: list[Recording] = []
    if args.manifest is not None:
        refs = args.refs or args.manifest.with_name(args.manifest.stem + "_refs.jsonl")
        recordings = list(from_manifest(args.manifest, refs, None, None))
    measures: dict[str, Any] = {**about(model)}
    sections: dict[str, Callable[[], Section]] = {
        "torch": lambda: torch_section(model, args.n),
        "jacrev": lambda: jacrev_section(model, args.n),
        "passes": lambda: passes_section(model, args.n),
        "tse": lambda: tse_section(model, recordings, args.limit),
        "precision": lambda: precision_section(args.model, recordings, args.limit),
        "rtf": lambda: rtf_section(model, recordings, args.limit),
        "batch": lambda: batch_section(model, recordings, args.limit, args.n),
        "long": lambda: long_section(args.model, args.precision, recordings),
        "startup": lambda: startup_section(args.model, args.precision),
        "viterbi": lambda: viterbi_section(args.n),
    }
    missed = 0
    print(f"Model {model.name}; gradients in windows multiplied in {model.network.windows_in}.\n")
    print("| what | measured | bar | |\n|---|---|---|---|")
    for name in args.sections:
        if name in ("tse", "precision", "rtf", "batch", "long") and not recordings:
            print(f"| {name} | needs --manifest | | |")
            continue
        rows, measures[name] = sections[name]()
        for what, measured, bar, met in rows:
            missed += met is False
            verdict = "" if met is None or not bar else ("met" if met else "MISSED")
            print(f"| {what} | {measured} | {bar} | {verdict} |", flush=True)
    if args.json:
        args.json.write_text(json.dumps(measures, indent=1))
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
