"""The aligner: planted answers through `place`, and what must hold for any network through `align`."""

import dataclasses
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from flax import nnx

from gradalign import buckets, plain, readout
from gradalign._types import Method
from gradalign.aligner import align
from gradalign.analysis.verdict import TimeOrder
from gradalign.bundle import Bundle
from gradalign.calibrate import METHODS
from gradalign.calibration import Calibration, initial
from gradalign.compressed import WIDTHS
from gradalign.errors import AlignmentError, FormatError
from gradalign.features import LogMel, log_mel_padded
from gradalign.gradients import saliency
from gradalign.lattice import Topology
from gradalign.lexicon import PHONES
from gradalign.nn.aed import AED
from gradalign.nn.config import AEDConfig, leaf_depth
from gradalign.placement import place
from gradalign.plain import gradient_saliency
from gradalign.signals import signal_names
from gradalign.timing import FrameGrid
from gradalign.transcript import Transcript

GRID = FrameGrid(16_000, 160)
TEXT = "The cat sat on a mat, twice: $20!"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """A random network with phone labels: its times mean nothing, its invariants must hold."""
    config = AEDConfig(
        dim=16, heads=2, encoder_layers=2, decoder_layers=2, feed_forward_dim=32, conv_kernel=5, stem_channels=4
    )
    return Bundle("random", AED(config, rngs=nnx.Rngs(3)), LogMel(), PHONES, max_duration_s=20.0)


@pytest.fixture
def speech(rng: np.random.Generator) -> np.ndarray:
    return (0.1 * rng.normal(size=3 * 16_000)).astype(np.float32)


