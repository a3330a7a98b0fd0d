"""From raw signals (saliency, attention, CTC posteriors) to the scores of labels and of silence at each frame.

What comes out goes into `gradalign.lattice`. ``n_labels`` and ``n_frames`` are the true sizes of a padded utterance:
padding changes nothing else. No number here depends on the length or the frame rate of the recording.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gradalign._arrays import Labels, Scores

_FLOOR = 1e-6
"""Smallest share of a row's maximum that is told apart from zero."""


def log_saliency(saliency: Float[Array, "labels frames"], *, n_frames: int | Int[Array, ""] | None = None) -> Scores:
    """How the evidence of each label is spread over time, as a log-distribution over frames.

    ``L[s, t] = log G[s, t] - logsumexp_t log G[s, t]``. The normalisation takes away how confident the model is of the
    label, and with it any per-label gain of the gradients. Entries below 1e-6 of the row's largest are raised to it; a
    row of zeros becomes uniform.

    Args:
        saliency: Size of the gradient, >= 0.
        n_frames: True number of frames if padded.

    Returns:
        Rows whose exponentials sum to one; 0 on padded frames.

    References:
        Schmitt et al. 2025, arXiv 2410.00680: log and softmax over time.
    """
    real = _real(saliency.shape[1], n_frames)[None, :]
    logs = _floored_log(saliency, real)
    total = jax.nn.logsumexp(logs, axis=1, where=real, keepdims=True)
    return jnp.where(real, logs - total, 0.0)


def attention_scores(
    attention: Float[Array, "labels frames"], *, n_frames: int | Int[Array, ""] | None = None
) -> Scores:
    """Log of attention weights, for dynamic time warping: `viterbi` with `Topology.no_silence`.

    Args:
        attention: Weight of each frame for each label, >= 0.
        n_frames: True number of frames if padded.

    Returns:
        The logs, floored at 1e-6 of the row's maximum; 0 on padded frames.
    """
    return _floored_log(attention, _real(attention.shape[1], n_frames)[None, :])


def ctc_scores(
    log_probs: Float[Array, "frames vocabulary"], labels: Labels, *, blank: int = 0
) -> tuple[Scores, Float[Array, " frames"]]:
    """Scores of the labels and of blank, for CTC forced alignment: `viterbi` with `Topology.ctc`.

    Args:
        log_probs: Log-probability of each symbol at each frame.
        labels: Label ids, none of them blank.
        blank: Id of the blank.

    Returns:
        Scores of labels, and of silence.

    References:
        Graves et al. 2006, "Connectionist temporal classification", section 4.1.
    """
    return log_probs[:, labels].T, log_probs[:, blank]


def silence_score(
    scores: Scores,
    *,
    kind: Literal["flipped", "zscore"] = "flipped",
    percentile: float = 65.0,
    kappa: float = 1.5,
    n_labels: int | Int[Array, ""] | None = None,
    n_frames: int | Int[Array, ""] | None = None,
) -> Float[Array, " frames"]:
    """Score of silence at each frame, calibrated on the utterance itself.

    "flipped" mirrors the evidence for speech, ``r_t = mean_s L[s, t]``, at a level of its own: ``2 c - r_t`` with c the
    percentile of r over time. Silence is strong where labels are weak. "zscore" asks a label to stand out from the
    others at its frame: ``m_t + kappa d_t``, with m and d the mean and standard deviation over labels.

    Args:
        scores: What `log_saliency` returns.
        kind: Which of the two.
        percentile: In [0, 100], "flipped" only: higher means more silence. The error is flat between 60 and 90.
        kappa: "zscore" only: higher means more silence; 1 to 2 is usual.
        n_labels: True number of labels if padded.
        n_frames: True number of frames if padded.

    Returns:
        Silence scores, comparable with ``scores``.

    Raises:
        ValueError: If the kind is unknown or the percentile out of range.

    References:
        Schmitt et al. 2025, arXiv 2410.00680, and the public code of its authors.
    """
    if kind not in ("flipped", "zscore"):
        raise ValueError(f'kind must be "flipped" or "zscore", got {kind!r}')
    if not 0 <= percentile <= 100:
        raise ValueError(f"percentile must be in [0, 100], got {percentile}")
    mean, deviation = _over_labels(scores, n_labels)
    if kind == "zscore":
        return mean + kappa * deviation
    level = percentile_of(mean, percentile, _real(scores.shape[1], n_frames))
    return 2 * level - mean


