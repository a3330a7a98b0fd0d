"""How many phones a model gets wrong: phone error rate of its CTC head, its decoder and both together, all greedy.

    python benchmarks/recognition.py                                     # synthetic speech, made here
    python benchmarks/recognition.py --manifest ../shared/data/dev.jsonl # and recordings of people

A manifest is JSON lines as `gradalign.manifest` reads them, each of a whole recording. What was said is taken
from the text through the lexicon, the first pronunciation of each word; the column "any variant" forgives where another
pronunciation of the lexicon was heard. Synthetic speech is by voices that no shipped model was trained on, and its
phones are those that the engine said. "joint, greedy" is what `gradalign recognise --beam 1` hears.
Nothing is tuned here.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sources import HELD_OUT_VOICES, about, from_synthesis

from gradalign import audio, manifest
from gradalign.bundle import Bundle, load
from gradalign.error_rate import PhoneErrors, edit_distance, fewest_edits, rate_interval
from gradalign.errors import GradalignError
from gradalign.recognition import features_of, greedy, recognise
from gradalign.transcript import Transcript

BARS = {"librispeech": 0.25, "speechocean762": 0.35} | dict.fromkeys(HELD_OUT_VOICES, 0.12)
"""Largest phone error rate that passes, by group."""


@dataclass(frozen=True)
class Spoken:
    """One recording and the phones that were said; ``variants`` holds each word's pronunciations."""

    name: str
    group: str
    audio: Path | np.ndarray
    phones: tuple[str, ...]
    variants: tuple[tuple[tuple[str, ...], ...], ...]


def from_manifest(path: Path, sets: list[str], limit: int | None) -> Iterator[Spoken]:
    """The recordings of some sets, each with the phones of its text."""
    counts = dict.fromkeys(sets, 0)
    for entry in manifest.read_manifest(path):
        group = entry.set
        if group not in counts or (limit and counts[group] >= limit):
            continue
        counts[group] += 1
        said = Transcript.from_text(entry.text)
        variants = tuple(tuple(way.phones for way in word) for word in said.variants)
        yield Spoken(entry.id, group, entry.audio, said.labels, variants)
    for group in [group for group, n in counts.items() if not n]:
        print(f"{group} left out: {path} holds no such set", file=sys.stderr)


def from_voices(limit: int | None) -> Iterator[Spoken]:
    """The committed sentences in voices no model heard."""
    for voice in HELD_OUT_VOICES:
        try:
            for recording in from_synthesis((voice,), limit):
                phones = next(tier for tier in recording.reference if tier.name == "phones")
                said = tuple(phone.label for phone in phones)
                assert isinstance(recording.audio, np.ndarray), "synthesised just now"
                yield Spoken(recording.name, voice, recording.audio, said, ((said,),))
        except GradalignError as error:
            print(f"{voice} left out: {error}", file=sys.stderr)


def hear(recordings: list[Spoken], bundle: Bundle, beam: int) -> dict[str, list[tuple[str, ...] | None]]:
    """The phones that each search finds in each recording; None where one cannot be recognised.

    Searched by the joint score, too, with so many hypotheses; 0 is not at all.
    """
    waveforms: dict[int, np.ndarray] = {}
    features: dict[int, np.ndarray] = {}
    for i, recording in enumerate(recordings):
        try:
            read = audio.read(recording.audio) if isinstance(recording.audio, Path) else recording.audio
            waveforms[i] = audio.resample(read, audio.SAMPLE_RATE, bundle.features.sample_rate)
            features[i] = features_of(waveforms[i], bundle)
        except GradalignError as error:
            print(f"{recording.name} counts as not recognised: {error}", file=sys.stderr)
    # Those of like length side by side, so that few calls are needed and little is padded.
    there = sorted(features, key=lambda i: len(features[i]))

    def named(ids: tuple[int, ...]) -> tuple[str, ...]:
        return tuple(bundle.labels[i - 1] for i in ids)

    found: dict[str, list[tuple[str, ...] | None]] = {}
    names = ["CTC, greedy", "decoder, greedy"]
    if beam:
        names.append("joint, greedy" if beam == 1 else f"joint, beam {beam}")
    for name in names:
        found[name] = [None] * len(recordings)
    for start in range(0, len(there), 64):
        part = there[start : start + 64]
        for i, one in zip(part, greedy(bundle.network, [features[i] for i in part]), strict=True):
            found[names[0]][i], found[names[1]][i] = named(one.ctc), named(one.attention)
        _progress(start + len(part), len(there), "greedy")
    if beam:
        for n, i in enumerate(there, 1):
            found[names[2]][i] = recognise(bundle, waveforms[i], beam=beam).labels
            _progress(n, len(there), names[2])
    return found


