"""All that an alignment can be read off, each by its name, on one grid of feature frames.

A signal is a ``[labels, frames]`` array of log-domain evidence for where each label is; a cue is a number a frame, such
as its energy. `gradalign.calibration` learns how much of each to believe.
"""

from collections.abc import Collection
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gradalign.classifier import block_of
from gradalign.compressed import windowed_saliency
from gradalign.evidence import attention_scores, ctc_scores, log_saliency, percentile_of, upsample
from gradalign.gradients import norm, pulled_back
from gradalign.nn.aed import AED, FEATURES_LEAF, Leaves
from gradalign.nn.config import AEDConfig
from gradalign.nn.windowed import teacher_forced

BANDS = 4
"""Parts of the mel axis whose gradients and energies are told apart."""

LEAST = -12.0
"""Log-probabilities below this count as this: how sure the model is of something else says nothing about here."""

OF_CTC = ("blank", "blank-around")
"""Cues that are read off the CTC head: its blank (log), and the least probability of blank within `AROUND` frames,
which is 1 where nothing is said and, unlike its log, near 0 in every pause that is shorter."""

OF_GRADIENTS = ("salient", "salient-around")
"""Cues that are read off the gradients at the output of the encoder. With n the sum over labels of the share of a
label's saliency that lies at the frame: ``log(n / IN_SPEECH)``, low in silence; and the least of
``exp(-n / IN_SPEECH)`` within `AROUND` frames, which, as "blank-around", is near 1 where nothing is said."""

OF_CLASSIFIER = ("no-phone",)
"""The silence of `gradalign.classifier` (log)."""

CUES = (
    "energy",
    *(f"energy-{b + 1}" for b in range(BANDS)),
    "change",
    "level",
    *OF_CTC,
    *OF_GRADIENTS,
    *OF_CLASSIFIER,
)
"""Cues of a frame: log energy of all bands and of each part, spectral change, the place of the energy between the quiet
and the loud parts of the recording; `OF_CTC`, `OF_GRADIENTS` and `OF_CLASSIFIER`, each 0 where what it is read off is
not asked."""

AROUND = 20
"""Frames to either side: in speech the CTC head hears a label, and gradients lie on one, at least that often; in noise
between words none."""

IN_SPEECH = 0.05
"""Labels a frame of 10 ms in slow speech; where it is fast there are three times as many."""

LEAST_SALIENT = -4.0
"""Logs of labels a frame, relative to speech, that are below this count as this: it is silent there."""

QUIETEST = -7.0
"""Energies (natural logs) this far below the loud parts count as this, about 30 dB: the digital silence of synthetic
speech is no quieter than the quiet room of a recording."""

FAMILIES = ("gradient", "attention", "ctc")
"""Kinds of signals: gradients at every leaf, cross-attention of every layer, posteriors of the CTC head."""


class Signals(NamedTuple):
    """What is known about an utterance before any path is chosen.

    Attributes:
        scores: Evidence by signal, in the order of `signal_names`; 0 on padded frames. Rows of gradients and attention
            have mean 0 over time (of the piece, where a long recording is read in pieces), those of CTC are
            log-probabilities.
        cues: Numbers about each frame, in the order of `CUES`; 0 on padded frames. Energies are relative to the loud
            parts of the recording, so that a louder or longer one has the same.
        sure: How sure the decoder is of each label: its log-probability, and minus the entropy of all labels there.
        missed: What windows miss of the gradients, see `gradalign.compressed.Compressed`; 0 without windows.
        states: What `gradalign.classifier` reads: output of the block in the middle of the encoder; None if unknown.
    """

    scores: Float[Array | np.ndarray, "signals labels frames"]
    cues: Float[Array | np.ndarray, "cues frames"]
    sure: Float[Array | np.ndarray, "labels 2"]
    missed: Float[Array | np.ndarray, ""] | float = 0.0
    states: Float[Array | np.ndarray, "encoder_frames dim"] | None = None


def signal_names(config: AEDConfig, families: Collection[str] = FAMILIES) -> tuple[str, ...]:
    """Names of the signals of a network, in the order in which `signals` gives them.

    Args:
        config: Of the network.
        families: Which of `FAMILIES`.
    """
    leaves = ["features", "stem", *(f"block-{k + 1}" for k in range(config.encoder_layers))]
    by_family = {
        "gradient": [f"gradient@{leaf}" for leaf in leaves] + [f"gradient@features/{b + 1}" for b in range(BANDS)],
        "attention": [f"attention-{k + 1}" for k in range(config.decoder_layers)],
        "ctc": ["ctc"],
    }
    return tuple(name for family in FAMILIES if family in families for name in by_family[family])


