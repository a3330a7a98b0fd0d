"""Log-mel features in JAX, differentiable down to the samples."""

from dataclasses import dataclass
from functools import lru_cache, partial

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gradalign._arrays import Features
from gradalign.cache import by_shape
from gradalign.timing import FrameGrid


@dataclass(frozen=True, slots=True)
class LogMel:
    """How samples become log-mel frames: a centred, power, Slaney-mel spectrogram.

    Attributes:
        sample_rate: Samples a second that the waveform must have.
        n_fft: Length of the transform in samples.
        window_samples: Length of the Hann window in samples, centred in the transform.
        hop_samples: Distance between frames in samples.
        n_mels: Mel bands from 0 Hz to half the sample rate.
        floor: Added to the mel power before the logarithm, so that digital silence is finite.
    """

    sample_rate: int = 16_000
    n_fft: int = 512
    window_samples: int = 400
    hop_samples: int = 160
    n_mels: int = 80
    floor: float = 1e-8

    @property
    def grid(self) -> FrameGrid:
        """Times of the frames."""
        return FrameGrid(self.sample_rate, self.hop_samples)


_BLOCK_S = 60


@lru_cache
def _constants(config: LogMel) -> tuple[Float[np.ndarray, " n_fft"], Float[np.ndarray, "mels bins"]]:
    """Periodic Hann window, padded on both sides to the transform, and the mel filters."""
    length = config.window_samples
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    before = (config.n_fft - length) // 2
    padded = np.pad(window, (before, config.n_fft - length - before))
    return padded.astype(np.float32), _mel_filters(config).astype(np.float32)


def _mel_filters(config: LogMel) -> Float[np.ndarray, "mels bins"]:
    """Triangles between neighbouring points of Slaney's mel scale, each of area 2 in hertz.

    Equal to `librosa.filters.mel`, which is not called because its import is a third of the time that the command
    line takes to start.

    References:
        M. Slaney, Auditory Toolbox, Technical Report 1998-010, Interval Research: 200/3 Hz a mel below 1 kHz, 27 mels
        from there to 6.4 kHz in equal ratios.
    """
    linear, kilohertz, ratio = 200.0 / 3, 1000.0, np.log(6.4) / 27
    nyquist = config.sample_rate / 2
    highest = nyquist / linear if nyquist < kilohertz else kilohertz / linear + np.log(nyquist / kilohertz) / ratio
    mels = np.linspace(0, highest, config.n_mels + 2)
    hertz = np.where(
        mels < kilohertz / linear, mels * linear, kilohertz * np.exp(ratio * (mels - kilohertz / linear))
    )  # fmt: skip
    low, centre, high = hertz[:-2, None], hertz[1:-1, None], hertz[2:, None]
    bins = np.linspace(0, nyquist, 1 + config.n_fft // 2)[None, :]
    triangles = np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre))
    return np.maximum(triangles, 0) * 2 / (high - low)


def log_mel(waveform: Float[Array, " samples"], config: LogMel = LogMel()) -> Features:
    """Log-mel frames of a waveform, ``log(mel power + floor)``.

    Equal to ``log(librosa.feature.melspectrogram(...) + floor)`` with the same settings and
    librosa's defaults (centred frames, zero padding, Slaney mel scale and norm).

    Args:
        waveform: Mono samples at ``config.sample_rate``.
        config: Window, hop and bands.

    Returns:
        One row a frame on ``config.grid``; ``1 + samples // hop`` rows.
    """
    window, filters = _constants(config)
    half = config.n_fft // 2
    padded = jnp.pad(waveform, (half, half))
    n_frames = 1 + waveform.shape[0] // config.hop_samples
    index = np.arange(n_frames)[:, None] * config.hop_samples + np.arange(config.n_fft)[None, :]
    spectrum = jnp.fft.rfft(padded[index] * window[None, :], axis=-1)
    power = jnp.real(spectrum) ** 2 + jnp.imag(spectrum) ** 2
    return jnp.log(power @ filters.T + config.floor)


@partial(by_shape, static_argnames=("config",))
def _compiled(waveform: Float[Array, " samples"], config: LogMel) -> Features:
    return log_mel(waveform, config)


def log_mel_padded(waveform: np.ndarray, config: LogMel) -> Float[np.ndarray, "frames mels"]:
    """The same frames as `log_mel`, on the host, compiled once per whole second of length, and by the minute.

    Zero padding a waveform changes none of its frames, which are centred and zero padded anyway, and minutes of a
    longer one are cut where both sides of each frame are there: so memory is that of a minute.
    """
    n, half = len(waveform), config.n_fft // 2
    samples = np.asarray(waveform, np.float32)
    n_frames, block = config.grid.n_frames(n), _BLOCK_S * config.sample_rate // config.hop_samples
    if n_frames <= block:
        seconds = -(-n // config.sample_rate)
        padded = np.pad(samples, (0, seconds * config.sample_rate - n))
        return np.asarray(_compiled(padded, config))[:n_frames]
    # Frames before the block that are computed and thrown away, since they lack their left side.
    skipped = -(-half // config.hop_samples)
    length = (block + 2 * skipped) * config.hop_samples
    found = []
    for first in range(0, n_frames, block):
        begin = (first - skipped) * config.hop_samples
        here = samples[max(begin, 0) : begin + length]
        padded = np.pad(here, (max(-begin, 0), 0))
        padded = np.pad(padded, (0, length - len(padded)))
        found.append(np.asarray(_compiled(padded, config))[skipped : skipped + min(block, n_frames - first)])
    return np.concatenate(found)