_STARTED = time.time()


def _progress(done: int, total: int, what: str) -> None:
    if sys.stderr.isatty() or done == total or done % 64 == 0:
        end = "\r" if sys.stderr.isatty() and done < total else "\n"
        print(f"{what}: {done}/{total} recordings, {time.time() - _STARTED:.0f} s", file=sys.stderr, end=end)


def measure(recordings: list[Spoken], heard: dict[str, list[tuple[str, ...] | None]]) -> list[dict[str, Any]]:
    """One row a group and search. A recording that was not recognised counts with all its phones deleted."""
    rows = []
    for group in dict.fromkeys(recording.group for recording in recordings):
        members = [i for i, recording in enumerate(recordings) if recording.group == group]
        for search, phones in heard.items():
            parts = [edit_distance(recordings[i].phones, phones[i] or ()) for i in members]
            pooled = PhoneErrors.pooled(parts)
            nearest = sum(fewest_edits(recordings[i].variants, phones[i] or ()) for i in members)
            bar = BARS.get(group)
            rows.append(
                {
                    "group": group,
                    "search": search,
                    "recordings": len(members),
                    "not_recognised": sum(phones[i] is None for i in members),
                    "phones": pooled.n_reference,
                    "rate": pooled.rate,
                    "interval": rate_interval(parts) if len(parts) > 1 else None,
                    "substitutions": pooled.substitutions,
                    "insertions": pooled.insertions,
                    "deletions": pooled.deletions,
                    "rate_any_variant": nearest / pooled.n_reference,
                    "bar": bar,
                    "passed": None if bar is None else pooled.rate <= bar,
                }
            )
    return rows


COLUMNS: tuple[tuple[str, Callable[[dict[str, Any]], str]], ...] = (
    ("recordings", lambda row: row["group"]),
    ("search", lambda row: row["search"]),
    ("n", lambda row: str(row["recordings"])),
    ("phones", lambda row: str(row["phones"])),
    ("PER %", lambda row: f"{100 * row['rate']:.1f}"),
    ("95 % interval", lambda row: "-".join(f"{100 * end:.1f}" for end in row["interval"] or ()) or "-"),
    ("subst.", lambda row: str(row["substitutions"])),
    ("ins.", lambda row: str(row["insertions"])),
    ("del.", lambda row: str(row["deletions"])),
    ("any variant %", lambda row: f"{100 * row['rate_any_variant']:.1f}"),
    ("bar %", lambda row: "-" if row["bar"] is None else f"{100 * row['bar']:.0f}"),
    ("", lambda row: {None: "-", True: "pass", False: "FAIL"}[row["passed"]]),
)


def show(rows: list[dict[str, Any]]) -> None:
    """All rows as one table."""
    table = [[title for title, _ in COLUMNS], *([cell(row) for _, cell in COLUMNS] for row in rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(COLUMNS))]
    for number, line in enumerate(table):
        print("| " + " | ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)) + " |")
        if number == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")


def main() -> None:
    """Parse the command line, run, print the table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, help="recordings with their texts")
    sets = ["librispeech", "speechocean762"]
    parser.add_argument("--sets", nargs="+", default=sets, help=f"sets of the manifest (default: {' '.join(sets)})")
    parser.add_argument("--no-synthetic", action="store_true", help="leave the synthetic speech out")
    parser.add_argument("--model", default="en-us", help="name or folder")
    parser.add_argument(
        "--beam", type=int, default=1, help="hypotheses by the joint score, 0 for no such search (default: %(default)s)"
    )
    parser.add_argument("--limit", type=int, help="at most this many recordings a group")
    parser.add_argument("--json", type=Path, help="write all measures here")
    args = parser.parse_args()
    if args.beam < 0:
        parser.error(f"--beam {args.beam}: expected at least 0")
    recordings: list[Spoken] = []
    if args.manifest is None:
        print("no --manifest: recordings of people are left out", file=sys.stderr)
    elif not args.manifest.exists():
        print(f"{args.manifest} does not exist: its recordings are left out", file=sys.stderr)
    else:
        recordings += from_manifest(args.manifest, args.sets, args.limit)
    if not args.no_synthetic:
        recordings += from_voices(args.limit)
    if not recordings:
        parser.error("nothing to recognise: give --manifest, or install flite and festival for synthetic speech")
    bundle = load(args.model, calibrated=False)
    rows = measure(recordings, hear(recordings, bundle, args.beam))
    show(rows)
    if args.json:
        args.json.write_text(json.dumps(about(bundle) | {"rows": rows}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