def normalise(
    scores: Scores, silence: Float[Array, " frames"], *, n_labels: int | Int[Array, ""] | None = None
) -> tuple[Scores, Float[Array, " frames"]]:
    """Log-probabilities of labels and silence that sum to one in each frame.

    Every path spends one score a frame, so this changes all of them alike: neither the best path nor any posterior
    moves. It makes the score of a path readable as a log-probability.

    Args:
        scores: Score of each label at each frame.
        silence: Score of silence at each frame.
        n_labels: True number of labels if padded; the others do not count.

    Returns:
        Scores of labels, and of silence.
    """
    real = _real(scores.shape[0], n_labels)[:, None]
    together = jnp.concatenate([silence[None, :], scores])
    counted = jnp.concatenate([jnp.ones((1, 1), bool), real])
    total = jax.nn.logsumexp(together, axis=0, where=counted)
    return scores - total[None, :], silence - total


def upsample(
    scores: Float[Array, "labels coarse"],
    factor: int,
    n_frames: int,
    *,
    n_coarse: int | Int[Array, ""] | None = None,
) -> Scores:
    """Scores at the rate of the features, interpolated linearly from the coarser rate of an encoder.

    Coarse frame j is centred on frame ``j * factor``, as symmetric strided layers leave it. Frames after the last
    centre repeat it.

    Args:
        scores: One column a coarse frame.
        factor: Frames a coarse frame, >= 1.
        n_frames: Columns of the result.
        n_coarse: True number of coarse frames if padded.

    Returns:
        One column a frame.

    Raises:
        ValueError: If the factor is not positive.
    """
    if factor < 1:
        raise ValueError(f"factor must be at least 1 frame a coarse frame, got {factor}")
    frame = jnp.arange(n_frames)
    last = (scores.shape[1] if n_coarse is None else n_coarse) - 1
    left = jnp.minimum(frame // factor, last)
    right = jnp.minimum(left + 1, last)
    weight = ((frame % factor) / factor).astype(scores.dtype)[None, :]
    return (1 - weight) * scores[:, left] + weight * scores[:, right]


def _real(size: int, count: int | Int[Array, ""] | None) -> Bool[Array, " size"]:
    """Which entries of an axis are not padding."""
    return jnp.arange(size) < (size if count is None else count)


def _floored_log(values: Float[Array, "labels frames"], real: Bool[Array, "1 frames"]) -> Float[Array, "labels frames"]:
    """Log of the values, each at least `_FLOOR` of the largest in its row; 0 on padded frames."""
    peak = jnp.where(real, values, 0.0).max(axis=1, keepdims=True)
    scale = jnp.where(peak >= jnp.finfo(values.dtype).tiny, peak, 1.0)
    shares = jnp.maximum(values / scale, _FLOOR)
    return jnp.where(real, jnp.log(shares) + jnp.log(scale), 0.0)


def _over_labels(
    scores: Scores, n_labels: int | Int[Array, ""] | None
) -> tuple[Float[Array, " frames"], Float[Array, " frames"]]:
    """Mean and standard deviation over labels in each frame."""
    real = _real(scores.shape[0], n_labels)[:, None]
    count = jnp.maximum(real.sum(), 1)
    mean = jnp.where(real, scores, 0.0).sum(axis=0) / count
    variance = jnp.where(real, jnp.square(scores - mean[None, :]), 0.0).sum(axis=0) / count
    # The square root has an infinite slope at zero, which is where one label alone is.
    deviation = jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1.0)), 0.0)
    return mean, deviation


def percentile_of(values: Float[Array, " frames"], percent: float, real: Bool[Array, " frames"]) -> Float[Array, ""]:
    """Percentile of the real entries with linear interpolation, as `numpy.percentile`."""
    ordered = jnp.sort(jnp.where(real, values, jnp.inf))
    position = (real.sum() - 1) * (percent / 100)
    below = jnp.floor(position).astype(jnp.int32)
    above = jnp.ceil(position).astype(jnp.int32)
    weight = position - below
    return (1 - weight) * ordered[below] + weight * ordered[above]
