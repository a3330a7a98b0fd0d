"""Log-mel frames: against librosa, padding, frame count and gradient down to the samples."""

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from gradalign import features
from gradalign.features import LogMel, log_mel, log_mel_padded

DEFAULT = LogMel()
SMALL = LogMel(sample_rate=8_000, n_fft=256, window_samples=200, hop_samples=64, n_mels=20, floor=1e-6)
LOW = LogMel(sample_rate=1_600, n_fft=128, window_samples=101, hop_samples=16, n_mels=12)


def speech_like(n_samples, rate=16_000):
    """A rising tone with harmonics, over noise, in bursts."""
    rng = np.random.default_rng(n_samples)
    time = np.arange(n_samples) / rate
    phase = 2 * np.pi * (120 * time + 40 * time**2)
    voiced = sum(np.sin(k * phase) / k for k in range(1, 15))
    burst = 0.5 + 0.5 * np.sin(2 * np.pi * 3 * time)
    return (0.1 * burst * voiced + 0.003 * rng.normal(size=n_samples)).astype(np.float32)


@pytest.mark.parametrize("config", [DEFAULT, SMALL, LOW], ids=["default", "small", "all bands below 1 kHz"])
@pytest.mark.parametrize("n_samples", [600, 1599, 1600, 16_123])
def test_frames_are_those_of_librosa(config, n_samples):
    waveform = speech_like(n_samples, config.sample_rate)
    mel = librosa.feature.melspectrogram(
        y=waveform,
        sr=config.sample_rate,
        n_fft=config.n_fft,
        win_length=config.window_samples,
        hop_length=config.hop_samples,
        n_mels=config.n_mels,
    )
    expected = np.log(mel.T + config.floor)
    np.testing.assert_allclose(log_mel(jnp.asarray(waveform), config), expected, atol=1e-4)


@pytest.mark.parametrize("n_samples", [1, 159, 160, 161, 15_999, 16_000, 16_001, 20_000])
def test_padding_to_whole_seconds_changes_no_frame(n_samples):
    waveform = speech_like(n_samples)
    found = log_mel_padded(waveform, DEFAULT)
    assert found.shape == (1 + n_samples // 160, 80) == (DEFAULT.grid.n_frames(n_samples), 80)
    np.testing.assert_allclose(found, log_mel(jnp.asarray(waveform), DEFAULT), atol=1e-4)


@pytest.mark.parametrize("n_samples", [16_000, 16_001, 16_100, 40_003])
def test_minutes_of_a_long_recording_are_cut_where_no_frame_notices(n_samples, monkeypatch):
    waveform = speech_like(n_samples, SMALL.sample_rate)
    monkeypatch.setattr(features, "_BLOCK_S", 1)
    found = log_mel_padded(waveform, SMALL)
    np.testing.assert_allclose(found, log_mel(jnp.asarray(waveform), SMALL), atol=1e-4)


def test_a_frame_is_centred_where_the_grid_says():
    waveform = np.zeros(8_000, np.float32)
    waveform[25 * 160] = 1.0
    energy = np.exp(log_mel_padded(waveform, DEFAULT)).sum(axis=1)
    assert energy.argmax() == 25 == DEFAULT.grid.frame_at(0.25)
    np.testing.assert_allclose(energy[24], energy[26], rtol=1e-3)


def test_digital_silence_is_the_floor():
    np.testing.assert_allclose(log_mel(jnp.zeros(1000), DEFAULT), np.log(1e-8), rtol=1e-6)


def test_the_gradient_to_the_samples_is_finite_and_equal_to_differences(rng):
    waveform = jnp.asarray(speech_like(2_000))
    weights = jnp.asarray(rng.normal(size=(13, 80)), jnp.float32)

    frames = jax.jit(lambda x: log_mel(x, DEFAULT))
    gradient = jax.jit(jax.grad(lambda x: (weights * log_mel(x, DEFAULT)).sum()))(waveform)
    assert np.all(np.isfinite(gradient))
    direction = jnp.asarray(speech_like(2_001)[1:] * np.cos(np.arange(2_000)), jnp.float32)
    size = 2e-4
    change = np.asarray(frames(waveform + size * direction), np.float64) - frames(waveform - size * direction)
    # A thousand float32 logarithms are off by about 1e-6 each: together 3e-5, over twice the size 0.1.
    slope = (np.asarray(weights) * change).sum() / (2 * size)
    np.testing.assert_allclose(slope, (gradient * direction).sum(), rtol=0.01, atol=0.3)


def test_the_gradient_of_silence_is_finite():
    assert np.all(np.isfinite(jax.grad(lambda x: log_mel(x, DEFAULT).sum())(jnp.zeros(800))))


def test_frames_are_compiled_and_batched_alike():
    waveforms = jnp.stack([jnp.asarray(speech_like(1_600)), jnp.asarray(speech_like(1_600))[::-1]])
    batch = jax.jit(jax.vmap(lambda x: log_mel(x, DEFAULT)))(waveforms)
    for frames, waveform in zip(batch, waveforms, strict=True):
        np.testing.assert_allclose(frames, log_mel(waveform, DEFAULT), atol=1e-4)
