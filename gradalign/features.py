"""Log-mel features in JAX, differentiable down to the samples."""

from dataclasses import dataclass
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gradalign._arrays import Features
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


@lru_cache
def _constants(config: LogMel) -> tuple[np.ndarray, np.ndarray]:
    from librosa.filters import get_window, mel
    from librosa.util import pad_center

    window = pad_center(get_window("hann", config.window_samples, fftbins=True), size=config.n_fft)
    filters = mel(sr=config.sample_rate, n_fft=config.n_fft, n_mels=config.n_mels)
    return window.astype(np.float32), filters.astype(np.float32)


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


@partial(jax.jit, static_argnames="config")
def _compiled(waveform: Float[Array, " samples"], config: LogMel) -> Features:
    return log_mel(waveform, config)


def log_mel_padded(waveform: np.ndarray, config: LogMel) -> Float[np.ndarray, "frames mels"]:
    """The same frames as `log_mel`, on the host, compiled once per whole second of length.

    Zero padding a waveform changes none of its frames, which are centred and zero padded anyway.
    """
    n = len(waveform)
    seconds = -(-n // config.sample_rate)
    padded = np.pad(np.asarray(waveform, np.float32), (0, seconds * config.sample_rate - n))
    return np.asarray(_compiled(padded, config))[: config.grid.n_frames(n)]
