"""What gradients cost: against the usual ways of taking them, in passes through the encoder, and from end to end.

    python benchmarks/speed.py                                     # every section that needs no data
    python benchmarks/speed.py --sections passes tse --manifest ../shared/data/dev.jsonl --json speed.json

Sections: "torch" (one `torch.autograd.grad` a label, same weights; needs torch), "jacrev" (`jax.jacrev` of the whole
function: time, and memory as compiled), "passes" (cost in forward passes of the encoder at 25, 100 and 400 labels),
"tse" (compressed against exact boundaries; needs a manifest with references), "precision" (bfloat16 against float32,
boundaries and time; needs a manifest), "rtf" (real-time factor on the manifest), "batch" (several utterances in one
compiled call against one after the other, and a folder with several jobs against one; needs a manifest), "long" (half
an hour in one file: cost against files of a minute, memory; needs a manifest), "startup" (new processes on a 5 s file),
"viterbi" (1500 frames x 200 labels, against ctc-forced-aligner where it is installed).
Ratios are of medians of one run, interleaved, after warm-up. Run it on an idle machine.
"""

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, cast, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from peers import pocketsphinx_align
from sources import Recording, about, from_manifest

from gradalign import audio, bundle, corpus, io
from gradalign._types import LoadedPrecision, Method
from gradalign.aligner import align
from gradalign.alignment import Interval, Tier
from gradalign.buckets import pad
from gradalign.cache import prepare_jax
from gradalign.compressed import NARROW, UNSURE, WIDTHS, exact_saliency, windowed_saliency
from gradalign.errors import GradalignError
from gradalign.evidence import log_saliency, normalise, silence_score
from gradalign.features import log_mel_padded
from gradalign.lattice import Topology, viterbi
from gradalign.metrics import Comparison, compare
from gradalign.placement import place
from gradalign.readout import first_trusted
from gradalign.signals import chosen, signal_names
from gradalign.transcript import Transcript

SIZES = ((2.5, 25), (10.0, 100), (40.0, 400))
"""Seconds and labels; ten labels a second is brisk English."""
EXAMPLE = Path(__file__).parent.parent / "docs" / "examples"
SECTIONS = ("torch", "jacrev", "passes", "tse", "precision", "rtf", "batch", "long", "startup", "viterbi")

Row = tuple[str, str, str, bool | None]
"""What, measured, bar, and whether it is met (None: no bar)."""


@partial(jax.jit, static_argnames="graph")
def exact_matrix(graph, state, features, n_frames, labels):
    """Saliency of all labels at the features, each followed through the whole recording."""
    return exact_saliency(nnx.merge(graph, state), features, labels, n_frames)


@partial(jax.jit, static_argnames=("graph", "width"))
def windowed_matrix(graph, state, features, n_frames, labels, *, width=NARROW):
    """The same from windows."""
    return windowed_saliency(nnx.merge(graph, state), features, labels, n_frames, width=width)


def medians(functions: dict[str, Callable[[], Any]], n: int) -> dict[str, float]:
    """Median seconds of each function, run by turns after one round of warm-up."""
    for function in functions.values():
        jax.block_until_ready(function())
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(n):
        for name, function in functions.items():
            started = time.perf_counter()
            jax.block_until_ready(function())
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(times) for name, times in seconds.items()}


