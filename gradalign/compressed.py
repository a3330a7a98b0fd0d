"""Saliency of all labels of a transcript for the price of a few passes through the encoder.

A coarse alignment from the CTC head says where each label is; its gradient is then carried through the network in a
window of frames around that place (`gradalign.nn.windowed`). So the cost grows with the labels a second, not with
the labels a recording. What the windows miss is measured, not assumed: a random combination of all labels' gradients
costs one full pull-back, and its difference from the same combination of the windowed ones gives the size of what is
missing at every frame. That size stands in for the gradients outside the windows, and its sum tells whether the
result can be used at all.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gradalign.evidence import ctc_scores, percentile_of
from gradalign.gradients import Reduction, norm, reduced
from gradalign.lattice import NEVER, Topology, viterbi
from gradalign.nn.aed import AED, FEATURES_LEAF
from gradalign.nn.pullback import STEM_REACH
from gradalign.nn.windowed import (
    Pass,
    Windows,
    decoder_cotangents,
    decoder_pull_back,
    encoder_cotangents,
    teacher_forced,
)


class Widths(NamedTuple):
    """Encoder frames of a label's window.

    Attributes:
        upper: In the upper half of the blocks, where gradients have not spread so far yet; not more than ``lower``.
        lower: In the others.
    """

    upper: int
    lower: int


NARROW = Widths(9, 13)
"""At 40 ms a frame 180 ms to both sides of the label, then 260."""
WIDTHS = (NARROW, Widths(25, 25))
"""What is tried one after the other, as long as too much is missed."""
PROBES = 1
"""Random combinations that are pulled back in full."""
UNSURE = 1.0
"""Value of `Compressed.missed` above which the result is not to be used."""
CHUNK = 50
"""Labels pulled back together, at most: 650 rows of a matrix product in the narrow windows. Fewer are slower on a CPU,
and of more a larger part is padding."""


class Compressed(NamedTuple):
    """What `windowed_saliency` finds.

    Attributes:
        saliency: Size of the gradient of each label at each frame, for each leaf and then for each band. Outside a
            label's window it is the same share of all labels' gradients in their windows: the root mean square of what
            the probes found there.
        missed: Estimate of what the windows miss at the first leaf: of the squares of the gradients, relative to the
            label's own in its window, the mean over labels; infinite without a coarse alignment. Labels weaker than the
            median count less. Above about 1 the windows are in the wrong places, or gradients are not local.
        centres: Encoder frame in the middle of each label, by the coarse alignment.
    """

    saliency: tuple[Float[Array, "labels leaf_frames"], ...]
    missed: Float[Array, ""]
    centres: Int[Array, " labels"]


def windowed_saliency(
    network: AED,
    features: Float[Array, "frames mels"],
    labels: Int[Array, " labels"],
    n_frames: Int[Array, ""] | int,
    *,
    depths: tuple[int, ...] = (FEATURES_LEAF,),
    bands: int = 0,
    widths: Widths = NARROW,
    probes: int = PROBES,
    chunk: int = CHUNK,
    history: int = 0,
    kept: Pass | None = None,
) -> Compressed:
    """Saliency of each label at some leaves, as `gradalign.saliency` with "l2", from gradients in windows.

    Pure: use it inside ``jit`` and ``vmap``. The work depends on the true number of labels (rounded up to chunks),
    not on the padded one, and hardly on the number of leaves.

    Args:
        network: The network; its CTC head makes the coarse alignment.
        features: Log-mel frames.
        labels: Ids, all > 0; 0 past the end of the transcript.
        n_frames: Real feature frames.
        depths: The leaves: features (-1), stem output (0), or output of block ``depth``.
        bands: Parts of the mel axis whose gradients at the features are wanted besides.
        widths: Of the windows, 1 <= ``upper`` <= ``lower``; longer ones than the utterance are as long as it, and if
            both are, nothing is left out at the encoder.
        probes: Full pull-backs that measure what is missed, >= 1.
        chunk: Labels pulled back together, about; >= 1. Trades memory for speed.
        history: Positions before its own through which a label is followed into the decoder. As many as there are
            labels leave nothing out.
        kept: What `gradalign.nn.windowed.teacher_forced` gives, where it is known already.

    References:
        The probes are Hutchinson's estimator (1990) of the squared size of a matrix, row by row.
    """
    kept = teacher_forced(network, features, labels, n_frames) if kept is None else kept
    n_encoder = kept.encoded.shape[0]
    upper, lower = (min(width, n_encoder) for width in widths)
    n_labels, real = (labels > 0).sum(), labels > 0
    centres, found = coarse_alignment(network, kept.encoded, labels, n_frames)
    real_encoder = -(-jnp.asarray(n_frames) // network.config.subsampling)
    starts = jnp.clip(centres - lower // 2, 0, jnp.maximum(real_encoder - lower, 0))
    upper_starts = starts + jnp.clip(centres - upper // 2 - starts, 0, lower - upper)
    all_depths = depths + (FEATURES_LEAF,) * (bands > 0 and FEATURES_LEAF not in depths)
    windows = Windows(upper_starts, upper), Windows(starts, lower)
    gradients = _in_windows(network, kept, labels, windows, all_depths, chunk, history)
    strength = jnp.sqrt(jnp.square(norm(gradients[0])).sum(axis=1))
    # A label of which the model is certain has a gradient that is small and everywhere: as strong as the others it
    # would drown them.
    usual = percentile_of(strength, 50.0, real)
    weights = jnp.where(real, 1.0 / jnp.maximum(jnp.maximum(strength, usual), 1e-30), 0.0)[:, None] * _signs(
        len(labels), probes
    )
    cotangents = decoder_pull_back(network, kept, weights.T)
    whole = encoder_cotangents(network, kept, cotangents, None, depths=all_depths)
    count = jnp.maximum(n_labels, 1)
    rows, band_rows, missed = [], [], []
    for depth, windowed, full in zip(all_depths, gradients, whole, strict=True):
        stride, margin = _frames_of(network, depth)
        combined = jnp.zeros((probes, n_encoder * stride + margin, full.shape[2]))
        combined, _ = jax.lax.scan(_add, combined, (weights, starts * stride, windowed))
        squares = jnp.square(full[:, margin:] - combined[:, margin:]).mean(axis=0)
        missed.append(squares.sum() / count)

        def sizes(part: np.ndarray, windowed=windowed, squares=squares, stride=stride, margin=margin) -> Array:
            background = jnp.sqrt(squares[:, part].sum(axis=1) / count)
            spread = _spread(norm(windowed[:, :, part]), strength, starts * stride - margin, background)
            return spread[:, : len(features)] if margin else spread

        axis = np.arange(full.shape[2])
        rows.append(sizes(axis))
        if depth == FEATURES_LEAF:
            band_rows = [sizes(part) for part in np.array_split(axis, bands)] if bands else []
    return Compressed((*rows[: len(depths)], *band_rows), jnp.where(found, missed[0], jnp.inf), centres)


def _frames_of(network: AED, depth: int) -> tuple[int, int]:
    """Leaf frames an encoder frame, and how many of them a window reaches further back than its encoder frames do."""
    return (network.config.subsampling, STEM_REACH) if depth == FEATURES_LEAF else (1, 0)


def _in_windows(
    network: AED,
    kept: Pass,
    labels: Int[Array, " labels"],
    windows: tuple[Windows, Windows],
    depths: tuple[int, ...],
    chunk: int,
    history: int,
) -> tuple[Float[Array, "labels leaf_window leaf_dim"], ...]:
    """The gradient of each label at each leaf, in its window."""
    upper, lower = windows
    # As many chunks as it takes, all of one size; of an even one, which the stem may divide.
    n_chunks = -(-len(labels) // chunk)
    chunk = -(-len(labels) // (2 * n_chunks)) * 2
    empty = []
    for depth in depths:
        stride, margin = _frames_of(network, depth)
        dim = network.config.n_mels if depth == FEATURES_LEAF else network.config.dim
        empty.append(jnp.zeros((n_chunks * chunk, lower.length * stride + margin, dim)))

    def pull(index: Array, gradients: tuple[Array, ...]) -> tuple[Array, ...]:
        rows = jnp.minimum(index * chunk + jnp.arange(chunk), len(labels) - 1)
        here = Windows(upper.starts[rows], upper.length), Windows(lower.starts[rows], lower.length)
        cotangents = decoder_cotangents(network, kept, rows, here[0].starts, window=upper.length, history=history)
        found = encoder_cotangents(network, kept, cotangents, here, depths=depths)
        zero = jnp.zeros_like(index)
        return tuple(
            jax.lax.dynamic_update_slice(all_, these, (index * chunk, zero, zero))
            for all_, these in zip(gradients, found, strict=True)
        )

    found = jax.lax.fori_loop(0, -(-(labels > 0).sum() // chunk), pull, tuple(empty))
    return tuple(gradients[: len(labels)] for gradients in found)


def coarse_alignment(
    network: AED,
    encoded: Float[Array, "encoder_frames dim"],
    labels: Int[Array, " labels"],
    n_frames: Int[Array, ""] | int,
) -> tuple[Int[Array, " labels"], Array]:
    """Encoder frame in the middle of each label by CTC forced alignment, and whether there is any path.

    Args:
        network: The network.
        encoded: Output of its encoder.
        labels: Ids; 0 past the end.
        n_frames: Real feature frames.
    """
    scores, blank = ctc_scores(network.ctc_log_probs(encoded), labels)
    skip_allowed = jnp.concatenate([jnp.ones(1, bool), labels[1:] != labels[:-1]])
    topology = Topology(jnp.ones(len(labels) + 1, bool), skip_allowed)
    n_encoder = -(-jnp.asarray(n_frames) // network.config.subsampling)
    path = viterbi(scores, blank, topology, n_labels=(labels > 0).sum(), n_frames=n_encoder)
    frame = jnp.arange(len(encoded))
    on_label = path.labels[None, :] == jnp.arange(len(labels))[:, None]
    middle = (on_label * frame[None, :]).sum(axis=1) / jnp.maximum(on_label.sum(axis=1), 1)
    return jnp.round(middle).astype(jnp.int32), path.score > NEVER / 10


def _signs(n_labels: int, probes: int) -> Float[Array, "labels probes"]:
    """Plus and minus one at random, but always the same: those of a label depend on its index alone."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(5), jnp.arange(n_labels))
    return jax.vmap(lambda key: jax.random.rademacher(key, (probes,), jnp.float32))(keys)


