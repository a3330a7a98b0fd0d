"""Frame grids: frames tile a recording, own their centres, and survive symmetric subsampling."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradalign.timing import FrameGrid

grids = st.builds(
    FrameGrid,
    st.sampled_from([8_000, 16_000, 22_050, 44_100]),
    st.integers(1, 2_000),
    st.integers(-500, 2_000),
)
frames = st.integers(-1_000, 20_000)
unhurried = settings(deadline=None)


@unhurried
@given(grids, frames)
def test_a_frame_owns_its_centre_and_what_lies_inside_its_edges(grid, frame):
    start, end = grid.edge_s(frame), grid.edge_s(frame + 1)
    assert grid.frame_at((start + end) / 2) == frame
    assert grid.frame_at(start + 0.01 * grid.hop_s) == frame
    assert grid.frame_at(end - 0.01 * grid.hop_s) == frame


@unhurried
@given(grids, frames, st.integers(1, 50))
def test_adjacent_runs_share_their_edge_exactly(grid, first, n):
    whole = 1e9
    middle, last = first + n, first + 2 * n
    if grid.edge_s(middle) >= 0:
        assert grid.span_s(first, middle, whole)[1] == grid.span_s(middle, last, whole)[0]
    assert grid.edge_s(last) - grid.edge_s(first) == pytest.approx(2 * n * grid.hop_s)


@unhurried
@given(grids, st.integers(0, 1_000), st.integers(1, 1_000), st.floats(0.01, 100.0))
def test_a_span_lies_in_the_recording(grid, first, n, duration):
    start, end = grid.span_s(first, first + n, duration)
    assert start >= 0
    assert end <= duration


@unhurried
@given(st.sampled_from([8_000, 16_000, 44_100]), st.integers(1, 500), st.integers(1, 100_000))
def test_the_frames_of_a_centred_grid_tile_the_recording(rate, hop, n_samples):
    grid, duration = FrameGrid(rate, hop), n_samples / rate
    n = grid.n_frames(n_samples)
    assert grid.span_s(0, 1, duration)[0] == 0.0
    assert (n - 1) * hop <= n_samples < n * hop
    # The last frame owns at most half a hop past its centre, so less than half a hop is left over.
    assert duration - grid.span_s(n - 1, n, duration)[1] <= grid.hop_s / 2 + 1e-9
    assert grid.span_s(0, n, duration)[1] > grid.edge_s(n - 1)


@unhurried
@given(grids, st.integers(1, 8), st.integers(0, 5_000))
def test_a_subsampled_frame_is_centred_on_every_factor_th_frame(grid, factor, frame):
    coarse = grid.subsampled(factor)
    centre = (coarse.edge_s(frame) + coarse.edge_s(frame + 1)) / 2
    expected = (grid.edge_s(factor * frame) + grid.edge_s(factor * frame + 1)) / 2
    assert centre == pytest.approx(expected, abs=1e-9)
    assert grid.frame_at(centre) == factor * frame
    assert coarse.hop_s == pytest.approx(factor * grid.hop_s)


@unhurried
@given(grids, st.integers(1, 8), st.integers(0, 200_000))
def test_subsampling_keeps_every_factor_th_frame_rounded_up(grid, factor, n_samples):
    assert grid.subsampled(factor).n_frames(n_samples) == -(-grid.n_frames(n_samples) // factor)


def test_the_grid_of_the_package_by_hand():
    grid = FrameGrid(16_000, 160)
    assert grid.hop_s == 0.01
    assert [grid.n_frames(n) for n in (0, 159, 160, 161, 16_000)] == [1, 1, 2, 2, 101]
    assert grid.edge_s(0) == -0.005
    assert grid.edge_s(3) == 0.025
    assert grid.span_s(0, 3, 1.0) == (0.0, 0.025)
    assert grid.span_s(99, 101, 1.0) == (0.985, 1.0)
    assert [grid.frame_at(t) for t in (0.0, 0.004, 0.006, 0.0149, 0.0151)] == [0, 0, 1, 1, 2]
    assert grid.subsampled(4) == FrameGrid(16_000, 640)
    assert FrameGrid(16_000, 160, 400).n_frames(399) == 0
    assert FrameGrid(16_000, 160, 400).n_frames(400) == 1


@pytest.mark.parametrize(("rate", "hop"), [(0, 160), (-1, 160), (16_000, 0), (16_000, -3)])
def test_a_grid_needs_a_positive_rate_and_hop(rate, hop):
    with pytest.raises(ValueError, match=rf"positive sample rate and hop, got sample_rate={rate}, hop_samples={hop}"):
        FrameGrid(rate, hop)
