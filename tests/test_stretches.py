"""Recordings longer than a model takes: windows, cuts, transcripts in parts, and alignments put together."""

import dataclasses
import logging

import jax.numpy as jnp
import numpy as np
import pytest

from gradalign import aligner, readout, stretches
from gradalign.aligner import align
from gradalign.alignment import Alignment, Interval, Tier, TranscriptWord
from gradalign.errors import AlignmentError
from gradalign.readout import ctc_log_probs
from gradalign.stretches import Stretch, merged, part_of
from gradalign.transcript import Transcript

TEXT = "The cat, $20: §§ sat!"


@pytest.mark.parametrize("n_frames", [1, 39, 40, 41, 80, 100, 177])
def test_windows_of_the_ctc_head_give_every_frame_once_with_its_context(tiny_bundle, monkeypatch, n_frames):
    """The network replaced by one that gives back its input: every row must be there, and none from a window's edge."""
    monkeypatch.setattr(readout, "HEARD", 80)
    monkeypatch.setattr(readout, "OVERLAP", 20)
    seen = []

    def heard(graph, state, features, n):
        assert features.shape == (80, 20)
        seen.append(int(n))
        distance = np.minimum(np.arange(80), n - 1 - np.arange(80))
        return jnp.asarray(np.stack([features[:, 0], distance], axis=1)[::4])

    monkeypatch.setattr(readout, "_ctc_log_probs", heard)
    features = np.repeat(np.arange(1, n_frames + 1, dtype=np.float32)[:, None], 20, axis=1)
    found = ctc_log_probs(tiny_bundle, features)
    np.testing.assert_array_equal(found[:, 0], features[::4, 0])
    # A frame has the context of a window, but at the ends of the recording.
    frame = np.arange(0, n_frames, 4)
    assert (found[:, 1] >= np.minimum(np.minimum(frame, n_frames - 1 - frame), 20)).all()
    assert len(seen) == -(-n_frames // 40)


def test_one_window_is_the_whole_recording(tiny_bundle, rng):
    features = rng.normal(size=(200, 20)).astype(np.float32)
    network = tiny_bundle.network
    whole = network.ctc_log_probs(network.encode(jnp.asarray(features))[0])
    np.testing.assert_allclose(ctc_log_probs(tiny_bundle, features), whole, rtol=1e-4, atol=1e-4)


def test_parts_of_a_transcript_hold_all_of_it():
    whole = Transcript.from_text(TEXT)
    assert [w.text for w in whole.words] == ["The", "cat", "$20", "§§", "sat"] or len(whole.words) == 4
    n = len(whole.words)
    for cut in range(n + 1):
        parts = [part_of(whole, 0, cut), part_of(whole, cut, n)]
        there = [p for p in parts if p is not None]
        assert sum((p.labels for p in there), ()) == whole.labels
        assert sum((p.variants for p in there), ()) == whole.variants
        assert sum((p.words for p in there), ()) == whole.words
        for p in there:
            assert p.text == whole.text
            assert p.unit_of_label[0] == 0
            assert [p.words[i].text for i in p.word_of_label] == [
                whole.words[i].text
                for i in whole.word_of_label
                if (i < cut) == (p.words[0].start_char == whole.words[0].start_char and cut > 0)
            ]
    assert part_of(whole, 2, 2) is None


def word(start: float, end: float, label: str) -> Interval:
    return Interval(start, end, label, -1.0, (start, start + 0.01), (end - 0.01, end), 0.9)


def test_alignments_of_stretches_are_put_together():
    transcript = Transcript.from_text("one two three")
    texts = transcript.words

    def alignment(intervals: list[Interval], first: int) -> Alignment:
        fates = tuple(
            TranscriptWord(w.text, w.start_char, w.end_char, "aligned", i)
            for i, w in enumerate(texts[first : first + len(intervals)])
        )
        return Alignment(
            1.0, (Tier("words", tuple(intervals)), Tier("phones", tuple(intervals))), transcript.text, fates
        )

    parts = [
        (Stretch((0, 1), (0, 100)), alignment([word(0.2, 1.0, "one")], 0)),
        (Stretch((1, 2), (100, 200)), None),
        (Stretch((2, 3), (250, 350)), alignment([word(0.0, 0.5, "three")], 2)),
    ]
    found = merged(parts, transcript, hop=0.01, duration=3.5, method="gradient", model="m")
    assert [(i.start, i.end, i.label) for i in found.tier("words")] == [(0.2, 1.0, "one"), (2.5, 3.0, "three")]
    assert found.tier("phones").intervals == found.tier("words").intervals
    assert found.tier("words")[1].start_range == (2.5, 2.51)
    assert [(w.text, w.status, w.index) for w in found.words] == [
        ("one", "aligned", 0),
        ("two", "unplaced", None),
        ("three", "aligned", 1),
    ]


def heard_at(first_frames: list[int], ids: np.ndarray, n_frames: int, vocabulary: int) -> np.ndarray:
    """Log-probabilities of a CTC head that is sure of one place for each label."""
    probable = np.full((n_frames, vocabulary), 1e-3)
    probable[:, 0] = 1.0
    for frame, label in zip(first_frames, ids, strict=True):
        probable[frame] = 1e-3
        probable[frame, label] = 1.0
    return np.log(probable / probable.sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def spoken(tiny_bundle, monkeypatch, rng):
    """A tiny model that takes 2.5 s, and 6 s of noise in which its CTC head hears nine labels in three groups."""
    transcript = Transcript.from_units([("ab", ["A", "B"]), ("k", ["K"])] * 3)
    rate, hop = tiny_bundle.features.sample_rate, tiny_bundle.features.hop_samples
    waveform = (0.1 * rng.normal(size=6 * rate)).astype(np.float32)
    second = rate / hop / tiny_bundle.network.config.subsampling  # encoder frames
    at = [round(t * second) for t in (0.5, 0.7, 1.0, 2.5, 2.7, 3.0, 4.5, 4.7, 5.0)]
    n_encoder = -(-tiny_bundle.grid.n_frames(len(waveform)) // tiny_bundle.network.config.subsampling)
    log_probs = heard_at(at, tiny_bundle.ids(transcript.labels), n_encoder, 4)
    monkeypatch.setattr(stretches, "ctc_log_probs", lambda bundle, features: log_probs)
    return dataclasses.replace(tiny_bundle, max_duration_s=2.5), waveform, transcript


def test_a_long_recording_is_that_of_its_stretches(spoken):
    bundle, waveform, transcript = spoken
    rate = bundle.features.sample_rate
    done = []
    found = align(
        waveform,
        transcript,
        model=bundle,
        method="gradient",
        sample_rate=rate,
        progress=lambda now, all_: done.append((now, all_)),
    )
    assert found.duration == 6.0
    assert found.evidence is None
    assert found.problems == ()
    cut = stretches.stretches(bundle, aligner.log_mel_padded(waveform, bundle.features), transcript)
    assert [s.words for s in cut] == [(0, 2), (2, 4), (4, 6)]
    lengths = sorted((s.frames[1] - s.frames[0]) * bundle.grid.hop_s for s in cut)
    assert [now for now, _ in done] == pytest.approx(np.cumsum(lengths))
    assert {all_ for _, all_ in done} == {6.0}
    hop = bundle.features.hop_samples
    words = []
    for stretch in cut:
        begin, end = stretch.frames
        part = part_of(transcript, *stretch.words)
        one = align(waveform[begin * hop : end * hop], part, model=bundle, method="gradient", sample_rate=rate)
        words += [(w.start + begin * hop / rate, w.end + begin * hop / rate, w.label) for w in one.tier("words")]
    np.testing.assert_allclose([(w.start, w.end) for w in found.tier("words")], [w[:2] for w in words], atol=1e-9)
    assert [w.label for w in found.tier("words")] == [w[2] for w in words]


def test_what_cannot_be_aligned_is_unplaced_and_the_rest_is_kept(spoken, monkeypatch, caplog):
    bundle, waveform, transcript = spoken
    calls = []
    real = aligner._aligned

    def second_fails(waveform, transcript, how):
        calls.append(len(waveform))
        if len(calls) == 2:
            raise AlignmentError("planted")
        return real(waveform, transcript, how)

    monkeypatch.setattr(aligner, "_aligned", second_fails)
    with caplog.at_level(logging.WARNING, logger="gradalign"):
        found = align(waveform, transcript, model=bundle, method="gradient", sample_rate=bundle.features.sample_rate)
    assert [w.status for w in found.words] == ["aligned"] * 2 + ["unplaced"] * 2 + ["aligned"] * 2
    assert "its words are unplaced: planted" in caplog.text
    monkeypatch.setattr(aligner, "_aligned", lambda *_: (_ for _ in ()).throw(AlignmentError("planted")))
    with pytest.raises(AlignmentError, match="no stretch of the recording could be aligned"):
        align(waveform, transcript, model=bundle, method="gradient", sample_rate=bundle.features.sample_rate)


def test_what_the_ctc_head_does_not_hear_is_refused(spoken, monkeypatch, rng):
    bundle, waveform, transcript = spoken
    n = len(stretches.ctc_log_probs(bundle, np.zeros(0)))
    flat = np.log(np.full((n, 4), 0.25)) + 0.1 * rng.normal(size=(n, 4))
    monkeypatch.setattr(stretches, "ctc_log_probs", lambda *_: flat.astype(np.float32))
    with pytest.raises(AlignmentError, match="the CTC head does not hear the transcript in the recording"):
        align(waveform, transcript, model=bundle, method="gradient", sample_rate=bundle.features.sample_rate)
