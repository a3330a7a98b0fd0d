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
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from gradalign.evidence import ctc_scores, percentile_of
from gradalign.gradients import Reduction, norm, reduced
from gradalign.lattice import NEVER, Topology, viterbi
from gradalign.nn.aed import AED, FEATURES_LEAF
from gradalign.nn.pullback import STEM_REACH
from gradalign.nn.windowed import (
    AtLeaves,
    Pass,
    Windows,
    decoder_cotangents,
    decoder_pull_back,
    encoder_cotangents,
    teacher_forced,
)

NARROW = 7
"""Encoder frames of a label's window: at 40 ms a frame 140 ms to both sides of the label."""
WIDTHS = (NARROW, 25)
"""What is tried one after the other, as long as too much is missed."""
PROBES = 1
"""Random combinations that are pulled back in full."""
UNSURE = 1.0
"""Value of `Compressed.missed` above which the result is not to be used."""
CHUNK = 100
"""Labels pulled back together, at most: 700 rows of a matrix product in the narrow windows. Fewer are slower on a CPU,
and of more a larger part is padding."""
ROWS = 1250
"""Encoder frames of all their windows, at most: wide windows would take more memory, for little less time."""


class Compressed(NamedTuple):
    """What `windowed_saliency` finds.

    Attributes:
        fine: Size of the gradient of each label at each feature frame, and then at each band of the features. Outside a
            label's window it is the same share of all labels' gradients in their windows: the root mean square of what
            the probes found there. Empty if the features are not among the leaves.
        coarse: The same at the other leaves, in order of depth.
        missed: Estimate of what the windows miss at the lowest leaf: of the squares of the gradients, relative to the
            label's own in its window, the mean over labels; infinite without a coarse alignment. Labels weaker than the
            median count less. Above about 1 the windows are in the wrong places, or gradients are not local.
        centres: Encoder frame in the middle of each label, by the coarse alignment.
    """

    fine: Float[Array, "sizes labels frames"]
    coarse: Float[Array, "leaves labels encoder_frames"]
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
    width: int = NARROW,
    probes: int = PROBES,
    chunk: int = CHUNK,
    history: int = 0,
    kept: Pass | None = None,
) -> Compressed:
    """Saliency of each label at some leaves, as `gradalign.saliency` with "l2", from gradients in windows.

    Pure: use it inside ``jit`` and ``vmap``. The work depends on the true number of labels (rounded up to chunks),
    not on the padded one, and hardly on the number of leaves.

    Args:
        network: The network; its CTC head makes the coarse alignment, and ``windows_in`` says in what gradients are
            multiplied with its kernels.
        features: Log-mel frames.
        labels: Ids, all > 0; 0 past the end of the transcript.
        n_frames: Real feature frames.
        depths: The leaves: features (-1), stem output (0), or output of block ``depth``.
        bands: Parts of the mel axis whose gradients are wanted besides those at the features.
        width: Encoder frames of a window, >= 1; longer ones than the utterance are as long as it, and leave nothing
            out at the encoder.
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
    width = min(width, n_encoder)
    centres, found = coarse_alignment(network, kept.encoded, labels, n_frames)
    network = _for_windows(network)
    real_encoder = -(-jnp.asarray(n_frames) // network.config.subsampling)
    starts = jnp.clip(centres - width // 2, 0, jnp.maximum(real_encoder - width, 0))
    windowed = _in_windows(network, kept, labels, Windows(starts, width), depths, chunk, history)
    lowest = windowed.deeper[0] if windowed.features is None else windowed.features
    strength = jnp.sqrt(jnp.square(norm(lowest)).sum(axis=1))
    weights = _weights(strength, labels > 0, probes)
    whole = encoder_cotangents(network, kept, decoder_pull_back(network, kept, weights.T), None, depths=depths)
    told = _Told(strength, weights, starts, jnp.maximum((labels > 0).sum(), 1), n_encoder)
    fine, missed = jnp.zeros((0, len(labels), len(features))), []
    if windowed.features is not None and whole.features is not None:
        stride = network.config.subsampling
        fine, missing = _spread_out(told, windowed.features, whole.features, bands, stride, STEM_REACH)
        fine = fine[:, :, : len(features)]
        missed.append(missing)
    coarse = jnp.zeros((0, len(labels), n_encoder))
    if len(windowed.deeper):
        by_leaf, missing = jax.vmap(lambda inside, full: _spread_out(told, inside, full, 0, 1, 0))(
            windowed.deeper, whole.deeper
        )
        coarse = by_leaf[:, 0]
        missed.append(missing[0])
    return Compressed(fine, coarse, jnp.where(found, missed[0], jnp.inf), centres)


class _Told(NamedTuple):
    """What is known of the labels at every leaf."""

    strength: Float[Array, " labels"]
    weights: Float[Array, "labels probes"]
    starts: Int[Array, " labels"]
    n_labels: Int[Array, ""]
    n_encoder: int


def _weights(strength: Float[Array, " labels"], real: Bool[Array, " labels"], probes: int) -> Array:
    """Of each label in each random combination: plus or minus one, for gradients as strong as each other."""
    # A label of which the model is certain has a gradient that is small and everywhere: as strong as the others it
    # would drown them.
    usual = percentile_of(strength, 50.0, real)
    scale = jnp.where(real, 1.0 / jnp.maximum(jnp.maximum(strength, usual), 1e-30), 0.0)
    return scale[:, None] * _signs(len(strength), probes)


def _spread_out(
    told: _Told,
    inside: Float[Array, "labels window dim"],
    full: Float[Array, "probes rows dim"],
    bands: int,
    stride: int,
    margin: int,
) -> tuple[Float[Array, "sizes labels frames"], Float[Array, ""]]:
    """Sizes at a leaf and in bands of its axis, in all frames, and what the windows miss.

    Args:
        told: Of the labels.
        inside: Gradients in the windows.
        full: Gradients of the combinations.
        bands: Parts of the leaf's axis.
        stride: Frames of the leaf an encoder frame.
        margin: Frames before the first encoder frame's that windows begin with.
    """
    combined = jnp.zeros((len(full), told.n_encoder * stride + margin, full.shape[2]))
    combined, _ = jax.lax.scan(_add, combined, (told.weights, told.starts * stride, inside))
    squares = jnp.square(full[:, margin:] - combined[:, margin:]).mean(axis=0) / told.n_labels
    sizes, missed = norm(_in_bands(inside, bands)), _in_bands(squares, bands).sum(-1)
    if bands:
        sizes = jnp.concatenate([norm(sizes.transpose(1, 2, 0))[None], sizes])
        missed = jnp.concatenate([missed.sum(0, keepdims=True), missed])
    first = told.starts * stride - margin
    rows = jax.vmap(lambda sizes, missed: _spread(sizes, told.strength, first, jnp.sqrt(missed)))(sizes, missed)
    return rows, missed[0].sum()


def _for_windows(network: AED) -> AED:
    """The network with the kernels that gradients are multiplied with in what `AED.windows_in` says.

    Products of attention, which have no kernel, stay as they are, and what comes out of any product stays float32.
    Rounding moves a gradient by far less than what windows leave out.
    """
    if network.windows_in == "float32":
        return network
    graph, state = nnx.split(network)
    # Codes of distances are no gradients: they are as they were in the forward pass.
    filled = [
        (key, variable.replace(variable[...].astype(network.windows_in)))
        if key[-1] == "kernel" and "position" not in key
        else (key, variable)
        for key, variable in nnx.to_flat_state(state)
    ]
    return nnx.merge(graph, nnx.from_flat_state(filled))


def _in_bands(x: Float[Array, "*rows dim"], bands: int) -> Float[Array, "bands *rows width"]:
    """Parts of the last axis, zeros after the shorter ones; one of all of it for 0."""
    parts = jnp.array_split(x, max(bands, 1), axis=-1)
    width = parts[0].shape[-1]
    return jnp.stack([jnp.pad(part, [(0, 0)] * (x.ndim - 1) + [(0, width - part.shape[-1])]) for part in parts])


def _in_windows(
    network: AED,
    kept: Pass,
    labels: Int[Array, " labels"],
    windows: Windows,
    depths: tuple[int, ...],
    chunk: int,
    history: int,
) -> AtLeaves:
    """The gradient of each label at each leaf, in its window."""
    # As many chunks as it takes, all of one size; of an even one, which the stem may divide.
    chunk = min(chunk, max(ROWS // windows.length, 1))
    n_chunks = -(-len(labels) // chunk)
    chunk = -(-len(labels) // (2 * n_chunks)) * 2

    def pull(index: Array) -> AtLeaves:
        rows = jnp.minimum(index * chunk + jnp.arange(chunk), len(labels) - 1)
        here = Windows(windows.starts[rows], windows.length)
        cotangents = decoder_cotangents(network, kept, rows, here, history=history)
        return encoder_cotangents(network, kept, cotangents, here, depths=depths)

    def put(index: Array, all_: AtLeaves) -> AtLeaves:
        return jax.tree.map(
            lambda all_, these: jax.lax.dynamic_update_slice_in_dim(all_, these, index * chunk, these.ndim - 3),
            all_,
            pull(index),
        )

    def empty(part: jax.ShapeDtypeStruct) -> Array:
        axis = part.ndim - 3
        return jnp.zeros((*part.shape[:axis], n_chunks * chunk, *part.shape[axis + 1 :]), part.dtype)

    nothing = jax.tree.map(empty, jax.eval_shape(pull, jnp.zeros((), jnp.int32)))
    found = jax.lax.fori_loop(0, -(-(labels > 0).sum() // chunk), put, nothing)
    return jax.tree.map(lambda part: jax.lax.slice_in_dim(part, 0, len(labels), axis=part.ndim - 3), found)


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
    budget_bytes: int | None = None,
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
        budget_bytes: Memory that one chunk of labels may take, about. By default 32 MB on CPUs, which are slower with
            more than their caches hold, and 256 MB elsewhere.
    """
    if budget_bytes is None:
        budget_bytes = 1 << 25 if jax.default_backend() == "cpu" else 1 << 28
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
        at_leaf = encoder_cotangents(network, kept, cotangents, None, depths=(depth,))
        if at_leaf.features is None:
            gradients = at_leaf.deeper[0]
        else:
            gradients = at_leaf.features[:, STEM_REACH : STEM_REACH + len(features)]
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


def worthwhile(n_labels: int, n_encoder: int, width: int = NARROW, *, probes: int = PROBES) -> bool:
    """Whether windows cost less than pulling back every label in full.

    Args:
        n_labels: Labels of the transcript.
        n_encoder: Encoder frames of the recording.
        width: Of the windows.
        probes: Full pull-backs besides.
    """
    return n_labels * min(width, n_encoder) / max(n_encoder, 1) + probes < n_labels
