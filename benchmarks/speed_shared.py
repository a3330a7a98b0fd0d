"""What the parts of `speed.py` share: saliency as programs of their own, speech of any size, and medians."""

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from gradalign import audio, bundle
from gradalign.compressed import NARROW, exact_saliency, windowed_saliency
from gradalign.features import log_mel_padded
from gradalign.transcript import Transcript

SIZES = ((2.5, 25), (10.0, 100), (40.0, 400))
"""Seconds and labels; ten labels a second is brisk English."""
EXAMPLE = Path(__file__).parent.parent / "docs" / "examples"

Row = tuple[str, str, str, bool | None]
"""What, measured, bar, and whether it is met (None: no bar)."""

Section = tuple[list[Row], dict[str, Any]]
"""The rows of the table, and all measures behind them."""


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
