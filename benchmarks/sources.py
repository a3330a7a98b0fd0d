"""What benchmarks measure on: recordings with reference times, and synthetic speech with exact ones."""

import argparse
import datetime
import json
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import numpy as np

from gradalign._types import LoadedPrecision
from gradalign.alignment import Interval, Tier
from gradalign.bundle import DEFAULT, Bundle
from gradalign.errors import GradalignError

HERE = Path(__file__).parent
HELD_OUT_VOICES = ("flite-rms", "festival-kal_diphone")
"""Synthetic voices that no shipped model was trained on."""


@dataclass(frozen=True)
class Recording:
    """One recording with its reference tiers; ``group`` names the table it counts in."""

    name: str
    group: str
    audio: Path | np.ndarray
    text: str
    reference: tuple[Tier, ...]


def from_manifest(manifest: Path, refs: Path, sets: list[str] | None, limit: int | None) -> Iterator[Recording]:
    """The recordings of a manifest that have reference times."""
    lines = [json.loads(line) for line in refs.read_text("utf-8").splitlines()]
    references = {(line["set"], line["id"]): line for line in lines}
    counts: dict[str, int] = {}
    for line in manifest.read_text("utf-8").splitlines():
        entry = json.loads(line)
        reference = references.get((entry["set"], entry["id"]))
        if reference is None or (sets and entry["set"] not in sets):
            continue
        group = f"{entry['set']} ({reference['kind']})"
        counts[group] = counts.get(group, 0) + 1
        if limit and counts[group] > limit:
            continue
        tiers = tuple(
            Tier(name, tuple(Interval(start, end, label) for start, end, label in reference[name] if end > start))
            for name in ("words", "phones")
            if name in reference
        )
        yield Recording(entry["id"], group, manifest.parent / entry["audio_filepath"], entry["text"], tiers)


def from_synthesis(voices: tuple[str, ...], limit: int | None) -> Iterator[Recording]:
    """The committed sentences in voices no model heard, with exact times."""
    from gradalign.synth import synthesise_all

    lines = (HERE / "sentences.txt").read_text("utf-8").splitlines()
    sentences = [line for line in lines if line.strip() and not line.startswith("#")][:limit]
    for voice in voices:
        for number, speech in enumerate(synthesise_all(sentences, voice)):
            tiers = tuple(
                Tier(name, units) for name, units in (("words", speech.words), ("phones", speech.phones)) if units
            )
            yield Recording(f"{voice}-{number}", f"{voice} (synthetic)", speech.samples, speech.text, tiers)


def add_sources(parser: argparse.ArgumentParser, *, limit: int | None = None) -> None:
    """The options that say which recordings and which model, and where measures go."""
    parser.add_argument("--manifest", type=Path, help="recordings with references")
    parser.add_argument("--refs", type=Path, help="reference times (default: <manifest>_refs.jsonl)")
    parser.add_argument("--sets", nargs="+", help="only these sets of the manifest")
    parser.add_argument("--no-synthetic", action="store_true", help="leave the synthetic speech out")
    parser.add_argument("--voices", nargs="+", default=list(HELD_OUT_VOICES), help="synthetic voices")
    add_model(parser)
    parser.add_argument("--limit", type=int, default=limit, help="recordings a group (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write all measures here")


def add_model(parser: argparse.ArgumentParser) -> None:
    """The options that say which model, and what it computes in."""
    parser.add_argument("--model", default=DEFAULT, help="name or folder (default: %(default)s)")
    parser.add_argument(
        "--precision", choices=get_args(LoadedPrecision), help="as of gradalign align (default: the machine's)"
    )


def gathered(args: argparse.Namespace, parser: argparse.ArgumentParser) -> list[Recording]:
    """The recordings that `add_sources` was asked for, at least one."""
    refs = args.refs or (args.manifest and args.manifest.with_name(args.manifest.stem + "_refs.jsonl"))
    if args.manifest and (missing := [str(path) for path in (args.manifest, refs) if not path.exists()]):
        parser.error(f"{', '.join(missing)}: no such file; expected a manifest and its reference times (--refs)")
    recordings: list[Recording] = []
    if not args.no_synthetic:
        for voice in args.voices:
            try:
                recordings += from_synthesis((voice,), args.limit)
            except GradalignError as error:
                print(f"{voice} left out: {error}", file=sys.stderr)
    if args.manifest:
        recordings += from_manifest(args.manifest, refs, args.sets, args.limit)
    if not recordings:
        parser.error("no recordings: give --manifest, or install flite and festival for synthetic speech")
    return recordings


def about(bundle: Bundle) -> dict[str, str]:
    """What the figures belong to."""
    return {
        "model": bundle.name,
        "calibrated_on": bundle.calibrated_on,
        "windows_in": bundle.network.windows_in,
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "jax": version("jax"),
    }
