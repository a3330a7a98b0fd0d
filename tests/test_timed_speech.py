"""Making synthetic speech like that of people: all of it is still where it is said to be."""

import numpy as np
import pytest

from gradalign import timed_speech
from gradalign.alignment import Interval
from gradalign.timed_speech import TimedUtterance, _fading, _hesitant, _uneven, _with_pauses, among_people


@pytest.mark.parametrize("seed", range(6))
def test_pauses_and_noise_leave_every_sound_where_the_times_say(seed, monkeypatch):
    monkeypatch.setattr(timed_speech, "FADES", 0.0)
    rng = np.random.default_rng(seed)
    clean = 0.3 * rng.normal(size=16_000).astype(np.float32)
    phones = tuple(Interval(0.1 + 0.2 * n, 0.3 + 0.2 * n, "A") for n in range(4))
    words = tuple(Interval(phones[n].start, phones[n + 1].end, "aa") for n in (0, 2))
    found = among_people(TimedUtterance(clean, "aa aa", phones, words), rng, sample_rate=16_000)
    assert len(found.samples) > len(clean)
    for before, after in zip((*phones, *words), (*found.phones, *found.words), strict=True):
        assert after.duration == pytest.approx(before.duration)
        ours = clean[round(before.start * 16_000) :][: round(0.2 * 16_000)]
        theirs = found.samples[round(after.start * 16_000) :][: round(0.2 * 16_000)]
        shifts = [np.corrcoef(ours[4:-4], theirs[4 + k : len(theirs) - 4 + k])[0, 1] for k in (-2, -1, 0, 1, 2)]
        # Rounding to samples may move it by one; below a word made softer, noise is nearly as loud as the word.
        assert max(shifts) > 0.6
        assert -10 < 20 * np.log10(theirs.std() / ours.std()) < 10


def test_words_rise_after_a_pause_and_fade_before_one(rng, monkeypatch):
    monkeypatch.setattr(timed_speech, "FADES", 1.0)
    clean = rng.normal(size=3 * 16_000).astype(np.float32)
    words = tuple(Interval(start, start + 0.4, "aa") for start in (0.5, 1.0, 1.5, 2.0))
    found = _fading(TimedUtterance(clean, "aa aa aa aa", words, words), [24_000], rng, 16_000)
    gains = 20 * np.log10(found / clean)

    def at(seconds):
        return round(seconds * 16_000)

    for begin, start, end, stop in ((0.0, 0.5, 1.4, 1.5), (1.5, 1.5, 2.4, 3.0)):
        # Full gain 0.12 s after the first word begins and 0.25 s before the last one ends.
        assert np.all(np.diff(gains[at(start) : at(start + 0.12)]) >= -1e-3)
        assert -25.1 < gains[at(start)] < -4.9
        np.testing.assert_allclose(gains[at(begin) : at(start)], gains[at(start)], atol=1e-3)
        np.testing.assert_allclose(gains[at(start + 0.12) : at(end - 0.25)], 0.0, atol=1e-3)
        assert np.all(np.diff(gains[at(end - 0.25) : at(end)]) <= 1e-3)
        assert -30.1 < gains[at(end)] < -4.9
        np.testing.assert_allclose(gains[at(end) : at(stop)], gains[at(end)], atol=1e-3)


def test_words_become_louder_or_softer(rng):
    clean = rng.normal(size=3 * 16_000)
    words = tuple(Interval(start, start + 0.5, "aa") for start in np.arange(0.0, 3.0, 0.5))
    found = _uneven(TimedUtterance(clean, " ".join(["aa"] * 6), words, words), rng, 16_000)
    gains = 20 * np.log10(found / clean)
    at_middles = gains[[round((word.start + word.end) / 2 * 16_000) for word in words]]
    assert np.all(np.abs(at_middles) < 8)
    assert np.ptp(at_middles) > 3
    assert np.abs(np.diff(gains)).max() < 0.01  # no steps


def test_a_vowel_that_is_drawn_out_is_as_long_as_it_says(rng, monkeypatch):
    monkeypatch.setattr(timed_speech, "HESITATIONS", 1.0)
    rate, time = 16_000, np.arange(16_000) / 16_000
    phones = tuple(
        Interval(start, end, label)
        for start, end, label in ((0.1, 0.2, "S"), (0.2, 0.35, "AA"), (0.35, 0.6, "S"), (0.6, 0.61, "AH"))
    )
    vowel = (time >= 0.2) & (time < 0.35)
    hiss = (time >= 0.35) & (time < 0.6)
    clean = np.where(vowel, np.sin(2 * np.pi * 440 * time), 0.0) + np.where(hiss, rng.normal(size=rate), 0.0)
    found = _hesitant(
        TimedUtterance(clean.astype(np.float32), "saas", phones, (Interval(0.1, 0.61, "saas"),)), rng, rate
    )
    durations = [unit.duration for unit in found.phones]
    assert 1.5 * 0.15 - 1e-3 <= durations[1] <= 0.7 + 1e-3
    # Only vowels, and not one that is too short to be told.
    np.testing.assert_allclose([durations[0], durations[2], durations[3]], [0.1, 0.25, 0.01], atol=1e-4)
    assert found.words[0].end == pytest.approx(found.phones[-1].end)
    assert len(found.samples) - rate == pytest.approx(rate * (durations[1] - 0.15), abs=2)
    first, last = (round(edge * rate) for edge in (found.phones[1].start, found.phones[1].end))
    loud = np.convolve(found.samples[: last + 1] ** 2, np.ones(64) / 64, "same") > 0.05
    assert np.flatnonzero(loud)[0] == pytest.approx(first, abs=160)
    np.testing.assert_array_equal(found.samples[last : last + 4000], clean[hiss].astype(np.float32)[:4000])
    crossings = np.sum(np.diff(np.signbit(found.samples[first + 400 : last - 400]))) / 2  # its pitch is what it was
    assert crossings / ((last - first - 800) / rate) == pytest.approx(440, rel=0.03)


def test_pauses_move_what_comes_after_them(rng, monkeypatch):
    monkeypatch.setattr(timed_speech, "FADES", 0.0)
    monkeypatch.setattr(timed_speech, "PAUSES", 1.0)
    clean = rng.normal(size=16_000).astype(np.float32)
    words = tuple(Interval(0.25 * n, 0.25 * (n + 1), "aa") for n in range(4))
    found = _with_pauses(TimedUtterance(clean, "aa aa aa aa", words, words), rng, 16_000)
    assert [b.start > a.end for a, b in zip(found.words, found.words[1:], strict=False)] == [True] * 3
    for before, after in zip(words, found.words, strict=True):
        first = round(after.start * 16_000)
        np.testing.assert_array_equal(found.samples[first : first + 4000], clean[round(before.start * 16_000) :][:4000])
    assert found.phones == found.words


def test_nothing_is_changed_where_nothing_is_drawn(rng, monkeypatch):
    monkeypatch.setattr(timed_speech, "HESITATIONS", 0.0)
    units = (Interval(0.0, 0.5, "AA"), Interval(0.5, 1.02, "B"))  # the last time lies behind the last sample
    clean = rng.normal(size=16_000)
    found = _hesitant(TimedUtterance(clean, "ab", units, units), rng, 16_000)
    np.testing.assert_array_equal(found.samples, clean)
    for before, after in zip(units, found.phones, strict=True):
        assert (after.start, after.end) == pytest.approx((before.start, before.end))