def signals(
    network: AED,
    features: Float[Array, "frames mels"],
    labels: Int[Array, " labels"],
    n_frames: Int[Array, ""] | int | None = None,
    *,
    families: Collection[str] = FAMILIES,
    chunk: int = 32,
    width: int | None = None,
) -> Signals:
    """The signals of one utterance, by one forward pass and (for gradients) one pull-back a label, or windows of them.

    Gradients are log norms over the leaf's axis (of features also over each part of the mel axis), normalised over
    time as in `gradalign.evidence.log_saliency`; attention and CTC are logs. Encoder frames are interpolated to
    feature frames.

    Args:
        network: The attention encoder-decoder.
        features: Log-mel frames, may be padded.
        labels: Ids of the transcript; 0 past its end.
        n_frames: Real frames.
        families: Which of `FAMILIES`, at least one. Without "ctc" nothing is taken from the CTC head, and without
            "gradient" nothing from gradients: their cues are 0. Windows are around the places where the CTC head hears
            the labels, whatever the families.
        chunk: Labels differentiated together, where there are no windows.
        width: Of windows for the gradients, see `gradalign.compressed`; None for whole ones.

    References:
        Schmitt et al. 2025, arXiv 2410.00680 (norms of gradients, and their normalisation); the rest is ours.
    """
    rows, subsampling = features.shape[0], network.config.subsampling
    n_frames = rows if n_frames is None else n_frames
    n_encoder = -(-n_frames // subsampling)
    real = jnp.arange(rows) < n_frames

    def to_fine(coarse: Float[Array, "labels encoder_frames"]) -> Float[Array, "labels frames"]:
        return upsample(coarse, subsampling, rows, n_coarse=n_encoder)

    wanted = "gradient" in families
    seen = _read(network, features, labels, n_frames, chunk if wanted else 0, width if wanted else None)
    # After the features come the deeper leaves, and then the bands of the features.
    fine, coarse = [], []
    if wanted:
        fine.append(jax.vmap(lambda sizes: log_saliency(sizes, n_frames=n_frames))(seen.fine))
        coarse.append(jax.vmap(lambda sizes: log_saliency(sizes, n_frames=n_encoder))(seen.coarse))
    if "attention" in families:
        heads = seen.attention.mean(1)
        coarse.append(jax.vmap(lambda weights: attention_scores(weights, n_frames=n_encoder))(heads))
    of_ctc, of_gradients = jnp.zeros((len(OF_CTC), rows)), jnp.zeros((len(OF_GRADIENTS), rows))
    if "ctc" in families:
        heard, silent = ctc_scores(seen.ctc_log_probs, labels)
        coarse.append(jnp.maximum(heard, LEAST)[None])
        blank = jnp.where(real, to_fine(jnp.maximum(silent, LEAST)[None])[0], 0.0)
        of_ctc = jnp.stack([blank, jnp.exp(_least_around(blank))])
    if wanted:
        of_gradients = _cues_of_gradients(to_fine(coarse[0][-1]), labels, real)
    found = [*fine, *([jax.vmap(to_fine)(jnp.concatenate(coarse))] if coarse else [])]
    n_deeper = len(seen.coarse)
    if wanted:
        found = [found[0][:1], found[1][:n_deeper], found[0][1:], found[1][n_deeper:]]
    parts = jnp.concatenate(found)
    # Rows of the CTC head are log-probabilities; the others tell no more than where.
    centred = jnp.arange(len(parts)) < len(parts) - ("ctc" in families)
    parts = jnp.where(centred[:, None, None], _centred(parts, real), parts)
    entropy = -(jnp.exp(seen.log_probs) * seen.log_probs).sum(-1)
    said = jnp.take_along_axis(seen.log_probs, labels[:, None], axis=1)[:, 0]
    return Signals(
        jnp.where(real, parts, 0.0),
        _cues(features, jnp.concatenate([of_ctc, of_gradients, jnp.zeros((1, rows))]), real),
        jnp.stack([jnp.maximum(said, LEAST), -entropy], axis=1),
        seen.missed,
        seen.states[block_of(network.config) - 1],
    )


class _Seen(NamedTuple):
    """What one teacher-forced pass shows: sizes of gradients at the features and their bands, and at deeper leaves."""

    fine: Float[Array, "sizes labels frames"]
    coarse: Float[Array, "leaves labels encoder_frames"]
    log_probs: Float[Array, "labels vocabulary"]
    attention: Float[Array, "layers heads labels encoder_frames"]
    ctc_log_probs: Float[Array, "encoder_frames vocabulary"]
    states: Float[Array, "blocks encoder_frames dim"]
    missed: Float[Array, ""] | float


def _read(network: AED, features: Array, labels: Array, n_frames: Array | int, chunk: int, width: int | None) -> _Seen:
    """From windows if there is a width, else without gradients where ``chunk`` is 0."""
    if width is not None:
        kept = teacher_forced(network, features, labels, n_frames)
        depths = tuple(range(FEATURES_LEAF, network.config.encoder_layers + 1))
        found = windowed_saliency(
            network, features, labels, n_frames, depths=depths, bands=BANDS, width=width, kept=kept
        )
        ctc, maps = network.ctc_log_probs(kept.encoded), kept.layers.cross_weights
        return _Seen(found.fine, found.coarse, kept.all_log_probs, maps, ctc, kept.states, found.missed)

    def score(nudges: Leaves):
        return network.leaf_pass(nudges, features, labels, n_frames)

    nudges = network.zero_nudges(features.shape[0])
    if not chunk:
        _, seen = score(nudges)
        fine = coarse = jnp.zeros((0, 0, 0))
    else:
        log_probs, pull_back, seen = jax.vjp(score, nudges, has_aux=True)
        fine, coarse = (jnp.moveaxis(rows, 1, 0) for rows in pulled_back(pull_back, log_probs, _sizes, chunk=chunk))
    return _Seen(fine, coarse, seen.log_probs, seen.cross_attention, seen.ctc_log_probs, seen.states, 0.0)


def family(name: str) -> str:
    """Which of `FAMILIES` a signal belongs to."""
    return name.split("@")[0].split("-")[0]


def depth_of(name: str, encoder_layers: int) -> int:
    """Where a signal is read off: -1 for the features, 0 for the stem, ``k`` for the output of block ``k``."""
    leaf = name.partition("@")[2].split("/")[0]
    if leaf.startswith("block-"):
        return int(leaf.removeprefix("block-"))
    return {"features": -1, "stem": 0}.get(leaf, encoder_layers)


def chosen(
    network: AED,
    features: Float[Array, "frames mels"],
    labels: Int[Array, " labels"],
    n_frames: Int[Array, ""] | int | None = None,
    *,
    names: Collection[str],
    chunk: int = 32,
    width: int | None = None,
) -> Signals:
    """`signals` with only some of them, in the order asked for; what none of them needs is not computed.

    Args:
        network: As for `signals`.
        features: As for `signals`.
        labels: As for `signals`.
        n_frames: As for `signals`.
        names: Members of `signal_names` of the network, at least one.
        chunk: As for `signals`.
        width: As for `signals`.

    Raises:
        ValueError: If the network has no such signal; the message lists those it has.
    """
    known = signal_names(network.config)
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"this network has no signal {', '.join(unknown)}; it has {', '.join(known)}")
    families = {family(name) for name in names}
    found = signals(network, features, labels, n_frames, families=families, chunk=chunk, width=width)
    order = signal_names(network.config, families)
    return found._replace(scores=found.scores[np.array([order.index(name) for name in names])])


