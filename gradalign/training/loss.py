"""What training minimises: decoder, CTC, and what known times teach."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from gradalign.evidence import upsample
from gradalign.gradients import saliency
from gradalign.nn.aed import AED
from gradalign.nn.config import FEATURES_LEAF, leaf_depth
from gradalign.training.augment import augment
from gradalign.training.config import AugmentConfig, LossConfig
from gradalign.training.data import Batch

MAX_POSITION = 300.0
"""First position codes of the decoder in training reach up to here, so that long recordings meet none never seen."""

CTC_LIMIT = 20.0
"""Largest CTC loss a label: an utterance without a path costs this much and has no gradient."""


class Shares(NamedTuple):
    """What changes from update to update; all in [0, 1], None where it is 1 throughout.

    Attributes:
        augment: Share of examples that are changed.
        guide: Weight of the losses on exact times.
        self_attention: Share of the encoder's learned self-attention.
        cross_attention: Share of the decoder's learned cross-attention.
    """

    augment: Float[Array, ""]
    guide: Float[Array, ""]
    self_attention: Float[Array, ""] | None
    cross_attention: Float[Array, ""] | None


def losses(
    network: AED,
    batch: Batch,
    key: PRNGKeyArray,
    shares: Shares,
    config: LossConfig,
    augmentation: AugmentConfig,
    *,
    with_saliency: bool = False,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss a label, and what it is made of.

    Args:
        network: The model.
        batch: Examples of one bucket.
        key: Augmentation, positions and dropout.
        shares: What holds at this update.
        config: Weights.
        augmentation: How examples are changed.
        with_saliency: Whether the saliency itself is trained at this update.

    Returns:
        The loss; and by name ``loss``, ``attention`` (smoothed cross-entropy of the decoder), ``ctc``,
        ``frame`` and ``guide`` (see `timing_losses`), ``saliency``, ``boundary`` and ``silence`` (see
        `saliency_losses`) and ``accuracy`` (of the decoder given the right history).
    """
    n_examples, n_rows = batch.features.shape[:2]
    keys = jax.random.split(jax.random.fold_in(key, 0), (n_examples, 3))
    batch = _augmented(batch, shares.augment, augmentation, keys[:, 0])
    # Half of the examples start at position 0, as all do later; the others at positions that only long
    # recordings reach.
    drawn = jax.vmap(jax.random.uniform)(keys[:, 1]) * 2 * MAX_POSITION - MAX_POSITION
    position = jnp.floor(jnp.maximum(drawn, 0.0)) * (shares.augment > 0)

    def one(x, n, y, p, k):
        return network.training_pass(
            x,
            n,
            y,
            k,
            first_position=p,
            self_attention=shares.self_attention,
            cross_attention=shares.cross_attention,
            ctc_blocks=config.ctc_blocks,
        )

    out = jax.vmap(one)(batch.features, batch.n_frames, batch.labels, position, keys[:, 2])
    decoder_loss, accuracy = decoder_losses(out.log_probs, batch, config.label_smoothing)
    subsampling = n_rows // out.ctc_log_probs.shape[2]
    ctc_loss = jax.vmap(lambda heard: ctc_losses(heard, batch, subsampling), 1)(out.ctc_log_probs)
    own = (1 - config.ctc_blocks_share) if config.ctc_blocks else 1.0
    middle = ctc_loss[:-1].mean() * (1 - own) if config.ctc_blocks else 0.0
    loss = (1 - config.ctc) * decoder_loss + config.ctc * (own * ctc_loss[-1] + middle)
    frame_loss, guide_loss = timing_losses(batch, out.ctc_log_probs[:, -1], out.attention, subsampling)
    loss = loss + shares.guide * (frame_loss + guide_loss)
    parts = {"attention": decoder_loss, "ctc": ctc_loss[-1], "frame": frame_loss, "guide": guide_loss}
    if with_saliency:
        spread, meeting, quiet = saliency_losses(network, batch, jax.random.fold_in(key, 1), config)
        parts |= {"saliency": spread, "boundary": meeting, "silence": quiet}
        loss = loss + config.saliency * (spread + config.saliency_boundary * meeting + config.saliency_silence * quiet)
    return loss, {"loss": loss, **parts, "accuracy": accuracy}


