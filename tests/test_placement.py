"""Placing by calibrated evidence: labels stay near to where the CTC head hears them."""

import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from gradalign import placement
from gradalign.calibration import Calibration, initial
from gradalign.placement import place_calibrated, strayed
from gradalign.signals import CUES, Signals
from gradalign.timing import FrameGrid
from gradalign.transcript import Transcript

N_FRAMES = 200
GRID = FrameGrid(16_000, 160)


def test_frames_beyond_the_leash_are_counted_from_the_best_ctc_path(rng, monkeypatch):
    monkeypatch.setattr(placement, "LEASH", 1)
    labels = ("A", "B", "B")
    for _ in range(5):
        heard, blank = rng.normal(size=(3, 8)), rng.normal(size=8)
        paths = [
            spans
            for spans in oracles.all_alignments(8, np.ones(4, bool), [True, True, False])  # a blank between equal ones
        ]
        best = max(paths, key=lambda s: oracles.score_of(oracles.frame_labels(s, 8), heard, blank))
        expected = [[max(first - 1 - t, t - end, 0) for t in range(8)] for first, end in best]
        np.testing.assert_array_equal(strayed(heard, blank, labels), expected)


def test_where_ctc_has_no_path_nothing_has_strayed():
    assert not strayed(np.zeros((3, 3)), np.zeros(3), ("A", "A", "A")).any()


@pytest.mark.parametrize("cost", [0.1, 0.0])
def test_evidence_far_from_where_the_ctc_head_hears_a_label_does_not_carry_it_away(monkeypatch, cost):
    monkeypatch.setattr(placement, "LEASH_COST", cost)
    scores = np.full((2, 2, N_FRAMES), -2.0, np.float32)
    scores[0, 0, 40:50] = scores[0, 1, 60:70] = 1.0  # what the CTC head hears
    scores[1, 0, 40:50] = scores[1, 1, 60:70] = 1.0
    scores[1, 0, 140:150] = scores[1, 1, 160:170] = 6.0  # another word, of which the other evidence is surer
    cues = np.zeros((len(CUES), N_FRAMES), np.float32)
    cues[CUES.index("blank")] = 0.0
    weights = initial(2)
    weights = weights._replace(silence=jnp.zeros_like(weights.silence), speech=jnp.zeros(3))
    seen = Signals(scores, cues, np.zeros((2, 2), np.float32))
    transcript = Transcript.from_units([("one", ["K", "T"])])
    calibration = Calibration(("ctc", "attention-1"), weights)
    found, _ = place_calibrated(transcript, seen, calibration, grid=GRID, duration=N_FRAMES / 100)
    first = found.tier("phones")[0]
    assert first.start == pytest.approx(0.4 if cost else 1.4, abs=0.1)
    # Evidence without the CTC head is on no leash.
    apart = Calibration(("gradient@features", "attention-1"), weights)
    found, _ = place_calibrated(transcript, seen, apart, grid=GRID, duration=N_FRAMES / 100)
    assert found.tier("phones")[0].start == pytest.approx(1.4, abs=0.1)