def _sizes(gradient: Leaves):
    """Norms at the features and their bands, and at the stem and each block."""
    bands = [norm(part) for part in jnp.array_split(gradient.features, BANDS, axis=1)]
    fine = jnp.stack([norm(gradient.features), *bands])
    return fine, jnp.concatenate([norm(gradient.stem)[None], norm(gradient.blocks)])


def _cues(
    features: Float[Array, "frames mels"], of_network: Float[Array, "more frames"], real: Bool[Array, " frames"]
) -> Float[Array, "cues frames"]:
    energy = jax.nn.logsumexp(features, axis=1) - np.float32(np.log(features.shape[1]))
    parts = [part.mean(1) for part in jnp.array_split(features, BANDS, axis=1)]
    levels = jnp.stack([energy, *parts])
    loud = jax.vmap(lambda row: percentile_of(row, 90.0, real))(levels)
    # The first and the last frame have one neighbour only.
    at, last = jnp.arange(features.shape[0]), real.sum() - 1
    before, after = features[jnp.maximum(at - 1, 0)], features[jnp.minimum(at + 1, last)]
    change = _centred(jnp.abs(after - before).mean(1), real)
    relative = jnp.maximum(levels - loud[:, None], QUIETEST)
    # Where a recording is quiet, whatever noise there is: 0 there, 1 where it is loud.
    quiet = percentile_of(energy, 5.0, real)
    level = jnp.clip((energy - quiet) / jnp.maximum(loud[0] - quiet, 1.0), 0.0, 1.0)
    return jnp.where(real, jnp.concatenate([relative, change[None], level[None], of_network]), 0.0)


def _cues_of_gradients(
    scores: Float[Array, "labels frames"], labels: Int[Array, " labels"], real: Bool[Array, " frames"]
) -> Float[Array, "cues frames"]:
    """`OF_GRADIENTS`, from the log-saliency at the output of the encoder."""
    share = jax.nn.softmax(jnp.where(real, scores, -1e9), axis=1)
    # Past its end a transcript has label 0, of which there is a gradient as well.
    salient = jnp.where(labels[:, None] > 0, share, 0.0).sum(0) / IN_SPEECH
    logs = jnp.log(jnp.maximum(salient, np.float32(np.exp(LEAST_SALIENT))))
    return jnp.stack([logs, jnp.exp(_least_around(-salient))])


def _least_around(values: Float[Array, " frames"]) -> Float[Array, " frames"]:
    """The least value within `AROUND` frames to either side; outside of the recording it is 0."""
    return jax.lax.reduce_window(values, np.float32(0.0), jax.lax.min, (2 * AROUND + 1,), (1,), "SAME")


def _centred(values: Float[Array, "*rows frames"], real: Bool[Array, " frames"]) -> Float[Array, "*rows frames"]:
    """Each row minus its mean over real frames."""
    return values - jnp.where(real, values, 0.0).sum(-1, keepdims=True) / real.sum()
