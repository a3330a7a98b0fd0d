"""Sections of `speed.py` that need no recordings: gradients and lattice against the usual ways, and new processes."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from speed_shared import EXAMPLE, SIZES, Row, Section, exact_matrix, medians, speech, windowed_matrix

from gradalign import audio, bundle
from gradalign._types import LoadedPrecision
from gradalign.lattice import Topology, viterbi


def torch_section(model: bundle.Bundle, n: int) -> Section:
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
    difference = _apart(ours, theirs)
    # How local gradients are: an exact matrix cannot be had from windows that leave out more than rounding.
    local = {
        width: _apart(np.asarray(windowed_matrix(*compressed.args, width=width).fine[0]), ours) for width in (25, 121)
    }
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
        *(
            (f"windows of {width} frames, largest difference from exact", f"{d:.1e}", "", None)
            for width, d in local.items()
        ),
        ("compressed against PyTorch", f"{ratio:.1f}x", ">= 20x", ratio >= 20),
    ]
    found = {"seconds": seconds | {"products of exact at peak": products}, "difference": difference}
    return rows, found | {"differences of windows from exact": local}


def _apart(found: np.ndarray, reference: np.ndarray) -> float:
    """Largest difference, of the largest entry."""
    return float(np.abs(found - reference).max() / reference.max())


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


def jacrev_section(model: bundle.Bundle, n: int) -> Section:
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


def passes_section(model: bundle.Bundle, n: int) -> Section:
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


def viterbi_section(n: int) -> Section:
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


def startup_section(name: str, precision: LoadedPrecision | None) -> Section:
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
        command += ["--precision", precision] if precision else []
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
