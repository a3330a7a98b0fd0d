"""Sections of `speed.py` on recordings: boundaries, real-time factors, batches and long files."""

import itertools
import resource
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, cast, get_args

import jax
import numpy as np
from flax import nnx
from peers import pocketsphinx_align
from sources import Recording
from speed_shared import SIZES, Row, Section, exact_matrix, medians, speech, windowed_matrix

from gradalign import audio, bundle, corpus, io
from gradalign._types import LoadedPrecision, Method
from gradalign.aligner import align
from gradalign.alignment import Interval, Tier
from gradalign.buckets import pad
from gradalign.cache import prepare_jax
from gradalign.compressed import NARROW, UNSURE, WIDTHS
from gradalign.errors import GradalignError
from gradalign.evidence import log_saliency, normalise, silence_score
from gradalign.features import log_mel_padded
from gradalign.metrics import Comparison, compare
from gradalign.placement import place
from gradalign.readout import first_trusted
from gradalign.signals import chosen, signal_names
from gradalign.transcript import Transcript


def tse_section(model: bundle.Bundle, recordings: list[Recording], limit: int) -> Section:
    """Word boundaries of the compressed way against the exact one, for recordings of three lengths.

    Compressed is what `gradalign align` takes, but for its pieces: narrow windows, where these miss too much wider
    ones, and where these do, too, exact gradients. Narrow windows whatever they miss are beside it.
    """
    graph, state = nnx.split(model.network)
    rows: list[Row] = []
    found: dict[str, Any] = {}
    for (seconds_of_speech, n_labels), count in zip(SIZES, (4 * limit, limit, max(limit // 5, 2)), strict=True):
        measured: dict[str, list[Comparison]] = {"exact": [], "compressed": [], "narrow": []}
        unsure = 0
        for recording in joined(recordings, seconds_of_speech, count):
            transcript = Transcript.from_text(recording.text)
            features = log_mel_padded(np.asarray(recording.audio), model.features)
            labels = model.ids(transcript.labels)
            padded = pad(features, labels)
            narrow, exact = windowed_matrix(graph, state, *padded), exact_matrix(graph, state, *padded)
            unsure += float(narrow.missed) > UNSURE

            tries = {NARROW: narrow} | {
                width: windowed_matrix(graph, state, *padded, width=width)
                for width in WIDTHS[1:]
                if float(narrow.missed) > UNSURE
            }
            trusted = first_trusted(
                lambda width, tries=tries: (tries[width].fine[0], float(tries[width].missed)),
                len(labels),
                -(-len(features) // model.network.config.subsampling),
            )
            compressed = exact if trusted is None else trusted
            matrices = {"exact": exact, "compressed": compressed, "narrow": narrow.fine[0]}
            for name, matrix in matrices.items():
                scores = log_saliency(matrix, n_frames=len(features))
                silence = silence_score(scores, n_labels=len(labels), n_frames=len(features))
                scores, silence = normalise(scores, silence, n_labels=len(labels))
                scores, silence = np.asarray(scores)[: len(labels), : len(features)], np.asarray(silence)
                duration = len(np.asarray(recording.audio)) / model.features.sample_rate
                result = place(transcript, scores, silence[: len(features)], grid=model.grid, duration=duration)
                measured[name] += [compare(tier, result, tier="words") for tier in recording.reference]
        if not measured["exact"]:
            rows.append((f"TSE at {n_labels} labels", "no recordings of this length", "", None))
            continue
        tse = {name: Comparison.pooled(parts).tse_s * 1e3 for name, parts in measured.items()}
        worse = tse["compressed"] - tse["exact"]
        what = f"word TSE at about {seconds_of_speech:g} s, {len(measured['exact'])} recordings"
        text = f"{tse['compressed']:.1f} ms, exact {tse['exact']:.1f} ms ({worse:+.1f}), "
        text += f"narrow windows alone {tse['narrow']:.1f} ms, {unsure} unsure"
        rows.append((what, text, "< +2 ms", worse < 2))
        found[str(n_labels)] = {"tse_ms": tse, "unsure": unsure, "recordings": len(measured["exact"])}
    return rows, found


def precision_section(name: str, recordings: list[Recording], limit: int) -> Section:
    """Word boundaries and time of methods with bfloat16, in windows only or everywhere, against float32."""
    chosen = recordings[:: max(len(recordings) // limit, 1)][:limit]
    rows: list[Row] = []
    found: dict[str, Any] = {}
    methods: tuple[Method, ...] = ("calibrated", "gradient", "ctc")
    for method in methods:
        for precision in get_args(LoadedPrecision):
            model = bundle.load(name, precision=precision)
            for _ in range(2):  # the first round compiles
                measured, started = [], time.perf_counter()
                for recording in chosen:
                    options: dict[str, Any] = {"model": model, "method": method, "keep_evidence": False}
                    result = align(recording.audio, recording.text, **options)
                    measured += [compare(tier, result, tier="words") for tier in recording.reference[:1]]
                seconds = time.perf_counter() - started
            found[f"{method} {precision}"] = {"tse_ms": Comparison.pooled(measured).tse_s * 1e3, "seconds": seconds}
        full, *others = ((precision, found[f"{method} {precision}"]) for precision in get_args(LoadedPrecision))
        for precision, half in others:
            text = f"{half['tse_ms']:.2f} ms, {full[0]} {full[1]['tse_ms']:.2f} ms; "
            text += f"time {half['seconds'] / full[1]['seconds']:.2f}x"
            rows.append((f"{precision}, {method}, word TSE of {len(chosen)} recordings", text, "", None))
    return rows, found


def joined(recordings: list[Recording], seconds: float, count: int) -> list[Recording]:
    """Recordings of about a length: short ones of one group put end to end, with their references."""
    rate, results = 16_000, []
    parts: list[tuple[Recording, np.ndarray]] = []
    for recording in recordings:
        if len(results) == count:
            break
        samples = audio.read(recording.audio) if not isinstance(recording.audio, np.ndarray) else recording.audio
        if len(samples) / rate > 1.3 * seconds:
            continue
        if parts and (
            recording.group != parts[0][0].group or sum(len(s) for _, s in parts) + len(samples) > 1.3 * seconds * rate
        ):
            parts = []
        parts.append((recording, samples))
        if sum(len(s) for _, s in parts) >= 0.7 * seconds * rate:
            results.append(_join(parts, rate))
            parts = []
    return results


def _join(parts: list[tuple[Recording, np.ndarray]], rate: int) -> Recording:
    words: list[Interval] = []
    offset = 0.0
    for recording, samples in parts:
        tier = next(tier for tier in recording.reference if tier.name == "words")
        words += [Interval(w.start + offset, w.end + offset, w.label) for w in tier]
        offset += len(samples) / rate
    text = " ".join(recording.text for recording, _ in parts)
    name, group = parts[0][0].name, parts[0][0].group
    return Recording(name, group, np.concatenate([s for _, s in parts]), text, (Tier("words", tuple(words)),))


def rtf_section(model: bundle.Bundle, recordings: list[Recording], limit: int) -> Section:
    """Real-time factor of files to alignments in one process, after every shape was met once."""
    step = max(len(recordings) // limit, 1)
    chosen = recordings[::step][:limit]
    bars: dict[Method | Literal["default", "pocketsphinx"], float | None]
    bars = {"default": 0.10, "gradient": 0.10, "ctc": 0.03, "pocketsphinx": None}
    if find_spec("pocketsphinx") is None:
        del bars["pocketsphinx"]
    rows: list[Row] = []
    found: dict[str, Any] = {}
    for method, bar in bars.items():
        # The first round compiles, and a twentieth of a second is cut off there: no length is met twice.
        for shorter in (800, 0):
            started, spoken = time.perf_counter(), 0.0
            for recording in chosen:
                try:
                    if method == "pocketsphinx":
                        spoken += pocketsphinx_align(recording).duration
                        continue
                    named = None if method == "default" else method
                    options: dict[str, Any] = {"model": model, "method": named, "keep_evidence": False}
                    samples = audio.read(recording.audio) if isinstance(recording.audio, Path) else recording.audio
                    samples = samples[: len(samples) - shorter]
                    spoken += align(samples, recording.text, sample_rate=16_000, **options).duration
                except GradalignError as error:
                    print(f"{recording.name}: {error}", file=sys.stderr)
            factor = (time.perf_counter() - started) / max(spoken, 1e-9)
        what = f"real-time factor, {method}, {len(chosen)} files, {spoken / 60:.1f} min"
        rows.append(
            (what, f"{factor:.4f}", "", None) if bar is None else (what, f"{factor:.4f}", f"<= {bar}", factor <= bar)
        )
        found[method] = factor
    return rows, found


def batch_section(model: bundle.Bundle, recordings: list[Recording], limit: int, n: int) -> Section:
    """All signals of eight utterances by one compiled call, and a folder whose recordings are aligned in threads."""
    graph, state = nnx.split(model.network)
    names = signal_names(model.network.config)

    def one(state, features, labels):
        return chosen(nnx.merge(graph, state), features, labels, len(features), names=names, width=NARROW)

    single, together = jax.jit(one), jax.jit(jax.vmap(one, in_axes=(None, 0, 0)))
    rows: list[Row] = []
    measures: dict[str, Any] = {}
    for seconds, n_labels in ((3.2, 32), (9.6, 96)):
        features, labels = speech(model, seconds, n_labels)
        times = medians(
            {
                "one": partial(single, state, features, labels),
                "together": partial(together, state, np.stack([features] * 8), np.stack([labels] * 8)),
            },
            n,
        )
        measures[f"{seconds} s"] = times
        ratio = 8 * times["one"] / times["together"]
        rows.append(
            (f"8 utterances of {seconds} s in one call, against one after the other", f"{ratio:.2f}x", "", None)
        )
    some = recordings[:: max(len(recordings) // limit, 1)][:limit]

    def folder(jobs: int) -> float:
        with tempfile.TemporaryDirectory() as output:
            items = []
            for i, recording in enumerate(some):
                transcript = Path(output, f"{i}.txt")
                transcript.write_text(recording.text, "utf-8")
                target = transcript.with_suffix(".TextGrid")
                items.append(corpus.Item(str(i), cast(Path, recording.audio), transcript, target))
            started = time.perf_counter()
            outcomes = corpus.run(
                corpus.by_size(items),
                lambda audio, text: align(audio, text, model=model, keep_evidence=False),
                lambda alignment, path: io.write(alignment, path),
                jobs=jobs,
            )
            failed = [outcome for outcome in outcomes if outcome.status != "aligned"]
            assert not failed, failed[0]
            return time.perf_counter() - started

    folder(2)
    times = {jobs: statistics.median(folder(jobs) for _ in range(3)) for jobs in (1, 2, 4)}
    for jobs in (2, 4):
        rows.append((f"{len(some)} recordings, --jobs {jobs} against 1", f"{times[1] / times[jobs]:.2f}x", "", None))
    return rows, measures | {"jobs": times}


def long_section(name: str, precision: LoadedPrecision | None, recordings: list[Recording]) -> Section:
    """Half an hour in one file, against the same speech in files of a minute: cost, peak memory, boundaries."""
    found: dict[str, dict[str, Any]] = {}
    for what, minutes in (("files of a minute", 1), ("one file", 30)):  # each in a process of its own, for its memory
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            found[what] = pool.submit(_half_hour, name, precision, recordings, minutes).result()
    short, long = found.values()
    ratio, peak = long["seconds"] / short["seconds"], long["peak_gb"]
    rows: list[Row] = [
        (f"{what}, {f['minutes']:.1f} minutes of speech in {f['files']}", _told_of(f), "", None)
        for what, f in found.items()
    ]
    rows += [
        ("cost of one file against files of a minute", f"{ratio:.2f}x", "<= 1.3x", ratio <= 1.3),
        ("peak memory of the process with one file", f"{peak:.2f} GB", "< 3 GB", peak < 3),
    ]
    return rows, found


def _told_of(found: dict[str, Any]) -> str:
    return (
        f"{found['seconds']:.0f} s, {found['unplaced']} of {found['words']} words unplaced, "
        f"TSE {found['tse_ms']:.1f} ms, {found['peak_gb']:.2f} GB"
    )


def _half_hour(
    name: str, precision: LoadedPrecision | None, recordings: list[Recording], minutes: int
) -> dict[str, Any]:
    """Half an hour of one group's recordings, end to end in files of so many minutes at most, aligned one by one."""
    prepare_jax()
    model = bundle.load(name, precision=precision)
    spoken = [r for r in recordings if r.group == recordings[0].group]
    sounds = [(r, audio.read(r.audio) if isinstance(r.audio, Path) else r.audio) for r in spoken]
    files: list[list[tuple[Recording, np.ndarray]]] = [[]]
    total = 0
    for recording, samples in itertools.cycle(sounds):
        if total + len(samples) > 30 * 60 * 16_000:
            break
        if sum(len(s) for _, s in files[-1]) + len(samples) > minutes * 60 * 16_000:
            files.append([])
        files[-1].append((recording, samples))
        total += len(samples)
    seconds, measured, words = 0.0, [], []
    for file in (_join(parts, 16_000) for parts in files):
        started = time.perf_counter()
        samples = np.asarray(file.audio)
        result = align(samples, file.text, model=model, sample_rate=16_000, keep_evidence=False)
        seconds += time.perf_counter() - started
        measured.append(compare(file.reference[0], result, tier="words"))
        words += result.words
    return {
        "files": len(files),
        "minutes": total / 16_000 / 60,
        "seconds": seconds,
        "words": len(words),
        "unplaced": sum(word.status == "unplaced" for word in words),
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "tse_ms": Comparison.pooled(measured).tse_s * 1e3,
    }
