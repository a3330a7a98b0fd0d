"""Augmentation of log-mel frames inside the compiled training step; known times move along."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft
from jaxtyping import Array, Float, Int, PRNGKeyArray

from gradalign._arrays import Features
from gradalign.training.config import AugmentConfig


def augment(
    features: Features,
    n_frames: Int[Array, ""],
    spans: Float[Array, "labels 2"],
    strength: Float[Array, ""],
    key: PRNGKeyArray,
    config: AugmentConfig,
    *,
    background: Features | None = None,
    n_background: Int[Array, ""] | int = 0,
) -> tuple[Features, Int[Array, ""], Float[Array, "labels 2"]]:
    """A new voice in a new room: stretched, warped, coloured, noisy and masked frames.

    Args:
        features: Log-mel power, padded at the end.
        n_frames: Real frames.
        spans: Frames at which each label starts and ends; -1 where that is not known.
        strength: Share of examples that are changed at all, in [0, 1]; a network that does not know
            speech yet learns nothing from what is hard to hear.
        key: All randomness.
        config: Which share of the changed examples is changed in which of the rarer ways.
        background: Log-mel power of other speech, padded at the end.
        n_background: Real frames of it.

    Returns:
        Frames, their number, and the spans in them.

    References:
        Frequency warp: Jaitly and Hinton 2013 (vocal tract length perturbation). Masks: Park et al.
        2019 (SpecAugment), with short time masks, since a frame that is gone cannot be aligned.
    """
    keys = jax.random.split(key, 7)
    x, n, rate = stretch(features, n_frames, keys[0])
    moved = jnp.where(spans >= 0, spans / rate, spans)
    if config.smooth > 0:
        x = smooth(x, n, config.smooth, jax.random.fold_in(key, 8))
    if config.pause > 0:
        x, n, moved = interrupt(x, n, moved, config.pause, jax.random.fold_in(key, 7))
    if background is not None and config.mix > 0:
        x = babble(x, n, background, jnp.asarray(n_background), config.mix, keys[6])
    x = colour(warp(x, keys[1]), keys[2])
    x = add_noise(x, n, keys[3])
    x = mask(x, keys[4])
    chosen = jax.random.bernoulli(keys[5], strength)
    return jnp.where(chosen, x, features), jnp.where(chosen, n, n_frames), jnp.where(chosen, moved, spans)


def stretch(
    x: Features, n_frames: Int[Array, ""], key: PRNGKeyArray
) -> tuple[Features, Int[Array, ""], Float[Array, ""]]:
    """Faster or slower speech of the same pitch: frames interpolated along time, still within the padding."""
    rows = x.shape[0]
    rate = jax.random.uniform(key, (), minval=0.85, maxval=1.2)
    rate = jnp.maximum(rate, n_frames / rows)
    at = jnp.arange(rows) * rate
    low = jnp.clip(jnp.floor(at).astype(jnp.int32), 0, jnp.maximum(n_frames - 2, 0))
    part = jnp.clip(at - low, 0.0, 1.0)[:, None]
    return (
        x[low] * (1 - part) + x[jnp.minimum(low + 1, rows - 1)] * part,
        jnp.ceil(n_frames / rate).astype(jnp.int32),
        rate,
    )


def smooth(x: Features, n_frames: Int[Array, ""], chance: float, key: PRNGKeyArray) -> Features:
    """With this chance a voice as of a parametric synthesiser: spectra without fine detail, which move slowly.

    Of the cosines that make up a spectrum (its cepstrum) the first 12 to 40 are left, and each frame is mixed
    with the mean of it and two to either side.

    References:
        Zen, Tokuda and Black 2009, "Statistical parametric speech synthesis": over-smoothing.
    """
    chance_key, order_key, share_key = jax.random.split(key, 3)
    rows, bands = x.shape
    # A row each: one matrix product for all frames.
    cosines = np.asarray(scipy.fft.dct(np.eye(bands, dtype=np.float32), axis=0, norm="ortho"))
    order = jax.random.uniform(order_key, (), minval=12.0, maxval=40.0)
    left = jnp.clip(order - jnp.arange(bands), 0.0, 1.0)
    y = ((x @ cosines.T) * left[None, :]) @ cosines
    around = jnp.arange(rows)[:, None] + jnp.arange(-2, 3)[None, :]
    slow = y[jnp.clip(around, 0, jnp.maximum(n_frames - 1, 0))].mean(1)
    y = y + jax.random.uniform(share_key, ()) * (slow - y)
    changed = jax.random.bernoulli(chance_key, chance) & (jnp.arange(rows) < n_frames)[:, None]
    return jnp.where(changed, y, x)


def interrupt(
    x: Features, n_frames: Int[Array, ""], spans: Float[Array, "labels 2"], chance: float, key: PRNGKeyArray
) -> tuple[Features, Int[Array, ""], Float[Array, "labels 2"]]:
    """With this chance a pause of 0.2 to 1.2 s, as far as the padding has room: synthesisers hardly make any.

    It comes before one of the labels whose times are known or after the last one, in one of three before the first.
    It is as quiet as the quietest frame; in one of three there is a burst of noise in it.

    Returns:
        Frames, their number, and the spans in them.
    """
    keys = jax.random.split(key, 8)
    rows, bands = x.shape
    frame = jnp.arange(rows)
    known = spans[:, 0] >= 0
    starts = jnp.sort(jnp.where(known, spans[:, 0], spans[:, 1].max()))
    which = jax.random.randint(keys[0], (), 0, known.sum() + 1)
    which = jnp.where(jax.random.bernoulli(keys[1], 1 / 3), 0, jnp.minimum(which, len(starts) - 1))
    at = jnp.clip(jnp.round(starts[which]), 0, n_frames).astype(jnp.int32)
    drawn = (jax.random.bernoulli(keys[2], chance) & known.any()) * jax.random.randint(keys[3], (), 20, 121)
    length = jnp.minimum(drawn, rows - n_frames)

    energy = jnp.where(frame < n_frames, x.mean(1), jnp.inf)
    grain = 0.4 * jax.random.normal(keys[4], x.shape)
    quiet = x[energy.argmin()][None, :] + grain
    loud = jnp.where(frame < n_frames, x.mean(1), -jnp.inf).max()
    waves = jnp.cos(jnp.pi * jnp.arange(1, 4)[:, None] * (jnp.arange(bands)[None, :] + 0.5) / bands)
    spectrum = jax.random.uniform(keys[5], (), minval=-5.0, maxval=1.0) + jax.random.normal(keys[6], (3,)) @ waves
    swell = jnp.sin(jnp.pi * jnp.clip((frame - at + 0.5) / jnp.maximum(length, 1), 0.0, 1.0))
    burst = loud + spectrum[None, :] + 2 * jnp.log(swell + 1e-2)[:, None] + grain
    noisy = jnp.where(jax.random.bernoulli(keys[7], 1 / 3), jnp.logaddexp(quiet, burst), quiet)

    late = frame >= at + length
    inside = (frame >= at) & ~late
    y = jnp.where(inside[:, None], noisy, x[jnp.where(late, frame - length, frame)])
    shift = jnp.where(known & (spans[:, 0] >= at - 0.5), length, 0)
    return y, n_frames + length, spans + shift[:, None]


def warp(x: Features, key: PRNGKeyArray) -> Features:
    """Mel bands moved up or down by up to 20 %, as a longer or shorter vocal tract would, and bent by up to 3 bands."""
    scale_key, bend_key = jax.random.split(key)
    bands = x.shape[1]
    u = jnp.arange(bands) / bands
    orders = jnp.arange(1, 4)
    bend = jax.random.uniform(bend_key, (3,), minval=-1.0, maxval=1.0) @ jnp.sin(jnp.pi * orders[:, None] * u[None, :])
    at = bands * u * jax.random.uniform(scale_key, (), minval=0.82, maxval=1.22) + bend
    at = jnp.clip(at, 0, bands - 1.001)
    low = at.astype(jnp.int32)
    part = (at - low)[None, :]
    return x[:, low] * (1 - part) + x[:, low + 1] * part


def colour(x: Features, key: PRNGKeyArray) -> Features:
    """Another microphone: a random gain and a smooth random frequency response."""
    gain_key, shape_key = jax.random.split(key)
    bands = x.shape[1]
    orders = jnp.arange(1, 5)
    waves = jnp.cos(jnp.pi * orders[:, None] * (jnp.arange(bands)[None, :] + 0.5) / bands)
    curve = (jax.random.normal(shape_key, (4,)) * 0.8) @ waves
    return x + (jax.random.uniform(gain_key, (), minval=-3.0, maxval=2.0) + curve)[None, :]


def babble(
    x: Features,
    n_frames: Int[Array, ""],
    background: Features,
    n_background: Int[Array, ""],
    chance: float,
    key: PRNGKeyArray,
) -> Features:
    """With this chance other speech behind it, 10 to 25 dB below in the mean."""
    level_key, chance_key = jax.random.split(key)
    decibel = np.float32(np.log(10.0) / 10.0)
    below = decibel * jax.random.uniform(level_key, (), minval=10.0, maxval=25.0)
    shift = _mean(x, n_frames) - _mean(background, n_background) - below
    inside = (jnp.arange(background.shape[0]) < n_background)[:, None]
    mixed = jnp.where(inside, jnp.logaddexp(x, background + shift), x)
    return jnp.where(jax.random.bernoulli(chance_key, chance), mixed, x)


def _mean(x: Features, n_frames: Int[Array, ""]) -> Float[Array, ""]:
    inside = (jnp.arange(x.shape[0]) < n_frames)[:, None]
    return jnp.sum(jnp.where(inside, x, 0.0)) / jnp.maximum(n_frames * x.shape[1], 1)


def add_noise(x: Features, n_frames: Int[Array, ""], key: PRNGKeyArray) -> Features:
    """Half of the time stationary noise with a smooth random spectrum, 30 to 70 dB below the loudest band."""
    level_key, shape_key, grain_key, chance_key = jax.random.split(key, 4)
    bands = x.shape[1]
    valid = (jnp.arange(x.shape[0]) < n_frames)[:, None]
    loud = jnp.max(jnp.where(valid, x, -1e3))
    orders = jnp.arange(1, 4)
    waves = jnp.cos(jnp.pi * orders[:, None] * (jnp.arange(bands)[None, :] + 0.5) / bands)
    level = loud - jax.random.uniform(level_key, (), minval=7.0, maxval=16.0)
    curve = level + (jax.random.normal(shape_key, (3,)) * 0.5) @ waves
    grain = jnp.log(jax.random.exponential(grain_key, x.shape) + 0.05)
    noisy = jnp.logaddexp(x, curve[None, :] + grain)
    return jnp.where(jax.random.bernoulli(chance_key, 0.5), noisy, x)


def mask(x: Features, key: PRNGKeyArray) -> Features:
    """Two bands of up to 12 mels and short stretches (up to 80 ms, two a second at most) set to the mean."""
    band_key, time_key, width_key, count_key = jax.random.split(key, 4)
    rows, bands = x.shape
    starts = jax.random.uniform(band_key, (2, 2))
    widths = jnp.floor(starts[:, 1] * 13)
    first = jnp.floor(starts[:, 0] * (bands - widths))
    band = jnp.arange(bands)
    hidden = ((band[:, None] >= first[None, :]) & (band[:, None] < (first + widths)[None, :])).any(1)
    n_masks = rows // 80
    at = jnp.floor(jax.random.uniform(time_key, (n_masks,)) * rows)
    long = jnp.floor(jax.random.uniform(width_key, (n_masks,)) * 9) * jax.random.bernoulli(count_key, 0.4, (n_masks,))
    row = jnp.arange(rows)
    gone = ((row[:, None] >= at[None, :]) & (row[:, None] < (at + long)[None, :])).any(1)
    mean = x.mean()
    return jnp.where(hidden[None, :] | gone[:, None], mean, x)
