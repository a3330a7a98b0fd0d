"""Cutting long recordings: nothing is lost, cuts lie in the widest pauses, and rows come back where they belong."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradalign import readout
from gradalign.gradients import Reduction
from gradalign.nn.aed import FEATURES_LEAF
from gradalign.pieces import Piece, joined, pieces
from gradalign.plain import evidence
from gradalign.readout import read_signals
from gradalign.signals import CUES, OF_GRADIENTS, Signals, signal_names
from gradalign.transcript import Transcript


@given(st.lists(st.integers(0, 60), min_size=1, max_size=40), st.integers(0, 80), st.integers(5, 200))
def test_pieces_hold_all_labels_in_order_and_only_silence_lies_between(gaps, rest, longest):
    centres = np.cumsum(gaps)
    n_frames = int(centres[-1]) + 1 + rest
    found = pieces(centres, centres, n_frames, longest=longest, margin=10)
    assert [p.labels[0] for p in found] == [0, *(p.labels[1] for p in found[:-1])]
    for before, after in pairwise(found):
        end, begin = before.frames[1], after.frames[0]
        assert end == begin or (
            end < begin and (end > centres[before.labels[1] - 1] + 10 or begin < centres[after.labels[0]] - 9)
        )
    assert found[-1].labels[1] == len(gaps)
    if n_frames <= longest:
        assert found == [Piece((0, len(gaps)), (0, n_frames))]
    else:
        assert (found[0].frames[0], found[-1].frames[1]) == (max(centres[0] - 10, 0), min(centres[-1] + 11, n_frames))
    for (first, last), (begin, end) in found:
        assert begin <= centres[first] <= centres[last - 1] <= end
        # What is still too long has no place to be cut: one label, or all at one frame.
        assert end - begin <= longest or last - first == 1 or len(set(centres[first:last])) < last - first + 1


def test_long_silence_does_not_cut_off_a_label():
    centres = np.linspace(20, 300, 30).round().astype(int)
    assert pieces(centres, centres, 2000, longest=1600) == [Piece((0, 30), (0, 401))]
    assert pieces(centres + 1600, centres + 1600, 2000, longest=1600) == [Piece((0, 30), (1520, 2000))]


def test_a_pause_that_is_longer_than_a_piece_is_left_out():
    centres = np.array([100, 150, 5000, 5050])
    found = pieces(centres - 5, centres + 5, 9000, longest=400, margin=20)
    assert found == [Piece((0, 2), (75, 176)), Piece((2, 4), (4975, 5076))]


def test_the_cut_is_in_the_widest_pause_of_the_middle():
    centres = np.array([5, 10, 40, 45, 50, 70, 75, 80, 85, 95])  # pauses after 10, which is too early, and after 50
    assert pieces(centres, centres, 100, longest=60) == [Piece((0, 5), (0, 60)), Piece((5, 10), (60, 100))]
    assert pieces(centres, centres, 100, longest=100) == [Piece((0, 10), (0, 100))]


def test_rows_come_back_where_they_belong():
    names = 2
    rng = np.random.default_rng(0)

    def signals(n_labels: int, n_frames: int, n_signals: int = names) -> Signals:
        scores = rng.normal(size=(n_signals, n_labels, n_frames))
        return Signals(scores, rng.normal(size=(len(CUES), n_frames)), rng.normal(size=(n_labels, 2)))

    first, second, whole = signals(2, 4), signals(1, 3), signals(3, 10, 1)
    cut = [(Piece((0, 2), (1, 5)), first), (Piece((2, 3), (7, 10)), second._replace(missed=0.5))]
    found = joined(cut, whole, ctc=1)
    np.testing.assert_allclose(found.scores[0, :2, 1:5], first.scores[0], rtol=1e-6)
    np.testing.assert_allclose(found.scores[0, 2, 7:], second.scores[0, 0], rtol=1e-6)
    np.testing.assert_allclose(found.scores[0, 2, :7], second.scores[0, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(found.scores[0, :2, 5:], first.scores[0, :, -1:].repeat(5, 1), rtol=1e-6)
    np.testing.assert_allclose(found.scores[1], whole.scores[0], rtol=1e-6)
    np.testing.assert_allclose(found.sure, np.concatenate([first.sure, second.sure]), rtol=1e-6)
    for row, name in enumerate(CUES):
        if name in OF_GRADIENTS:
            one, other = first.cues[row], second.cues[row]
            expected = np.concatenate([one[:1], one, one[-1:], one[-1:], other])
        else:
            expected = whole.cues[row]
        np.testing.assert_allclose(found.cues[row], expected, rtol=1e-6)
    assert found.missed == 0.5


def test_a_recording_longer_than_a_piece_is_read_in_pieces(tiny_bundle, monkeypatch):
    rng = np.random.default_rng(5)
    features, labels = rng.normal(size=(120, 20)).astype(np.float32), ("A", "B", "K", "A", "B", "A")
    names = signal_names(tiny_bundle.network.config)
    whole = read_signals(tiny_bundle, features, labels)
    monkeypatch.setattr(readout, "LONGEST_S", 0.9)
    seen = []
    monkeypatch.setattr(readout, "pieces", lambda *args, **kw: seen.extend(pieces(*args, **kw)) or seen)
    found = read_signals(tiny_bundle, features, labels)
    assert len(seen) > 1
    np.testing.assert_allclose(found.scores[names.index("ctc")], whole.scores[names.index("ctc")], atol=1e-4)
    of_gradients = [CUES.index(name) for name in OF_GRADIENTS]
    others = [row for row in range(len(CUES)) if row not in of_gradients]
    np.testing.assert_allclose(found.cues[others], whole.cues[others], atol=1e-4)
    for (first, last), (begin, end) in seen:
        alone = read_signals(tiny_bundle, features[begin:end], labels[first:last])
        np.testing.assert_allclose(found.cues[of_gradients, begin:end], alone.cues[of_gradients], atol=1e-4)
        np.testing.assert_allclose(
            found.scores[0, first:last, begin:end], alone.scores[0], atol=1e-3
        )  # gradients at the features
    # Without the CTC head nothing says where to cut.
    apart = tuple(name for name in names if name != "ctc")
    uncut = read_signals(tiny_bundle, features, labels, apart)
    np.testing.assert_allclose(uncut.scores, whole.scores[: len(apart)], atol=1e-3)


def test_plain_gradients_of_a_long_recording_are_those_of_its_pieces(tiny_bundle, monkeypatch):
    rng = np.random.default_rng(6)
    features, labels = rng.normal(size=(120, 20)).astype(np.float32), ("A", "B", "K", "A", "B", "A")

    def read(first: int, last: int, begin: int, end: int, *, exact: bool = False, reduce: Reduction = "l2"):
        here = Transcript("", (), labels[first:last], (0,) * (last - first), tuple(range(last - first)))
        found = evidence(tiny_bundle, features[begin:end], here, "gradient", FEATURES_LEAF, reduce, exact)
        return found[0], found[1]

    whole = read(0, 6, 0, 120)
    monkeypatch.setattr(readout, "LONGEST_S", 0.9)
    seen = []
    monkeypatch.setattr(readout, "pieces", lambda *args, **kw: seen.extend(pieces(*args, **kw)) or seen)
    scores, silence = read(0, 6, 0, 120)
    cut = [(*piece.labels, *piece.frames) for piece in seen]
    assert len(cut) > 1
    monkeypatch.setattr(readout, "LONGEST_S", 16.0)
    rest, unread = np.ones(scores.shape, bool), np.ones(120, bool)
    for first, last, begin, end in cut:
        alone = read(first, last, begin, end)
        np.testing.assert_allclose(scores[first:last, begin:end], alone[0], atol=1e-4)
        np.testing.assert_allclose(silence[begin:end], alone[1], atol=1e-4)
        rest[first:last, begin:end] = False
        unread[begin:end] = False
    # Labels outside of their pieces lose against anything; where no piece is, there is silence.
    assert (scores[rest] < scores[~rest].min() - 100).all()
    assert (silence[unread] == 0).all()
    assert np.abs(scores - whole[0])[~rest].max() > 1e-3
    # Nothing may tell the gradients of the paper where to cut.
    monkeypatch.setattr(readout, "LONGEST_S", 0.9)
    seen.clear()
    for options in ({"exact": True}, {"reduce": "l1"}):
        assert read(0, 6, 0, 120, **options)[0].min() > -100
    assert not seen


def test_one_label_cannot_be_cut():
    assert pieces(np.array([7]), np.array([7]), 500, longest=100) == [Piece((0, 1), (0, 108))]


@pytest.mark.parametrize("longest", [1, 3])
def test_labels_at_one_frame_end_the_cutting(longest):
    found = pieces(np.full(4, 10), np.full(4, 10), 21, longest=longest)
    assert (found[0].labels[0], found[-1].labels[1]) == (0, 4)
