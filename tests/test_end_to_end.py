"""The model in the package on the bundled recording, whose true times are known: the whole chain at once."""

import json
from pathlib import Path

import pytest

from gradalign.aligner import align
from gradalign.alignment import Interval, Tier
from gradalign.bundle import load
from gradalign.metrics import compare

EXAMPLE = Path(__file__).parent.parent / "docs" / "examples"


@pytest.fixture(scope="module")
def truth() -> dict[str, Tier]:
    found = json.loads((EXAMPLE / "example.truth.json").read_text("utf-8"))
    return {name: Tier(name, tuple(Interval(*row) for row in found[name])) for name in ("words", "phones")}


@pytest.mark.parametrize(("method", "bar_s"), [("gradient", 0.06), ("ctc", 0.06), ("attention", 0.2)])
def test_the_bundled_recording_is_aligned(method, bar_s: float, truth: dict[str, Tier]):
    found = align(EXAMPLE / "example.wav", EXAMPLE / "example.txt", method=method)
    assert [w.label for w in found.tier("words")] == [w.label for w in truth["words"]]
    measured = compare(truth["words"], found)
    even = compare(truth["words"], align(EXAMPLE / "example.wav", EXAMPLE / "example.txt", method="equal"))
    assert measured.tse_s < bar_s
    assert measured.tse_s < even.tse_s


@pytest.mark.parametrize(
    ("method", "exact", "precision"),
    [
        ("calibrated", False, "bfloat16"),
        ("gradient", False, "bfloat16"),
        ("gradient", True, "bfloat16"),
        ("ctc", False, "bfloat16"),
        ("attention", False, "bfloat16"),
        ("calibrated", False, "mixed"),
        ("gradient", False, "mixed"),
    ],
)
def test_half_precision_moves_boundaries_little(method, exact: bool, precision):
    text = (EXAMPLE / "example.txt").read_text("utf-8")
    full, half = (
        align(EXAMPLE / "example.wav", text, model=load(precision=one), method=method, exact=exact)
        for one in ("float32", precision)
    )
    moved = sorted(abs(a.start - b.start) for a, b in zip(full.tier("phones"), half.tier("phones"), strict=True))
    assert moved[len(moved) // 2] <= (0.001 if precision == "mixed" else 0.01)
    assert moved[int(0.9 * len(moved))] <= (0.01 if precision == "mixed" else 0.04)


def test_the_model_in_the_package_has_a_card_and_phone_labels():
    bundle = load()
    assert bundle.card.startswith("# en-us")
    assert len(bundle.labels) == 39