def _augmented(batch: Batch, share: Float[Array, ""], config: AugmentConfig, keys: Array) -> Batch:
    features, n_frames, spans = map(jnp.asarray, (batch.features, batch.n_frames, batch.spans))
    # The neighbour in the batch is as good a stranger as any.
    background = jnp.roll(features, 1, axis=0)
    others = jnp.roll(n_frames, 1)
    features, n_frames, spans = jax.vmap(
        lambda x, n, s, b, m, k: augment(x, n, s, share, k, config, background=b, n_background=m)
    )(features, n_frames, spans, background, others, keys)
    return batch._replace(features=features, n_frames=n_frames, spans=spans)


def decoder_losses(
    log_probs: Float[Array, "examples positions vocabulary"], batch: Batch, smoothing: float
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Cross-entropy a label with label smoothing (Szegedy et al. 2016, section 7), and the accuracy.

    The sentence end is a label, id 0.
    """
    at = jnp.arange(batch.labels.shape[1] + 1)[None, :]
    # An example without labels is padding: no sentence end is asked of it.
    counted = (at <= batch.n_labels[:, None]) & (batch.n_labels > 0)[:, None]
    target = jnp.where(at < batch.n_labels[:, None], jnp.pad(batch.labels, ((0, 0), (0, 1))), 0)
    chosen = jnp.take_along_axis(log_probs, target[:, :, None], axis=2)[:, :, 0]
    smoothed = (1 - smoothing) * chosen + smoothing * log_probs.mean(-1)
    right = (log_probs.argmax(-1) == target) & counted
    return -(smoothed * counted).sum() / batch.n_labels.sum(), right.sum() / counted.sum()


def ctc_losses(
    ctc_log_probs: Float[Array, "examples encoder_frames vocabulary"],
    batch: Batch,
    subsampling: int,
) -> Float[Array, ""]:
    """CTC loss a label (Graves et al. 2006), at most `CTC_LIMIT` for an utterance."""
    frame_pad = jnp.arange(ctc_log_probs.shape[1])[None, :] >= -(-batch.n_frames // subsampling)[:, None]
    label_pad = jnp.arange(batch.labels.shape[1])[None, :] >= batch.n_labels[:, None]
    lost = optax.ctc_loss(ctc_log_probs, frame_pad.astype(jnp.float32), batch.labels, label_pad.astype(jnp.float32))
    lost = jnp.where(batch.n_labels > 0, lost, 0.0)
    return jnp.minimum(lost, CTC_LIMIT * batch.n_labels).sum() / batch.n_labels.sum()


def timing_losses(
    batch: Batch,
    ctc_log_probs: Float[Array, "examples encoder_frames vocabulary"],
    attention: Float[Array, "examples positions encoder_frames"],
    subsampling: int = 4,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """What exact times teach a network that does not know speech yet; both are a mean over labels.

    Without them the CTC head predicts blank for its first thousand steps, and attention wanders for
    thousands more. The trainer takes them away early on.

    Returns:
        The cross-entropy of the CTC head inside labels, and minus the log of the attention mass that
        falls on the label or at most two encoder frames beside it.
    """
    spans = jnp.asarray(batch.spans)
    known = spans[:, :, :1] >= 0
    centre = float(subsampling) * jnp.arange(ctc_log_probs.shape[1])[None, None, :]
    inside = known & (spans[:, :, :1] <= centre) & (centre < spans[:, :, 1:])
    spoken = jnp.take_along_axis(ctc_log_probs, batch.labels[:, None, :], axis=2).transpose(0, 2, 1)
    frame_loss = -(spoken * inside).sum() / jnp.maximum(inside.sum(), 1)
    slack = 2.0 * subsampling
    near = known & (spans[:, :, :1] - slack <= centre) & (centre < spans[:, :, 1:] + slack)
    mass = (attention[:, :-1] * near).sum(-1)
    guide_loss = -(jnp.log(mass + 0.01) * known[:, :, 0]).sum() / jnp.maximum(known.sum(), 1)
    return frame_loss, guide_loss


def saliency_losses(
    network: AED, batch: Batch, key: PRNGKeyArray, config: LossConfig
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """How far the saliency of labels strays from their true intervals, from where they meet, and into silence.

    For some labels of a few examples with known times. The saliency (L2 norm at the leaf that the config names) is a
    gradient, so this is differentiated twice. At a leaf behind the stem it is interpolated to feature frames. With a
    stride the labels of one pull-back share its saliency: each has the frames that are nearer to its interval than to
    those of the others.

    Returns:
        The cross-entropy, a label, between its share of saliency at each frame and the uniform distribution over
        the frames of its interval; `boundary_losses` a pair of neighbours; and `silence_losses` a frame. 0 where it is
        not asked for.
    """
    features, n_frames, all_labels, spans = map(
        jnp.asarray, (batch.features, batch.n_frames, batch.labels, batch.spans)
    )
    known = spans[:, :, 0] >= 0
    depth = leaf_depth(config.saliency_leaf, network.config.encoder_layers)
    frame = jnp.arange(features.shape[1])[None, None, :]
    spoken = ((frame >= spans[:, :, :1]) & (frame < spans[:, :, 1:]) & known[:, :, None]).any(1)
    # Where the times of a label are not known, no frame is known to be silent.
    all_known = known.sum(1) == batch.n_labels
    silent = ~spoken & (frame[0] < n_frames[:, None]) & all_known[:, None]

    def one(x, n, labels, known, spans, silent, key):
        chosen = chosen_labels(known, key, config)
        counted = (chosen >= 0) & known[chosen]
        first, last = spans[chosen, 0, None], spans[chosen, 1, None]
        taken = jnp.where(counted[..., None], jax.nn.one_hot(chosen, len(labels)), 0.0)
        together = taken.sum(1)

        def score(y):
            log_probs = network.label_log_probs(y, labels, n, depth=depth)
            # A gradient of log p is about as long as 1 - p: no label of those that share one is to drown the others.
            equal = 1.0 / (1.001 - jnp.exp(jax.lax.stop_gradient(log_probs)))
            return together @ (log_probs * equal)

        found = saliency(score, network.to_depth(x, depth, n), chunk=len(chosen))
        if depth != FEATURES_LEAF:
            subsampling = network.config.subsampling
            found = upsample(found, subsampling, features.shape[1], n_coarse=-(-n // subsampling))
        distance = jnp.maximum(jnp.maximum(first - frame, frame - last), 0.0)
        own = nearest(distance, counted)
        share = found[:, None] * own / ((found[:, None] * own).sum(2, keepdims=True) + 1e-20) + 1e-8
        inside = (frame >= first) & (frame < last) & (frame < n)
        target = inside / jnp.maximum(inside.sum(2, keepdims=True), 1)
        lost = [((-(target * jnp.log(share)).sum(2) * counted).sum(), counted.sum())]
        nothing = jnp.zeros(()), jnp.zeros(())
        if config.saliency_boundary:
            by_label = jnp.einsum("rel,ret->lt", taken, jnp.log(share))
            meeting, pairs = boundary_losses(by_label, taken.sum((0, 1)) > 0, spans)
            lost.append((meeting.sum(), pairs.sum()))
        else:
            lost.append(nothing)
        if config.saliency_silence:
            quiet, frames = silence_losses(jnp.log(share), own * (frame < n), inside & counted[..., None], silent)
            lost.append((quiet.sum(), frames.sum()))
        else:
            lost.append(nothing)
        return lost

    # Examples with the most known times first.
    best = jnp.argsort(-known.sum(1))[: min(config.saliency_examples, features.shape[0])]
    keys = jax.random.split(key, len(best))
    found = jax.vmap(one)(
        features[best], n_frames[best], all_labels[best], known[best], spans[best], silent[best], keys
    )
    spread, meeting, quiet = (lost.sum() / jnp.maximum(counted.sum(), 1) for lost, counted in found)
    return spread, meeting, quiet


def silence_losses(
    log_share: Float[Array, "*labels frames"],
    own: Float[Array, "*labels frames"],
    inside: Bool[Array, "*labels frames"],
    silent: Bool[Array, " frames"],
) -> tuple[Float[Array, "*labels frames"], Bool[Array, "*labels frames"]]:
    """Minus the log-probability that a frame is in its label, or in silence, where these are the only two classes.

    A frame is the label's as much as its share is above the mean share of the label's own frames: silence competes
    with what saliency that is spread evenly would give.

    Args:
        log_share: Log of the label's share of saliency, which sums to one over its own frames.
        own: 1 for frames that count for the label, else 0.
        inside: Whether a frame lies in the label.
        silent: Whether it lies in silence.

    Returns:
        One for each frame; and which of them count: those of the label and the silent ones among its own.
    """
    logit = log_share + jnp.log(jnp.maximum(own.sum(-1, keepdims=True), 1.0))
    lost = jnp.where(inside, jax.nn.softplus(-logit), jax.nn.softplus(logit))
    here = (own > 0) & (inside | jnp.broadcast_to(silent, inside.shape))
    return jnp.where(here, lost, 0.0), here


def boundary_losses(
    scores: Float[Array, "labels frames"], taken: Bool[Array, " labels"], spans: Float[Array, "labels 2"]
) -> tuple[Float[Array, " labels-1"], Bool[Array, " labels-1"]]:
    """Minus the log-probability of the frame where two labels meet, given where the first starts and the second ends.

    It is what the forward-backward algorithm finds for a lattice of these two labels alone.

    Args:
        scores: Log-score of each label at each frame.
        taken: Which labels have scores.
        spans: Frames at which each label starts and ends; -1 where that is not known.

    Returns:
        One for each label but the last, with its successor; and which of them count: both labels have scores, one
        starts where the other ends, and there is more than one way.
    """
    first, meet, last = (jnp.round(edge) for edge in (spans[:-1, 0], spans[1:, 0], spans[1:, 1]))
    frame = jnp.arange(scores.shape[1])[None, :]
    # Entry b: what is gained by giving the first label all frames before b, and the second one none of them.
    between = (frame >= first[:, None]) & (frame < last[:, None])
    gained = jnp.where(between, scores[:-1] - scores[1:], 0.0)
    before = jnp.cumsum(gained, axis=1) - gained
    ways = (frame > first[:, None]) & (frame < last[:, None])
    # Far too low, but finite: gradients pass here.
    log_probs = jax.nn.log_softmax(jnp.where(ways, before, -1e9), axis=1)
    # Of a pair that does not count this may be any frame there is.
    at = jnp.clip(jnp.clip(meet, first + 1, last - 1), 0, scores.shape[1] - 1).astype(jnp.int32)
    lost = -jnp.take_along_axis(log_probs, at[:, None], axis=1)[:, 0]
    touch = (spans[:-1, 0] >= 0) & (spans[1:, 0] >= 0) & (jnp.abs(spans[1:, 0] - spans[:-1, 1]) < 1.0)
    pairs = taken[:-1] & taken[1:] & touch & (ways.sum(1) > 1)
    return jnp.where(pairs, lost, 0.0), pairs


def chosen_labels(
    known: Bool[Array, " labels"], key: PRNGKeyArray, config: LossConfig
) -> Int[Array, "pull_backs labels_each"]:
    """Which labels are differentiated together, at random; -1 for none.

    Args:
        known: Whose true intervals are known.
        key: Of the choice.
        config: With a stride the labels of a row are so many apart; without, each is alone in its row.
    """
    stride = config.saliency_stride
    if not stride:
        # Random labels with known times first.
        return jnp.argsort(jax.random.uniform(key, known.shape) - known)[: config.saliency_labels, None]
    # Rows of neighbours, so that boundaries between them can be learnt, too.
    rows = jax.random.randint(key, (), 0, stride) + jnp.arange(min(config.saliency_labels, stride))
    row = rows[:, None] % stride + stride * jnp.arange(-(-len(known) // stride))[None, :]
    return jnp.where(row < len(known), row, -1)


def nearest(
    distance: Float[Array, "pull_backs labels_each frames"], counted: Bool[Array, "pull_backs labels_each"]
) -> Float[Array, "pull_backs labels_each frames"]:
    """1 where a frame is nearest to this one of the counted labels of its row, the first of those as near; else 0."""
    at = jnp.where(counted[..., None], distance, jnp.inf).argmin(1)
    return jax.nn.one_hot(at, distance.shape[1], axis=1)
