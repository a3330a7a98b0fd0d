"""How far each method's boundaries lie from the truth: gradient, CTC, attention, equal split, PocketSphinx.

    python benchmarks/accuracy.py                                            # synthetic speech, made here
    python benchmarks/accuracy.py --manifest ../shared/data/dev.jsonl        # and recordings with references

A manifest is JSON lines with ``audio_filepath`` (relative to it), ``text``, ``set`` and ``id``. Its references stand
beside it in ``<name>_refs.jsonl`` (or ``--refs``): ``set``, ``id``, ``kind`` and ``words``, perhaps ``phones``, as
``[start_s, end_s, label]``. Every method sees the same audio and transcript; nothing is tuned here.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from gradalign import audio, io
from gradalign._types import Method
from gradalign.aligner import align
from gradalign.alignment import Alignment, Interval, Tier
from gradalign.bundle import Bundle, load
from gradalign.errors import AlignmentError, GradalignError
from gradalign.metrics import Comparison, compare

HERE = Path(__file__).parent
HELD_OUT_VOICES = ("flite-rms", "festival-kal_diphone")
"""Synthetic voices that no shipped model was trained on."""

COLUMNS = (
    ("word TSE", lambda c: c.tse_s * 1e3),
    ("95 % interval", None),
    ("median", lambda c: c.tse_median_s * 1e3),
    ("centre", lambda c: c.centre_error_s * 1e3),
    ("start bias", lambda c: c.start_bias_s * 1e3),
    ("end bias", lambda c: c.end_bias_s * 1e3),
    ("edge", lambda c: c.tse_edge_s * 1e3),
    ("inner", lambda c: c.tse_interior_s * 1e3),
    ("<20", lambda c: c.boundaries_within(0.02) * 100),
    ("<50", lambda c: c.boundaries_within(0.05) * 100),
    ("<100", lambda c: c.boundaries_within(0.1) * 100),
    ("w<300", lambda c: c.units_within(0.3) * 100),
    ("R@20", lambda c: c.boundary_score(0.02).r_value * 100),
)
PHONE_COLUMNS = (
    ("phone mean", lambda c: c.tse_s * 1e3),
    ("median", lambda c: c.tse_median_s * 1e3),
    ("<20", lambda c: c.boundaries_within(0.02) * 100),
    ("<50", lambda c: c.boundaries_within(0.05) * 100),
)


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


def pocketsphinx_align(recording: Recording) -> Alignment:
    """PocketSphinx's word alignment; its text may hold only words of its dictionary.

    Raises:
        AlignmentError: If it knows a word not, or finds no path even with a wide beam.
    """
    import pocketsphinx  # pyright: ignore[reportMissingImports]  (only with the extra "bench")

    from gradalign.text import words

    samples = recording.audio if isinstance(recording.audio, np.ndarray) else audio.read(recording.audio)
    pcm = (np.clip(samples, -1, 1) * 32767).astype(np.int16).tobytes()
    text = " ".join(part for word in words(recording.text) for part in word.spoken)
    for beams in ({}, {"beam": 1e-90, "pbeam": 1e-90, "wbeam": 1e-70}):
        decoder = pocketsphinx.Decoder(lm=None, loglevel="FATAL", cmn="batch", bestpath=False, **beams)
        try:
            decoder.set_align_text(text)
            decoder.start_utt()
            decoder.process_raw(pcm, full_utt=True)
            decoder.end_utt()
        except RuntimeError as error:
            raise AlignmentError(f"PocketSphinx: {error}") from error
        segments = decoder.seg()
        if segments is not None:
            break
    else:
        raise AlignmentError("PocketSphinx found no path")
    spans = [(s.start_frame / 100, (s.end_frame + 1) / 100, s.word.split("(")[0]) for s in segments]
    found = tuple(Interval(a, b, word) for a, b, word in spans if not word.startswith("<") and word != "(NULL)")
    return Alignment(max(len(samples) / 16000, found[-1].end), (Tier("words", found),), method="pocketsphinx")


def run(recordings: list[Recording], methods: list[str], bundle: Bundle, out: Path | None) -> dict[str, Any]:
    """Align everything by every method and compare with the references."""
    results: dict[str, dict[str, dict[str, list[Comparison]]]] = {}
    failures: dict[str, list[str]] = {}
    started = time.time()
    for number, recording in enumerate(recordings, 1):
        for method in methods:
            try:
                if method == "pocketsphinx":
                    found = pocketsphinx_align(recording)
                else:
                    found = align(
                        recording.audio, recording.text, model=bundle, method=cast(Method, method), keep_evidence=False
                    )
            except GradalignError as error:
                # A method that gives up is charged: all units of the recording are missing.
                failures.setdefault(f"{recording.group}: {method}", []).append(f"{recording.name}: {error}")
                found = None
            if out is not None and found is not None:
                folder = out / method / recording.group.split()[0]
                folder.mkdir(parents=True, exist_ok=True)
                io.write(found, folder / f"{recording.name}.json", overwrite=True)
            here = results.setdefault(recording.group, {}).setdefault(method, {})
            for tier in recording.reference:
                if tier.name == "words" or method != "pocketsphinx":
                    units = Tier(tier.name, ()) if found is None else found
                    here.setdefault(tier.name, []).append(compare(tier, units, tier=tier.name))
        if sys.stderr.isatty() or number % 50 == 0:
            end = "\r" if sys.stderr.isatty() else "\n"
            print(f"{number}/{len(recordings)} recordings, {time.time() - started:.0f} s", file=sys.stderr, end=end)
    pooled = {
        group: {m: {tier: Comparison.pooled(cs) for tier, cs in tiers.items()} for m, tiers in by_method.items()}
        for group, by_method in results.items()
    }
    return {"pooled": pooled, "failures": failures}


def show(pooled: dict[str, dict[str, dict[str, Comparison]]], failures: dict[str, list[str]]) -> None:
    """One table a group of recordings; times in ms, shares in percent."""
    for group, by_method in pooled.items():
        for tier, columns in (("words", COLUMNS), ("phones", PHONE_COLUMNS)):
            rows = {method: tiers[tier] for method, tiers in by_method.items() if tier in tiers}
            if not rows:
                continue
            some = next(iter(rows.values()))
            print(f"\n### {group}, {tier}: {len(some.utterances)} recordings, {some.n_reference} {tier}\n")
            print("| method | " + " | ".join(name for name, _ in columns) + " | missing |")
            print("|---" * (len(columns) + 2) + "|")
            for method, comparison in rows.items():
                print(
                    f"| {method} | "
                    + " | ".join(_cell(comparison, f) for _, f in columns)
                    + f" | {comparison.n_missing} |"
                )
    for where, problems in failures.items():
        print(f"\n{where}: {len(problems)} failed, for example {problems[0]}")


def _cell(comparison: Comparison, measure) -> str:
    try:
        if measure is None:
            low, high = comparison.bootstrap(lambda c: c.tse_s, n=300)
            return f"{low * 1e3:.1f}-{high * 1e3:.1f}"
        return f"{measure(comparison):.1f}"
    except ValueError:
        return "-"


def main() -> None:
    """Parse the command line, run, print tables and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, help="recordings with references")
    parser.add_argument("--refs", type=Path, help="reference times (default: <manifest>_refs.jsonl)")
    parser.add_argument("--sets", nargs="+", help="only these sets of the manifest")
    parser.add_argument("--no-synthetic", action="store_true", help="leave the synthetic speech out")
    parser.add_argument("--voices", nargs="+", default=list(HELD_OUT_VOICES), help="synthetic voices")
    parser.add_argument("--model", default="en-us", help="name or folder")
    parser.add_argument(
        "--methods",
        nargs="+",
        default=None,
        help="gradient ctc attention equal pocketsphinx (default: all that are installed)",
    )
    parser.add_argument("--limit", type=int, help="at most this many recordings a group")
    parser.add_argument("--json", type=Path, help="write all measures here")
    parser.add_argument("--alignments", type=Path, help="keep every alignment as JSON in this folder")
    args = parser.parse_args()
    recordings: list[Recording] = []
    if not args.no_synthetic:
        for voice in args.voices:
            try:
                recordings += from_synthesis((voice,), args.limit)
            except GradalignError as error:
                print(f"{voice} left out: {error}", file=sys.stderr)
    if args.manifest and not args.manifest.exists():
        print(f"{args.manifest} does not exist: its recordings are left out", file=sys.stderr)
    elif args.manifest:
        refs = args.refs or args.manifest.with_name(args.manifest.stem + "_refs.jsonl")
        recordings += from_manifest(args.manifest, refs, args.sets, args.limit)
    if not recordings:
        parser.error("no recordings: give --manifest, or install flite and festival for synthetic speech")
    bundle = load(args.model)
    found = run(recordings, args.methods or _available(), bundle, args.alignments)
    show(found["pooled"], found["failures"])
    if args.json:
        measures = {
            group: {m: {tier: c.to_dict() for tier, c in tiers.items()} for m, tiers in by_method.items()}
            for group, by_method in found["pooled"].items()
        }
        args.json.write_text(json.dumps(_about(bundle) | {"groups": measures, "failures": found["failures"]}, indent=1))


def _about(bundle: Bundle) -> dict[str, str]:
    """What the figures belong to."""
    import datetime
    import platform
    from importlib.metadata import version

    return {
        "model": bundle.name,
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "jax": version("jax"),
    }


def _available() -> list[str]:
    from importlib.util import find_spec

    return ["gradient", "ctc", "attention", "equal"] + (["pocketsphinx"] if find_spec("pocketsphinx") else [])


if __name__ == "__main__":
    main()
