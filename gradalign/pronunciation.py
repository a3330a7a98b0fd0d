"""Which of the pronunciations of each word was said, by the model's own log-probability."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from gradalign.bundle import Bundle
from gradalign.cache import by_shape
from gradalign.evidence import ctc_scores
from gradalign.lattice import Topology, forward_backward
from gradalign.nn.aed import AED
from gradalign.transcript import Transcript

CTC_WEIGHT = 0.5
"""Share of the CTC head in the log-probability of a transcript; the rest is the decoder's."""
_TOGETHER = 16
_STEP = 32  # label sequences are padded to multiples of this


def chosen_variants(
    bundle: Bundle, transcript: Transcript, features: Float[np.ndarray, "frames mels"], n_frames: int
) -> Transcript:
    """The transcript with the pronunciation of each word that the model finds most probable.

    Each variant is tried in place of its word's first one, all other words as they are; where one makes the whole
    transcript more probable, the best one is taken. Variants with a label that the model lacks are passed over.

    Args:
        bundle: The model.
        transcript: With the variants of its units; one without any comes back as it is.
        features: Log-mel frames, may be padded.
        n_frames: Real frames.

    Returns:
        The transcript, with other labels where another variant is better.
    """
    tries = _tries(bundle, transcript)
    if not tries:
        return transcript
    sequences = [bundle.ids(transcript.labels)]
    sequences += [bundle.ids(with_variants(transcript, {unit: k}).labels) for unit, k in tries]
    scores = log_probs(bundle, sequences, features, n_frames)
    best: dict[int, tuple[float, int]] = {}
    for (unit, k), score in zip(tries, scores[1:], strict=True):
        if score > max(scores[0], best.get(unit, (-np.inf, 0))[0]):
            best[unit] = (float(score), k)
    return with_variants(transcript, {unit: k for unit, (_, k) in best.items()})


def with_variants(transcript: Transcript, choice: dict[int, int]) -> Transcript:
    """The transcript with these variants of its units, and of the others the first.

    Args:
        transcript: With the variants of its units.
        choice: Unit to index of its variant.
    """
    word_of_unit = dict(zip(transcript.unit_of_label, transcript.word_of_label, strict=True))
    labels: list[str] = []
    units: list[int] = []
    for unit, variants in enumerate(transcript.variants):
        phones = variants[choice.get(unit, 0)].phones
        labels += phones
        units += [unit] * len(phones)
    return replace(
        transcript,
        labels=tuple(labels),
        unit_of_label=tuple(units),
        word_of_label=tuple(word_of_unit[unit] for unit in units),
    )


def log_probs(
    bundle: Bundle,
    sequences: Sequence[Int[np.ndarray, " _labels"]],
    features: Float[np.ndarray, "frames mels"],
    n_frames: int,
) -> Float[np.ndarray, " sequences"]:
    """Log-probability of whole label sequences: a weighted mean of decoder (with the sentence end) and CTC head.

    Args:
        bundle: The model.
        sequences: Ids of labels, none of them 0.
        features: Log-mel frames, may be padded.
        n_frames: Real frames.
    """
    graph, state = nnx.split(bundle.network)
    # One position more than labels: the sentence end is scored, too.
    width = -(-(max(map(len, sequences)) + 1) // _STEP) * _STEP
    found: list[np.ndarray] = []
    for first in range(0, len(sequences), _TOGETHER):
        part = list(sequences[first : first + _TOGETHER])
        counts = np.array([len(s) for s in part] + [1] * (_TOGETHER - len(part)))
        rows = np.zeros((_TOGETHER, width), np.int32)
        touch = np.ones((_TOGETHER, width), bool)
        for row, (ids, may_touch) in enumerate(zip(part, map(_may_touch, part), strict=True)):
            rows[row, : len(ids)] = ids
            touch[row, : len(ids)] = may_touch
        found.append(np.asarray(_log_probs(graph, state, features, n_frames, rows, touch, counts))[: len(part)])
    return np.concatenate(found)


def _may_touch(ids: Int[np.ndarray, " labels"]) -> Bool[np.ndarray, " labels"]:
    return np.array([True, *(a != b for a, b in pairwise(ids.tolist()))])


def _tries(bundle: Bundle, transcript: Transcript) -> list[tuple[int, int]]:
    """Units and variants to be tried; the first one of each unit is what the transcript holds."""
    known = set(bundle.labels)
    return [
        (unit, k)
        for unit, variants in enumerate(transcript.variants)
        for k, variant in enumerate(variants)
        if k > 0 and known.issuperset(variant.phones)
    ]


@partial(by_shape, static_argnames=("graph",))
def _log_probs(graph: Any, state: Any, features, n_frames, rows, touch, counts):
    network: AED = nnx.merge(graph, state)
    encoded, valid, _ = network.encode(features, n_frames)
    ctc = network.ctc_log_probs(encoded)
    n_encoder = valid.sum()

    def one(
        ids: Int[Array, " labels"], may_touch: Bool[Array, " labels"], n_labels: Int[Array, ""]
    ) -> Float[Array, ""]:
        history = jnp.concatenate([jnp.zeros((1,), ids.dtype), ids[:-1]])
        by_label, _ = network.decoder(history, encoded, valid)
        chosen = jnp.take_along_axis(by_label, ids[:, None], axis=1)[:, 0]  # past the labels stands 0, the sentence end
        decoder = jnp.where(jnp.arange(len(ids)) <= n_labels, chosen, 0.0).sum()
        topology = Topology(jnp.ones(len(ids) + 1, bool), may_touch)
        heard = forward_backward(*ctc_scores(ctc, ids), topology, n_labels=n_labels, n_frames=n_encoder).log_total
        return (1 - CTC_WEIGHT) * decoder + CTC_WEIGHT * heard

    return jax.vmap(one)(rows, touch, counts)
