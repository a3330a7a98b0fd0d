"""Recordings from files: any format soundfile reads, any rate, one channel or their mean."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from gradalign.errors import AlignmentError, FormatError

SAMPLE_RATE = 16_000
"""Rate of every waveform inside the package, in samples a second."""

AUDIO_SUFFIXES = frozenset(
    f".{kind}" for kind in "wav flac ogg oga opus mp3 aif aiff aifc au snd caf sph w64 rf64".split()
)
"""Suffixes that make a file of a folder a recording, in lower case."""

QUIET = 0.1
"""Recordings whose largest sample is below this are amplified; 20 dB below full scale."""

SILENT = 2e-4
"""Peak-to-peak range of what is called silence: a few steps of 16-bit samples, 74 dB below full scale."""


def read(
    path: str | Path,
    *,
    channel: int | None = None,
    sample_rate: int = SAMPLE_RATE,
    max_duration_s: float | None = None,
) -> Float[np.ndarray, " samples"]:
    """A recording as mono float32 samples in [-1, 1].

    Args:
        path: A file that soundfile reads (WAV, FLAC, Ogg Vorbis and Opus, MP3, ...), of any rate.
        channel: Which channel to take, counted from 0; None averages all of them.
        sample_rate: Rate wanted, in samples a second; other rates are resampled (soxr, high quality).
        max_duration_s: Longest recording to take; a longer one is refused before it is read.

    Raises:
        FormatError: If the file is missing, a directory, empty, unreadable, or lacks the channel.
        AlignmentError: If it is too long or silent, or holds no samples, or some that are not finite.
    """
    import soundfile

    path = Path(path)
    if path.is_dir():
        raise FormatError(f"{path} is a directory; expected an audio file")
    if not path.exists():
        raise FormatError(f"{path}: no such audio file; check the path")
    if path.stat().st_size == 0:
        raise FormatError(f"{path} is empty (0 bytes); expected an audio file")
    try:
        with soundfile.SoundFile(path) as file:
            rate, length_s = file.samplerate, file.frames / file.samplerate
            if max_duration_s is not None and length_s > max_duration_s:
                raise AlignmentError(
                    f"{path} is {length_s:.0f} s long, at most {max_duration_s:.0f} s can be taken in one piece; "
                    "split it at pauses"
                )
            samples = file.read(dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError, RuntimeError, TypeError) as error:
        raise FormatError(
            f"{path} could not be read as audio ({error}); expected WAV, FLAC, Ogg, Opus or MP3. "
            "Convert it first, for example with: ffmpeg -i INPUT output.wav"
        ) from error
    if channel is not None and not 0 <= channel < samples.shape[1]:
        raise FormatError(f"{path} has {samples.shape[1]} channel(s), counted from 0; got channel {channel}")
    mono = samples.mean(axis=1) if channel is None else samples[:, channel]
    # Checked before as well: resampling spreads one NaN over many samples and ripples a constant.
    return check(resample(check(mono, name=str(path)), rate, sample_rate), name=str(path))


def resample(samples: Float[np.ndarray, " samples"], rate: int, wanted: int) -> Float[np.ndarray, " resampled"]:
    """The same sound at another sample rate, float32."""
    if rate == wanted or not len(samples):
        return np.ascontiguousarray(samples, np.float32)
    import soxr

    return soxr.resample(samples, rate, wanted, quality="HQ").astype(np.float32)


def levelled(samples: Float[np.ndarray, " samples"]) -> Float[np.ndarray, " samples"]:
    """The same sound at the level of ordinary speech, which models hear in training, if it is far below that."""
    peak = float(np.abs(samples).max(initial=0.0))
    return samples * np.float32(0.5 / peak) if 0 < peak < QUIET else samples


def check(samples: Float[np.ndarray, " samples"], *, name: str = "waveform") -> Float[np.ndarray, " samples"]:
    """``samples`` if they can be aligned.

    Args:
        samples: Mono samples.
        name: What to call them in a message.

    Raises:
        AlignmentError: If there are none, some are not finite, all lie within `SILENT` of each other, or
            some are far outside [-1, 1].
    """
    if not len(samples):
        raise AlignmentError(f"{name} holds 0 samples; expected speech")
    bad = int((~np.isfinite(samples)).sum())
    if bad:
        raise AlignmentError(f"{name} holds {bad} samples that are NaN or infinite of {len(samples)}; repair the file")
    if np.ptp(samples) < SILENT:
        raise AlignmentError(
            f"{name} is silent: all {len(samples)} samples lie within {np.ptp(samples):.1g} of each other; expected "
            "speech (of stereo, perhaps in one channel only)"
        )
    peak = float(np.abs(samples).max())
    if peak > 100:
        raise AlignmentError(f"{name} reaches {peak:.0f}; expected samples in [-1, 1], so divide integers by 32768")
    return samples
