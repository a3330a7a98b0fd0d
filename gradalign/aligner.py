"""From a recording and its transcript to an alignment: the one place where all parts meet."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
from jaxtyping import Float

from gradalign import audio as audio_files
from gradalign import bundle as bundles
from gradalign._types import Method, Seconds
from gradalign.alignment import Alignment
from gradalign.buckets import FRAME_BUCKETS, LABEL_BUCKETS, bucket, pad
from gradalign.bundle import Bundle
from gradalign.cache import MAPS_IN_ORDER, drop_programs
from gradalign.clock import part
from gradalign.errors import AlignmentError
from gradalign.features import log_mel_padded
from gradalign.gradients import Reduction
from gradalign.io.transcript import read_transcript
from gradalign.lattice import Topology, check_feasible
from gradalign.nn.config import FEATURES_LEAF, leaf_depth
from gradalign.placement import place, place_calibrated
from gradalign.plain import check_rises, evidence
from gradalign.pronunciation import chosen_variants
from gradalign.readout import n_frames_at, read_signals
from gradalign.signals import depth_of, family
from gradalign.stretches import Stretch, merged, part_of, stretches
from gradalign.transcript import Transcript

WHOLE_S = 30.0
"""The most that is aligned in one piece whatever the model takes: memory grows with the square of the length."""

_log = logging.getLogger(__name__)


def align(
    audio: str | Path | np.ndarray,
    transcript: str | Path | Transcript,
    *,
    model: str | Path | Bundle = bundles.DEFAULT,
    method: Method | None = None,
    sample_rate: int | None = None,
    channel: int | None = None,
    leaf: str = "features",
    reduce: Reduction = "l2",
    variants: bool = True,
    keep_evidence: bool = True,
    exact: bool = False,
    progress: Callable[[Seconds, Seconds], None] | None = None,
) -> Alignment:
    """When each word and phone of a transcript was said.

    A recording that is longer than 30 s, or than the model takes, is cut at pauses, which the CTC head hears, and its
    stretches are aligned one after the other; see `gradalign.stretches`. Words of a stretch that cannot be aligned are
    "unplaced", and a warning says why.

    Args:
        audio: A file, or mono samples in [-1, 1].
        transcript: The words that are said, as people write them; a `pathlib.Path` of a text file with
            them (a str is never a path here); or a `Transcript` with labels.
        model: Name of a model that comes with the package, a model folder, or a loaded `Bundle`.
        method: "calibrated" (all evidence, weighed as the model has learnt to), or "calibrated-gradient",
            "calibrated-attention" or "calibrated-ctc" (one kind of it, weighed likewise); plain, that is as published:
            "gradient" (saliency of each label's log-probability), "attention" (cross-attention with dynamic time
            warping), "ctc" (forced alignment from the CTC head); or "equal" (labels spread evenly: the floor that any
            evidence must beat). None means "calibrated" if the model has learnt it, is not noted to reverse time, and
            neither ``leaf`` nor ``reduce`` asks for plain gradients; else "gradient".
        sample_rate: Of ``audio`` if it is an array; default 16 kHz. Not for files.
        channel: Channel of a file, counted from 0; None averages all of them.
        leaf: Where the plain gradients are taken: "features" (log-mel frames), "stem", "block-K" (output of
            the K-th block, counted from 1) or "encoder" (output of the last one).
        reduce: How a frame's plain gradient becomes one number; see `gradalign.saliency`.
        variants: Whether the model chooses among the pronunciations of each word; else the first one is taken.
        keep_evidence: Whether the result keeps what it was read off, for `Alignment.plot`; not for recordings that are
            cut at pauses.
        exact: Whether each label's gradient is followed through the whole recording, instead of a window around the
            place where the CTC head hears the label. Slower by the length of the recording; see docs/speed.md. It is
            so anyway where windows are not cheaper, where a probe says that even wider ones miss too much (which is
            logged as a warning), at leaves deeper than the features, with ``reduce`` other than "l2", and by
            "calibrated-gradient", which looks at that head only to choose pronunciations and to cut above 30 s.
            Methods that look at it and at more read recordings longer than 16 s in pieces.
        progress: Called with the seconds that are aligned, which need not be the first ones, and the length of the
            recording, where that is cut at pauses.

    Returns:
        Tiers "words" and "phones", and the fate of every word of the transcript. By a calibrated method boundaries are
        medians over all paths, with ranges, and words have a confidence; else they are those of the best path, on the
        edges of frames.

    Raises:
        AlignmentError: If this recording cannot be aligned with this transcript, or the model has not learnt the
            method.
        FormatError: If the file or the model cannot be read.
        ValueError: If an option is not one of those named here.

    References:
        Schmitt et al. 2025, arXiv 2410.00680 (the method); docs/method.md (ours, step by step).
    """
    if method is not None and method not in get_args(Method):
        raise ValueError(f"method must be one of {', '.join(get_args(Method))}; got {method!r}")
    if reduce not in get_args(Reduction):
        raise ValueError(f"reduce must be one of {', '.join(get_args(Reduction))}; got {reduce!r}")
    bundle = model if isinstance(model, Bundle) else bundles.load(model)
    method = chosen_method(method, bundle, plain=leaf != "features" or reduce != "l2")
    leaf_depth(leaf, bundle.network.config.encoder_layers)
    if exact and not follows_gradients(method, bundle):
        raise ValueError(f"exact goes with methods that follow gradients, got {method!r}; leave it out")
    if method != "equal":
        bundle.check_time_order(*_deepest(method, leaf, bundle))
    if isinstance(transcript, Path):
        transcript = read_transcript(transcript)
    if isinstance(transcript, str):
        transcript = Transcript.from_text(transcript)
    with part("read"):
        waveform = prepared(audio, bundle, sample_rate=sample_rate, channel=channel)
    how = _How(bundle, method, leaf, reduce, variants, keep_evidence, exact)
    if len(waveform) <= longest_whole_s(bundle) * bundle.features.sample_rate:
        return _aligned(waveform, transcript, how)
    return _aligned_in_stretches(waveform, transcript, how, progress)


def longest_whole_s(bundle: Bundle) -> Seconds:
    """Length up to which a recording is aligned in one piece; longer ones are cut at pauses."""
    return min(bundle.max_duration_s, WHOLE_S)


class _How(NamedTuple):
    """The options of `align`, checked."""

    bundle: Bundle
    method: Method
    leaf: str
    reduce: Reduction
    variants: bool
    keep_evidence: bool
    exact: bool


def _aligned(waveform: Float[np.ndarray, " samples"], transcript: Transcript, how: _How) -> Alignment:
    """A recording in one piece."""
    bundle, method = how.bundle, how.method
    with part("features"):
        features = log_mel_padded(waveform, bundle.features)
    duration = len(waveform) / bundle.features.sample_rate
    kept = (features, bundle.grid) if how.keep_evidence else None
    if how.variants and method != "equal":
        with part("variants"):
            transcript = pronounced(bundle, transcript, features)
    about: dict[str, Any] = {"duration": duration, "features": kept, "method": method, "model": bundle.name}
    if method in bundle.calibrations:
        calibration = bundle.calibrations[method]
        check_feasible(len(transcript.labels), len(features), Topology.words(transcript.unit_of_label))
        seen = read_signals(
            bundle,
            features,
            transcript.labels,
            calibration.signals,
            exact=how.exact,
            classifier=calibration.classifier,
        )
        # Where the CTC head says where to look, gradients rise whatever the encoder does; attention tells.
        told = [name for name in calibration.signals if family(name) == "attention"]
        if told:
            check_rises(seen.scores[calibration.signals.index(told[-1])], f"signal {told[-1]!r}")
        return place_calibrated(transcript, seen, calibration, grid=bundle.grid, **about)[0]
    depth = leaf_depth(how.leaf, bundle.network.config.encoder_layers)
    scores, silence, topology, grid = evidence(bundle, features, transcript, method, depth, how.reduce, how.exact)
    if method == "attention" or (method == "gradient" and depth != FEATURES_LEAF):
        check_rises(scores, method if method == "attention" else f"saliency at leaf {how.leaf!r}")
    return place(transcript, scores, silence, grid=grid, topology=topology, **about)


def _aligned_in_stretches(
    waveform: Float[np.ndarray, " samples"],
    transcript: Transcript,
    how: _How,
    progress: Callable[[Seconds, Seconds], None] | None,
) -> Alignment:
    """A recording that is cut at pauses; a stretch that cannot be aligned leaves its words unplaced."""
    bundle, hop = how.bundle, how.bundle.features.hop_samples
    rate = bundle.features.sample_rate
    duration = len(waveform) / rate
    bundle.check_time_order("cutting recordings at pauses", bundle.network.config.encoder_layers)
    with part("features"):
        features = log_mel_padded(waveform, bundle.features)
    cut = stretches(bundle, features, transcript)
    del features
    parts: dict[Stretch, Alignment | None] = {}
    done = 0.0
    inside_of = {stretch: part_of(transcript, *stretch.words) for stretch in cut}
    # By padded shape, so that programs for one shape are done with before others take their place.
    for stretch in sorted(cut, key=lambda stretch: _shape(stretch, inside_of[stretch])):
        drop_programs(most=MAPS_IN_ORDER)
        begin, end = stretch.frames
        inside = inside_of[stretch]
        found = None
        if inside is not None:
            try:
                found = _aligned(waveform[begin * hop : end * hop], inside, how._replace(keep_evidence=False))
            except AlignmentError as error:
                _log.warning(
                    "%.1f to %.1f s could not be aligned, its words are unplaced: %s",
                    begin * hop / rate,
                    end * hop / rate,
                    error,
                )
        parts[stretch] = found
        done += (end - begin) * hop / rate
        if progress is not None:
            progress(done, duration)
    if all(found is None for found in parts.values()):
        raise AlignmentError("no stretch of the recording could be aligned; is the transcript what is said there?")
    in_order = [(stretch, parts[stretch]) for stretch in cut]
    return merged(in_order, transcript, hop=bundle.grid.hop_s, duration=duration, method=how.method, model=bundle.name)


def _shape(stretch: Stretch, inside: Transcript | None) -> tuple[int, int]:
    n_frames, n_labels = stretch.frames[1] - stretch.frames[0], 0 if inside is None else len(inside.labels)
    return bucket(n_frames, FRAME_BUCKETS), bucket(n_labels, LABEL_BUCKETS)


def pronounced(bundle: Bundle, transcript: Transcript, features: Float[np.ndarray, "frames mels"]) -> Transcript:
    """The transcript with the pronunciations that the model finds most probable; see `gradalign.pronunciation`.

    A transcript that is too long for the recording comes back as it is.
    """
    if len(transcript.labels) > n_frames_at(len(features), 0, bundle):
        return transcript
    padded, n_frames, _ = pad(features, np.zeros(1, np.int32))
    return chosen_variants(bundle, transcript, padded, n_frames)


def chosen_method(method: Method | None, bundle: Bundle, *, plain: bool) -> Method:
    """The method that is meant.

    Args:
        method: As for `align`.
        bundle: The model.
        plain: Whether an option of the plain gradients was given.

    Raises:
        AlignmentError: If the model has not learnt it.
        ValueError: If that option does not go with it.
    """
    if method is None:
        # Behind a block that reverses time, only gradients at the input point to the right frames.
        reversing = bundle.time_order is not None and bundle.time_order.order == "reversed"
        return "gradient" if plain or reversing or "calibrated" not in bundle.calibrations else "calibrated"
    if plain and method != "gradient":
        raise ValueError(f'leaf and reduce go with method "gradient", got {method!r}')
    if method.startswith("calibrated") and method not in bundle.calibrations:
        raise AlignmentError(
            f"model {bundle.name!r} has not learnt method {method!r}; it has "
            f"{', '.join(bundle.calibrations) or 'no calibration'}: run gradalign calibrate, or take a plain method"
        )
    return method


def follows_gradients(method: Method, bundle: Bundle) -> bool:
    """Whether a method of this model needs any gradient."""
    learnt = bundle.calibrations.get(method)
    return any(family(name) == "gradient" for name in ((method,) if learnt is None else learnt.signals))


def _deepest(method: Method, leaf: str, bundle: Bundle) -> tuple[str, int]:
    """What a method reads off the network, and the depth of the deepest part of it, as `leaf_depth` counts."""
    layers = bundle.network.config.encoder_layers
    if method in bundle.calibrations:
        return f"method {method!r}", max(depth_of(name, layers) for name in bundle.calibrations[method].signals)
    if method == "gradient":
        return f"leaf {leaf!r}", leaf_depth(leaf, layers)
    return f"method {method!r}", layers


def prepared(
    audio: str | Path | np.ndarray, bundle: Bundle, *, sample_rate: int | None = None, channel: int | None = None
) -> Float[np.ndarray, " samples"]:
    """Samples as the model hears them: at its rate, checked, and not too quiet.

    Args:
        audio: As for `align`.
        bundle: The model.
        sample_rate: As for `align`.
        channel: As for `align`.

    Raises:
        AlignmentError: If the samples cannot be used.
        FormatError: If the file cannot be read.
    """
    rate = bundle.features.sample_rate
    if isinstance(audio, np.ndarray):
        if audio.ndim != 1:
            raise AlignmentError(f"expected mono samples, shape (samples,), got shape {audio.shape}; pick a channel")
        if not np.issubdtype(audio.dtype, np.floating):
            raise AlignmentError(
                f"expected samples as floats in [-1, 1], got {audio.dtype}; divide 16-bit integers by 32768"
            )
        if channel is not None:
            raise ValueError(f"channel is for files, got {channel} with samples, which are of one channel already")
        if sample_rate is not None and sample_rate <= 0:
            raise ValueError(f"sample_rate must be positive, in samples a second; got {sample_rate}")
        checked = audio_files.check(np.asarray(audio, np.float32))
        waveform = audio_files.resample(checked, rate if sample_rate is None else sample_rate, rate)
    else:
        if sample_rate is not None:
            raise ValueError(f"sample_rate is for samples, got {sample_rate} with a file, which has one of its own")
        if not isinstance(audio, (str, Path)):
            raise TypeError(f"expected a path, or samples as a NumPy array; got {type(audio).__name__}")
        waveform = audio_files.read(audio, channel=channel, sample_rate=rate)
    return audio_files.levelled(waveform)
