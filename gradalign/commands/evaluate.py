"""``gradalign evaluate``."""

import argparse
from typing import TYPE_CHECKING

from gradalign.errors import GradalignError
from gradalign.terminal import say

if TYPE_CHECKING:
    from gradalign.evaluation import FilePair
    from gradalign.metrics import Comparison


def run(args: argparse.Namespace) -> int:
    """Compare one alignment, or all of a folder, with a reference."""
    from gradalign.evaluation import compare_files, pair_files
    from gradalign.io._files import check_writable, write_text
    from gradalign.metrics import Comparison
    from gradalign.output import check_no_input

    files = pair_files(args.reference, args.hypothesis)
    for warning in files.warnings:
        say("warning", warning)
    if args.json is not None:
        check_no_input(args.json, [path for pair in files.pairs for path in (pair.reference, pair.hypothesis) if path])
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