def exact_saliency(
    network: AED,
    features: Float[Array, "frames mels"],
    labels: Int[Array, " labels"],
    n_frames: Int[Array, ""] | int,
    *,
    depth: int = FEATURES_LEAF,
    reduce: Reduction = "l2",
    budget_bytes: int = 1 << 28,
) -> Float[Array, "labels leaf_frames"]:
    """`gradalign.saliency` of the network's label log-probabilities, to rounding.

    Each label's gradient at the encoder's output comes first, then the pull-back through the encoder by hand-written
    code, for which all labels share what the forward pass kept; norms are taken where gradients are made.

    Args:
        network: The network.
        features: Log-mel frames.
        labels: Ids; 0 past the end of the transcript. Rows of padding are zero, and cost nothing.
        n_frames: Real feature frames.
        depth: The leaf, as in `windowed_saliency`.
        reduce: As in `gradalign.saliency`.
        budget_bytes: Memory that one chunk of labels may take, about.
    """
    kept = teacher_forced(network, features, labels, n_frames)
    leaf = network.to_depth(features, depth, n_frames)
    config, n_encoder = network.config, len(kept.encoded)
    # The widest arrays of a block: three attention maps, and the inside of a feed-forward module.
    label_bytes = 4 * n_encoder * (3 * config.heads * n_encoder + 2 * config.feed_forward_dim)
    chunk = int(np.clip(budget_bytes // label_bytes, 1, min(16, max(len(labels), 1))))
    n_rows = -(-len(labels) // chunk) * chunk

    def pull(index: Array, sizes: Array) -> Array:
        rows = index * chunk + jnp.arange(chunk)
        cotangents = decoder_pull_back(network, kept, jax.nn.one_hot(rows, len(labels)))
        gradients = encoder_cotangents(network, kept, cotangents, None, depths=(depth,))[0]
        if depth == FEATURES_LEAF:
            gradients = gradients[:, STEM_REACH : STEM_REACH + len(features)]
        found = jax.vmap(lambda gradient: reduced(gradient, leaf, reduce))(gradients)
        return jax.lax.dynamic_update_slice(sizes, found, (index * chunk, jnp.zeros_like(index)))

    n_chunks = -(-(labels > 0).sum() // chunk)
    return jax.lax.fori_loop(0, n_chunks, pull, jnp.zeros((n_rows, len(leaf))))[: len(labels)]


def _add(
    total: Float[Array, "probes rows dim"], label: tuple[Array, Array, Array]
) -> tuple[Float[Array, "probes rows dim"], None]:
    """Add one label's gradient to each combination, with its weight there."""
    weights, first, gradient = label
    zero = jnp.zeros_like(first)
    at = (zero, first, zero)
    here = jax.lax.dynamic_slice(total, at, (len(weights), *gradient.shape))
    return jax.lax.dynamic_update_slice(total, here + weights[:, None, None] * gradient[None], at), None


def _spread(
    sizes: Float[Array, "labels window"],
    strength: Float[Array, " labels"],
    first: Int[Array, " labels"],
    background: Float[Array, " frames"],
) -> Float[Array, "labels frames"]:
    """Rows over the whole recording: the label's own sizes in its window, its share of the background outside."""
    length = sizes.shape[1]
    offset = jnp.arange(len(background))[None, :] - first[:, None]
    inside = jnp.take_along_axis(sizes, jnp.clip(offset, 0, length - 1), axis=1)
    outside = strength[:, None] * background[None, :]
    return jnp.where((offset >= 0) & (offset < length), inside, outside)


def worthwhile(n_labels: int, n_encoder: int, widths: Widths = NARROW, *, probes: int = PROBES) -> bool:
    """Whether windows cost less than pulling back every label in full.

    Args:
        n_labels: Labels of the transcript.
        n_encoder: Encoder frames of the recording.
        widths: Of the windows.
        probes: Full pull-backs besides.
    """
    return n_labels * min(widths.lower, n_encoder) / max(n_encoder, 1) + probes < n_labels