def speech(model: bundle.Bundle, seconds: float, n_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of the bundled recording, repeated and cut to a size."""
    waveform = audio.read(EXAMPLE / "example.wav", sample_rate=model.features.sample_rate)
    text = (EXAMPLE / "example.txt").read_text("utf-8")
    features = log_mel_padded(waveform, model.features)
    labels = model.ids(Transcript.from_text(text).labels)
    n_frames = round(seconds * 100)
    return (
        np.tile(features, (-(-n_frames // len(features)), 1))[:n_frames],
        np.tile(labels, -(-n_labels // len(labels)))[:n_labels],
    )


def torch_section(model: bundle.Bundle, n: int) -> tuple[list[Row], dict[str, Any]]:
    """All-label saliency against one backward pass a label in PyTorch, 10 s and 100 labels."""
    if find_spec("torch") is None:
        return [("one torch.autograd.grad a label", "torch is not installed", "", None)], {}
    import torch  # pyright: ignore[reportMissingImports]
    from torch_aed import TorchAED, saliency

    torch.set_num_threads(os.cpu_count() or 1)
    features, labels = speech(model, 10.0, 100)
    graph, state = nnx.split(model.network)
    reference = TorchAED(model.network)
    exact = partial(exact_matrix, graph, state, features, len(features), labels)
    compressed = partial(windowed_matrix, graph, state, features, len(features), labels)
    ours, theirs = np.asarray(exact()), saliency(reference, features, labels)
    difference = float(np.abs(ours - theirs).max() / theirs.max())
    seconds = medians(
        {"torch": lambda: saliency(reference, features, labels), "exact": exact, "compressed": compressed}, n
    )
    ratio, ratio_exact = seconds["torch"] / seconds["compressed"], seconds["torch"] / seconds["exact"]
    # A pull-back multiplies at least as much as the forward pass: one product for each of a linear layer's.
    products = len(labels) * _encoder_flops(model, features) / _matmul_peak(n)
    rows: list[Row] = [
        ("largest difference from PyTorch, of the largest entry", f"{difference:.1e}", "<= 1e-3", difference <= 1e-3),
        ("PyTorch, one backward a label", f"{seconds['torch'] * 1e3:.0f} ms", "", None),
        ("exact against PyTorch", f"{ratio_exact:.1f}x", ">= 5x", ratio_exact >= 5),
        (
            "exact, if its matrix products ran at this machine's peak and nothing else took time",
            f"{seconds['torch'] / products:.1f}x",
            "",
            None,
        ),
        ("compressed against PyTorch", f"{ratio:.1f}x", ">= 20x", ratio >= 20),
    ]
    return rows, {"seconds": seconds | {"products of exact at peak": products}, "difference": difference}


def _encoder_flops(model: bundle.Bundle, features: np.ndarray) -> float:
    """Floating-point operations of one pass through the encoder, of whose blocks XLA counts one."""
    graph, state = nnx.split(model.network)

    def up_to(depth: int) -> float:
        return _flops(jax.jit(lambda state, x: nnx.merge(graph, state).to_depth(x, depth)).lower(state, features))

    n_blocks = model.network.config.encoder_layers
    return up_to(0) + n_blocks * (up_to(n_blocks) - up_to(0))


def _matmul_peak(n: int) -> float:
    """Floating-point operations a second of a large product of float32 matrices."""
    size = 2048
    matrix = jnp.asarray(np.random.default_rng(0).normal(size=(size, size)), jnp.float32)
    product = jax.jit(jnp.matmul)
    return 2 * size**3 / medians({"product": lambda: product(matrix, matrix)}, n)["product"]


def jacrev_section(model: bundle.Bundle, n: int) -> tuple[list[Row], dict[str, Any]]:
    """Against `jax.jacrev` of the whole function, 10 s and 100 labels."""
    features, labels = speech(model, 10.0, 100)
    graph, state = nnx.split(model.network)

    @jax.jit
    def naive(state, features, labels):
        network = nnx.merge(graph, state)
        jacobian = jax.jacrev(lambda x: network.label_log_probs(x, labels, len(features)))(features)
        return jnp.sqrt(jnp.square(jacobian).sum(-1))

    arguments = (state, features, len(features), labels)
    functions = {
        "jacrev": partial(naive, state, features, labels),
        "exact": partial(exact_matrix, graph, *arguments),
        "compressed": partial(windowed_matrix, graph, *arguments),
    }
    memory = {
        "jacrev": _memory(naive.lower(state, features, labels)),
        "exact": _memory(exact_matrix.lower(graph, *arguments)),
        "compressed": _memory(windowed_matrix.lower(graph, *arguments)),
    }
    seconds = medians(functions, max(n // 2, 3))
    rows: list[Row] = []
    for name in ("exact", "compressed"):
        faster, smaller = seconds["jacrev"] / seconds[name], memory["jacrev"] / memory[name]
        judged = name == "compressed"
        rows += [
            (f"{name} against jax.jacrev, time", f"{faster:.1f}x", ">= 5x" if judged else "", faster >= 5 or None),
            (f"{name} against jax.jacrev, memory", f"{smaller:.1f}x", ">= 5x" if judged else "", smaller >= 5 or None),
        ]
        if judged:
            rows[-2:] = [(*row[:3], value >= 5) for row, value in zip(rows[-2:], (faster, smaller), strict=True)]
    return rows, {"seconds": seconds, "bytes": memory}


def _memory(lowered: Any) -> int:
    """Bytes of temporary arrays of a compiled program."""
    return int(lowered.compile().memory_analysis().temp_size_in_bytes)


def passes_section(model: bundle.Bundle, n: int) -> tuple[list[Row], dict[str, Any]]:
    """Cost of all labels' saliency in forward passes of the encoder, everything at its true size."""
    graph, state = nnx.split(model.network)

    @jax.jit
    def encode(state, features):
        return nnx.merge(graph, state).encode(features)[0]

    rows: list[Row] = []
    found: dict[str, Any] = {}
    for seconds_of_speech, n_labels in SIZES:
        features, labels = speech(model, seconds_of_speech, n_labels)
        arguments = (state, features, len(features), labels)
        functions = {
            "encoder": partial(encode, state, features),
            "exact": partial(exact_matrix, graph, *arguments),
            "compressed": partial(windowed_matrix, graph, *arguments),
        }
        flops = {
            "encoder": _flops(encode.lower(state, features)),
            "compressed": _flops(windowed_matrix.lower(graph, *arguments)),
        }
        if n_labels > 100:  # minutes, and nothing new
            del functions["exact"]
        seconds = medians(functions, n)
        cost = seconds["compressed"] / seconds["encoder"]
        exact = f", exact {seconds['exact'] / seconds['encoder']:.1f}" if "exact" in seconds else ""
        what = f"passes for {n_labels} labels in {seconds_of_speech:g} s (encoder {seconds['encoder'] * 1e3:.1f} ms)"
        rows.append((what, f"{cost:.1f}{exact}", "<= 20 (aim 10)", cost <= 20))
        found[str(n_labels)] = {"seconds": seconds, "flops": flops}
    return rows, found


def _flops(lowered: Any) -> float:
    """Floating-point operations as XLA counts them; the bodies of loops count once."""
    return float(lowered.compile().cost_analysis().get("flops", 0.0))


def tse_section(model: bundle.Bundle, recordings: list[Recording], limit: int) -> tuple[list[Row], dict[str, Any]]:
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


def precision_section(name: str, recordings: list[Recording], limit: int) -> tuple[list[Row], dict[str, Any]]:
    """Word boundaries and time of methods with a network in bfloat16, against float32."""
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


def rtf_section(model: bundle.Bundle, recordings: list[Recording], limit: int) -> tuple[list[Row], dict[str, Any]]:
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


def batch_section(
    model: bundle.Bundle, recordings: list[Recording], limit: int, n: int
) -> tuple[list[Row], dict[str, Any]]:
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


def long_section(name: str, recordings: list[Recording]) -> tuple[list[Row], dict[str, Any]]:
    """Half an hour in one file, against the same speech in files of a minute: cost, peak memory, boundaries."""
    found: dict[str, dict[str, Any]] = {}
    for what, minutes in (("files of a minute", 1), ("one file", 30)):  # each in a process of its own, for its memory
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            found[what] = pool.submit(_half_hour, name, recordings, minutes).result()
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


def _half_hour(name: str, recordings: list[Recording], minutes: int) -> dict[str, Any]:
    """Half an hour of one group's recordings, end to end in files of so many minutes at most, aligned one by one."""
    prepare_jax()
    model = bundle.load(name)
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


def startup_section(name: str) -> tuple[list[Row], dict[str, Any]]:
    """Seconds of a new process that aligns 5 s of speech, with an empty compilation cache and a filled one."""
    model = bundle.load(name)
    with tempfile.TemporaryDirectory() as folder:
        waveform = audio.read(EXAMPLE / "example.wav", sample_rate=model.features.sample_rate)
        text = (EXAMPLE / "example.txt").read_text("utf-8")
        repeat = max(round(5.0 * 16_000 / len(waveform)), 1)
        import soundfile

        soundfile.write(f"{folder}/five.wav", np.tile(waveform, repeat)[: 5 * 16_000], 16_000)
        Path(f"{folder}/five.txt").write_text(" ".join([text.strip()] * repeat), "utf-8")
        command = [sys.executable, "-m", "gradalign", "align", f"{folder}/five.wav", f"{folder}/five.txt"]
        command += ["--model", name, "-o", f"{folder}/out.TextGrid", "--overwrite", "--quiet"]
        environment = os.environ | {"GRADALIGN_CACHE": folder}
        seconds = []
        for _ in range(6):
            started = time.perf_counter()
            subprocess.run(command, check=True, env=environment)
            seconds.append(time.perf_counter() - started)
    cold, warm = seconds[0], statistics.median(seconds[1:])
    rows: list[Row] = [
        ("new process, 5 s file, empty cache", f"{cold:.1f} s", "<= 12 s", cold <= 12),
        ("new process, 5 s file, filled cache", f"{warm:.1f} s", "<= 5 s", warm <= 5),
    ]
    return rows, {"cold": cold, "warm": warm}


def viterbi_section(n: int) -> tuple[list[Row], dict[str, Any]]:
    """The lattice on 1500 frames x 200 labels against the C++ kernel of ctc-forced-aligner."""
    n_frames, n_labels, vocabulary = 1500, 200, 40
    rng = np.random.default_rng(0)
    log_probs = np.asarray(jax.nn.log_softmax(jnp.asarray(3 * rng.normal(size=(n_frames, vocabulary)), jnp.float32)))
    labels = rng.integers(1, vocabulary, n_labels)
    topology = Topology.ctc(labels.tolist())
    scores, blank = jnp.asarray(log_probs[:, labels].T), jnp.asarray(log_probs[:, 0])
    ours = jax.jit(viterbi)
    functions: dict[str, Callable[[], Any]] = {"ours": lambda: ours(scores, blank, topology)}
    if find_spec("ctc_forced_aligner") is not None:
        from ctc_forced_aligner import forced_align  # pyright: ignore[reportMissingImports]

        batch, targets = log_probs[None], labels[None].astype(np.int64)
        functions["ctc-forced-aligner"] = lambda: forced_align(batch, targets, blank=0)[0]
    seconds = medians(functions, n)
    rows: list[Row] = [("Viterbi, 1500 frames x 200 labels", f"{seconds['ours'] * 1e3:.2f} ms", "", None)]
    if "ctc-forced-aligner" in seconds:
        theirs = seconds["ctc-forced-aligner"]
        rows[0] = (*rows[0][:2], f"<= {theirs * 1e3:.2f} ms (ctc-forced-aligner)", seconds["ours"] <= theirs)
    return rows, {"seconds": seconds}


def main() -> int:
    """Measure, print a table, write JSON; 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--model", default=bundle.DEFAULT, help="name or folder")
    parser.add_argument("--manifest", type=Path, help="recordings with references, for tse and rtf")
    parser.add_argument("--refs", type=Path, help="reference times (default: <manifest>_refs.jsonl)")
    parser.add_argument("--limit", type=int, default=20, help="recordings of about 10 s in tse, and files in rtf")
    parser.add_argument("-n", type=int, default=5, help="timings of each, of which the median counts")
    parser.add_argument("--json", type=Path, help="write all measures here")
    args = parser.parse_args()
    prepare_jax()
    model = bundle.load(args.model)
    recordings: list[Recording] = []
    if args.manifest is not None:
        refs = args.refs or args.manifest.with_name(args.manifest.stem + "_refs.jsonl")
        recordings = list(from_manifest(args.manifest, refs, None, None))
    measures: dict[str, Any] = {**about(model)}
    sections: dict[str, Callable[[], tuple[list[Row], dict[str, Any]]]] = {
        "torch": lambda: torch_section(model, args.n),
        "jacrev": lambda: jacrev_section(model, args.n),
        "passes": lambda: passes_section(model, args.n),
        "tse": lambda: tse_section(model, recordings, args.limit),
        "precision": lambda: precision_section(args.model, recordings, args.limit),
        "rtf": lambda: rtf_section(model, recordings, args.limit),
        "batch": lambda: batch_section(model, recordings, args.limit, args.n),
        "long": lambda: long_section(args.model, recordings),
        "startup": lambda: startup_section(args.model),
        "viterbi": lambda: viterbi_section(args.n),
    }
    missed = 0
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