def planted(runs: list[tuple[int, int]], n_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores that are high on the given runs of frames, and silence that is high elsewhere."""
    scores = np.full((len(runs), n_frames), -5.0, np.float32)
    silence = np.zeros(n_frames, np.float32)
    for row, (first, last) in enumerate(runs):
        scores[row, first:last] = 0.0
        silence[first:last] = -5.0
    return scores, silence


def test_planted_runs_become_their_times():
    transcript = Transcript.from_units([("hi", ["h", "i"]), ("you", ["y", "u"])])
    scores, silence = planted([(10, 20), (20, 35), (50, 60), (60, 99)], 120)
    found = place(transcript, scores, silence, grid=GRID, duration=1.195)
    assert [(p.label, p.start, p.end) for p in found.tier("phones")] == [
        ("h", 0.095, 0.195),
        ("i", 0.195, 0.345),
        ("y", 0.495, 0.595),
        ("u", 0.595, 0.985),
    ]
    assert [(w.label, w.start, w.end) for w in found.tier("words")] == [("hi", 0.095, 0.345), ("you", 0.495, 0.985)]
    assert all(w.score == 0.0 for w in found.tier("words"))


def test_silence_inside_a_word_is_not_allowed():
    transcript = Transcript.from_units([("hi", ["h", "i"])])
    scores, silence = planted([(10, 20), (40, 50)], 60)
    h, i = place(transcript, scores, silence, grid=GRID, duration=0.6).tier("phones")
    assert h.end == i.start


def test_a_number_said_as_two_words_may_pause_between_them():
    transcript = Transcript.from_text("$20")
    runs = [(10 + 3 * k, 13 + 3 * k) for k in range(6)] + [(60 + 3 * k, 63 + 3 * k) for k in range(5)]
    scores, silence = planted(runs[: len(transcript.labels)], 100)
    phones = place(transcript, scores, silence, grid=GRID, duration=1.0).tier("phones")
    gaps = [b.start - a.end for a, b in zip(phones, list(phones)[1:], strict=False)]
    assert max(gaps) > 0.2
    assert len(place(transcript, scores, silence, grid=GRID, duration=1.0).tier("words")) == 1


@pytest.mark.parametrize("method", get_args(Method))
def test_every_method_gives_a_valid_alignment(bundle: Bundle, speech: np.ndarray, method):
    names = {m: signal_names(bundle.network.config, families) for m, families in METHODS.items()}
    calibrations = {m: Calibration(chosen, initial(len(chosen))) for m, chosen in names.items()}
    found = align(speech, TEXT, model=dataclasses.replace(bundle, calibrations=calibrations), method=method)
    words, phones = found.tier("words"), found.tier("phones")
    assert [w.label for w in words] == ["The", "cat", "sat", "on", "a", "mat", "twice", "$20"]
    assert all(word.status == "aligned" for word in found.words)
    assert [TEXT[w.start_char : w.end_char] for w in found.words] == [w.label for w in words]
    assert all(p.duration > 0 for p in phones)
    assert phones[-1].end <= found.duration == 3.0
    for word in words:
        inside = found.phones_of(word)
        assert (inside[0].start, inside[-1].end) == (word.start, word.end)
    assert found.method == method
    assert found.model == "random"


def test_equal_labels_fill_the_recording_evenly(bundle: Bundle, speech: np.ndarray):
    phones = align(speech, "cat sat", model=bundle, method="equal").tier("phones")
    assert (phones[0].start, phones[-1].end) == (0.0, 3.0)
    assert all(abs(p.duration - 0.5) < 0.011 for p in phones)


def test_an_unpronounceable_word_is_named(bundle: Bundle, speech: np.ndarray):
    found = align(speech, "cat привет sat", model=bundle)
    assert [(w.text, w.status) for w in found.problems] == [("привет", "unpronounceable")]
    assert len(found.tier("words")) == 2
    assert "привет" in repr(found)


def test_padding_to_buckets_changes_nothing(bundle: Bundle, speech: np.ndarray):
    features = log_mel_padded(speech, bundle.features)
    labels = bundle.ids(Transcript.from_text("cat sat").labels)
    ours = gradient_saliency(bundle, features, labels)
    graph, state = nnx.split(bundle.network)

    @jax.jit
    def plain(state, x):
        return saliency(lambda y: nnx.merge(graph, state).label_log_probs(y, jnp.asarray(labels)), x)

    np.testing.assert_allclose(ours, plain(state, features), rtol=2e-3, atol=1e-7)


def test_a_deeper_leaf_has_the_encoder_s_frames(bundle: Bundle, speech: np.ndarray):
    features = log_mel_padded(speech, bundle.features)
    labels = bundle.ids(("K", "AE", "T"))
    for leaf, n_frames in (("features", 301), ("stem", 76), ("block-1", 76), ("encoder", 76)):
        found = gradient_saliency(bundle, features, labels, leaf=leaf)
        assert found.shape == (3, n_frames)
        assert (found.sum(axis=1) > 0).all()


def test_deeper_leaves_align_on_the_feature_grid(bundle: Bundle, speech: np.ndarray):
    found = align(speech, "cat sat", model=bundle, leaf="encoder")
    assert found.evidence is not None
    assert found.evidence.grid == bundle.grid


def test_leaves_have_names():
    assert [leaf_depth(leaf, 6) for leaf in ("features", "stem", "block-1", "block-6", "encoder")] == [-1, 0, 1, 6, 6]
    with pytest.raises(ValueError, match="no leaf 'block-7'; this model has features, stem, block-1"):
        leaf_depth("block-7", 6)


def test_other_rates_are_resampled(bundle: Bundle, speech: np.ndarray):
    found = align(np.repeat(speech, 2), "cat sat", model=bundle, sample_rate=32_000, method="equal")
    assert found.duration == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channel": 1}, "channel is for files, got 1"),
        ({"sample_rate": 0}, "sample_rate must be positive.* got 0"),
        ({"audio": "rec.wav", "sample_rate": 8000}, "sample_rate is for samples, got 8000"),
    ],
)
def test_what_does_not_go_with_the_audio_is_refused(bundle: Bundle, speech: np.ndarray, options, message):
    audio = options.pop("audio", speech)
    with pytest.raises(ValueError, match=message):
        align(audio, "the cat", model=bundle, **options)


def test_a_file_of_times_is_no_transcript_in_python_either(bundle: Bundle, speech: np.ndarray, tmp_path):
    path = tmp_path / "a.TextGrid"
    path.touch()
    with pytest.raises(FormatError, match="is not plain text"):
        align(speech, path, model=bundle)


def test_labels_that_a_model_lacks_have_no_gradients(bundle: Bundle):
    features = np.zeros((40, bundle.features.n_mels), np.float32)
    for labels, mels in (([0], 0), ([len(bundle.labels) + 1], 0), ([1], 1)):
        with pytest.raises(ValueError, match=r"ids from 1 to \d+, got|takes \d+ mels"):
            gradient_saliency(bundle, features[:, mels:], np.array(labels, np.int32))


def test_evidence_is_kept_only_on_request(bundle: Bundle, speech: np.ndarray):
    kept = align(speech, "cat sat", model=bundle)
    assert kept.evidence is not None
    assert kept.evidence.scores.shape == (6, 301)
    assert align(speech, "cat sat", model=bundle, keep_evidence=False).evidence is None


def test_windows_that_miss_too_much_give_way_to_the_exact_gradients_and_say_so(
    bundle: Bundle, speech: np.ndarray, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    exact = align(speech, "the cat sat", model=bundle, exact=True)
    assert not caplog.records
    monkeypatch.setattr(readout, "UNSURE", -1.0)
    unsure = align(speech, "the cat sat", model=bundle)
    assert "followed through the whole recording" in caplog.text
    assert exact.evidence is not None
    assert unsure.evidence is not None
    np.testing.assert_array_equal(unsure.evidence.scores, exact.evidence.scores)
    caplog.clear()
    monkeypatch.setattr(readout, "UNSURE", np.inf)
    windowed = align(speech, "the cat sat", model=bundle)
    assert not caplog.records
    assert windowed.evidence is not None
    assert np.abs(windowed.evidence.scores - exact.evidence.scores).max() > 0


def test_wider_windows_come_before_the_exact_gradients(
    bundle: Bundle, speech: np.ndarray, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    asked, windowed_scores = [], plain._windowed_scores

    def first_ones_miss(*args: Any, width: int, **kwargs: Any) -> Any:
        asked.append(width)
        found, _ = windowed_scores(*args, width=width, **kwargs)
        return found, 0.5 if len(asked) == len(WIDTHS) else 2.0

    monkeypatch.setattr(readout, "UNSURE", 1.0)
    monkeypatch.setattr(plain, "_windowed_scores", first_ones_miss)
    wider = align(speech, "the cat sat", model=bundle)
    assert asked == list(WIDTHS)
    assert not caplog.records
    exact = align(speech, "the cat sat", model=bundle, exact=True)
    assert wider.evidence is not None
    assert exact.evidence is not None
    assert np.abs(wider.evidence.scores - exact.evidence.scores).max() > 0


def test_without_a_path_through_the_ctc_head_no_wider_windows_are_tried(
    bundle: Bundle, speech: np.ndarray, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    asked = []

    def lost(*args: Any, width: int, **kwargs: Any) -> Any:
        asked.append(width)
        return (None, None), np.inf

    monkeypatch.setattr(plain, "_windowed_scores", lost)
    found = align(speech, "the cat sat", model=bundle)
    assert len(asked) == 1
    assert "finds no path" in caplog.text
    exact = align(speech, "the cat sat", model=bundle, exact=True)
    assert found.evidence is not None
    assert exact.evidence is not None
    np.testing.assert_array_equal(found.evidence.scores, exact.evidence.scores)


def test_short_recordings_and_other_reductions_are_exact(
    bundle: Bundle, speech: np.ndarray, monkeypatch: pytest.MonkeyPatch
):
    def never(*args, **kwargs):
        raise AssertionError("windows were asked for")

    monkeypatch.setattr(plain, "_windowed_scores", never)
    align(speech[:4000], "the cat sat", model=bundle)
    align(speech, "the cat sat", model=bundle, reduce="l1")
    align(speech, "a", model=bundle)


def test_a_model_that_reverses_time_is_aligned_by_gradients_at_the_input(bundle: Bundle, speech: np.ndarray):
    signals = {
        "calibrated": ("gradient@features", "ctc"),
        "calibrated-gradient": ("gradient@features", "gradient@stem"),
    }
    calibrations = {method: Calibration(names, initial(len(names))) for method, names in signals.items()}
    turned = dataclasses.replace(bundle, calibrations=calibrations, time_order=TimeOrder("reversed", 2))
    assert align(speech, TEXT, model=turned).method == "gradient"
    assert align(speech, TEXT, model=dataclasses.replace(turned, time_order=TimeOrder("kept"))).method == "calibrated"
    # Its gradients at the features and the stem lie before the block that turns, its CTC head behind it.
    assert align(speech, TEXT, model=turned, method="calibrated-gradient").method == "calibrated-gradient"
    with pytest.raises(AlignmentError, match=r"reverses time in block 2, so that method 'calibrated' would put words"):
        align(speech, TEXT, model=turned, method="calibrated")
    with pytest.raises(AlignmentError, match=r"leaf 'block-2' would put words"):
        align(speech, TEXT, model=turned, leaf="block-2")


@pytest.mark.parametrize("method", ["gradient", "ctc", "attention", "equal"])
def test_too_little_audio_for_the_sentence_is_an_error(bundle: Bundle, speech: np.ndarray, method):
    with pytest.raises(AlignmentError, match=r"labels need at least \d+ frames.*, got \d+ frames"):
        align(speech[:320], TEXT, model=bundle, method=method)


def test_an_untrained_ctc_head_cuts_no_long_recording(bundle: Bundle, rng: np.random.Generator):
    with pytest.raises(AlignmentError, match=r"does not hear the transcript.* without a trained CTC head cannot"):
        align(rng.normal(size=25 * 16_000).astype(np.float32), "cat", model=bundle)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros(0, np.float32), "0 samples"),
        (np.zeros(16_000, np.float32), "silent"),
        (np.full(16_000, np.nan, np.float32), "NaN or infinite"),
        (np.ones((2, 100), np.float32), "mono"),
        (np.array([-1e-5, 3e-5] * 8000, np.float32), "silent"),
        (np.arange(16_000, dtype=np.int16), "as floats in .* got int16; divide"),
        (np.arange(16_000, dtype=np.float32), "reaches 15999; expected samples in"),
    ],
)
def test_bad_samples_are_refused(bundle: Bundle, samples: np.ndarray, message: str):
    with pytest.raises(AlignmentError, match=message):
        align(samples, "cat", model=bundle)


def test_quiet_recordings_are_amplified(bundle: Bundle, speech: np.ndarray):
    loud = speech * np.float32(0.5 / np.abs(speech).max())
    quiet = align(loud * np.float32(1e-3), "cat sat", model=bundle)
    for a, b in zip(quiet.tier("phones"), align(loud, "cat sat", model=bundle).tier("phones"), strict=True):
        assert (a.start, a.end) == (b.start, b.end)


def test_a_path_is_read_as_the_transcript(bundle: Bundle, speech: np.ndarray, tmp_path: Path):
    (tmp_path / "t.txt").write_text("cat sat\n")
    found = align(speech, tmp_path / "t.txt", model=bundle, method="equal")
    assert [w.label for w in found.tier("words")] == ["cat", "sat"]


def test_scores_that_are_not_finite_are_refused():
    transcript = Transcript.from_units([("a", ["a"])])
    with pytest.raises(AlignmentError, match="1 scores are NaN, infinite"):
        place(transcript, np.array([[0.0, np.nan]], np.float32), np.zeros(2, np.float32), grid=GRID, duration=0.01)


def test_rows_must_match_labels():
    transcript = Transcript.from_units([("a", ["a"])])
    with pytest.raises(ValueError, match="scores have 2 rows, the transcript 1 labels"):
        place(transcript, np.zeros((2, 5), np.float32), np.zeros(5, np.float32), grid=GRID, duration=1.0)


def test_parts_that_do_not_belong_together_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as at run time
    transcript = Transcript.from_units([("ab", ["a", "b"])])
    scores, silence = np.zeros((2, 20), np.float32), np.zeros(20, np.float32)
    with pytest.raises(ValueError, match="silence has 5 frames, the scores have 20"):
        place(transcript, scores, silence[:5], grid=GRID, duration=0.2)
    with pytest.raises(ValueError, match="topology is for 3 labels, the transcript has 2"):
        place(transcript, scores, silence, grid=GRID, duration=0.2, topology=Topology.free(3))
    with pytest.raises(ValueError, match=r"20 frames of 0.01 s do not go with 0.05 s"):
        place(transcript, scores, silence, grid=GRID, duration=0.05)


def test_buckets_hold_what_they_are_asked_to():
    for size in range(1, 20_000, 37):
        assert buckets.bucket(size, buckets.FRAME_BUCKETS) >= size
