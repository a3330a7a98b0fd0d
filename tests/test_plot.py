"""Pictures of alignments: what is in them, and what is refused. That they look well is seen, not tested."""

import dataclasses
import sys

import numpy as np
import pytest

from gradalign.alignment import Alignment
from gradalign.io import json
from gradalign.placement import place
from gradalign.plot import plot
from gradalign.timing import FrameGrid
from gradalign.transcript import Transcript

GRID = FrameGrid(16_000, 160)


def aligned(n_words: int = 2, n_frames: int = 120, word: str = "cat") -> Alignment:
    transcript = Transcript.from_units([(word, ["K", "AE", "T"])] * n_words)
    owner = np.arange(n_frames) * 3 * n_words // n_frames
    scores = np.where(owner[None, :] == np.arange(3 * n_words)[:, None], -0.1, -5.0).astype(np.float32)
    features = np.random.default_rng(0).normal(size=(n_frames, 20)).astype(np.float32)
    return place(
        transcript,
        scores,
        np.full(n_frames, -6.0, np.float32),
        grid=GRID,
        duration=n_frames / 100,
        features=(features, GRID),
        method="gradient",
        model="tiny",
    )


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_a_figure_has_spectrogram_evidence_and_tiers_over_one_time_axis():
    alignment = aligned()
    figure = alignment.plot()
    spectrogram, matrix, boxes = figure.axes
    assert {axes.get_xlim() for axes in figure.axes} == {(0.0, alignment.duration)}
    assert [label.get_text() for label in matrix.get_yticklabels()] == ["K", "AE", "T"] * 2
    assert [label.get_text() for label in boxes.get_yticklabels()] == ["words", "phones"]
    assert texts(boxes) == ["cat", "cat", "K", "AE", "T", "K", "AE", "T"]
    assert spectrogram.get_title(loc="left") == "cat cat   (tiny by gradient)"
    assert len(spectrogram.lines) == 4  # start and end of two words


def test_the_evidence_lies_on_the_times_of_its_frames():
    alignment = aligned()
    _, matrix, _ = plot(alignment).axes
    left, right, bottom, top = matrix.images[0].get_extent()
    assert (left, right) == pytest.approx((-0.005, 1.195))
    assert (bottom, top) == (5.5, -0.5)  # first label on top


def test_labels_that_do_not_fit_are_left_out_and_rows_are_thinned():
    alignment = aligned(n_words=400, n_frames=6000, word="catastrophically")
    _, matrix, boxes = plot(alignment).axes
    assert texts(boxes) == []
    assert 0 < len(matrix.get_yticks()) < 200


@pytest.mark.parametrize("word", ["$20_x^2", "price$", "naïve", "猫", "a\\b", "{", "<b>&"])
def test_any_word_is_drawn_as_it_is_written(word, tmp_path):
    figure = aligned(word=word).plot(path=tmp_path / "a.png")
    assert word in texts(figure.axes[2])


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_a_figure_is_saved_as_its_suffix_says(suffix, magic, tmp_path):
    aligned().plot(path=tmp_path / f"a.{suffix}")
    assert (tmp_path / f"a.{suffix}").read_bytes().startswith(magic)


def test_a_suffix_that_matplotlib_does_not_know_is_refused(tmp_path):
    with pytest.raises(ValueError, match="xyz"):
        aligned().plot(path=tmp_path / "a.xyz")


def test_an_alignment_with_one_tier_or_none_is_drawn():
    alignment = aligned()
    for tiers in (alignment.tiers[1:], ()):
        figure = plot(dataclasses.replace(alignment, tiers=tiers, words=()))
        assert [label.get_text() for label in figure.axes[2].get_yticklabels()] == [tier.name for tier in tiers]


def test_features_and_evidence_without_contrast_are_drawn(tmp_path):
    alignment = aligned()
    assert alignment.evidence is not None
    flat = dataclasses.replace(
        alignment.evidence,
        features=np.zeros_like(alignment.evidence.features),
        scores=np.full_like(alignment.evidence.scores, -1e3),
        path=np.full_like(alignment.evidence.path, -1),
    )
    dataclasses.replace(alignment, evidence=flat).plot(path=tmp_path / "a.png")


def test_an_alignment_without_evidence_says_how_to_get_it():
    with pytest.raises(ValueError, match="keep_evidence=True"):
        json.parse(json.format(aligned())).plot()


def test_without_matplotlib_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "gradalign\[plot\]"'):
        plot(aligned())


def test_plotting_opens_no_window_and_keeps_no_figure():
    before = set(sys.modules)
    plot(aligned())
    assert "matplotlib.pyplot" not in set(sys.modules) - before
