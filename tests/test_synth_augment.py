"""Augmentation: what was asked for is there, measured another way, and the times are where they should be."""

import numpy as np
import pytest
from scipy import signal

from gradalign.alignment import Interval
from gradalign.synth import TimedSpeech
from gradalign.synth import augment as augmenting
from gradalign.synth.augment import RANGES, augment, band, codec, noise, parse, pitch, room, speed

RATE = 16000


def speechlike(seconds: float = 2.0) -> np.ndarray:
    """Noise bursts through a low-pass filter: something that a codec keeps, with sharp onsets at every 0.25 s."""
    rng = np.random.default_rng(0)
    filter = signal.butter(2, 2500, fs=RATE, output="sos")
    carrier = signal.sosfilt(filter, rng.standard_normal(int(seconds * RATE)))
    phase = np.arange(len(carrier)) / RATE % 0.25
    return (0.2 * carrier * ((phase > 0.1) & (phase < 0.2))).astype(np.float32)


def lag(a: np.ndarray, b: np.ndarray) -> int:
    """By how many samples ``b`` is later than ``a``, where they fit best."""
    fit = signal.correlate(b, a, method="fft")
    return int(signal.correlation_lags(len(b), len(a))[np.argmax(fit)])


def level(samples: np.ndarray) -> np.ndarray:
    """Root mean square in steps of 1 ms."""
    return np.sqrt(np.square(samples[: len(samples) // 16 * 16]).reshape(-1, 16).mean(axis=1))


def tone(hz: float, seconds: float = 1.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def loudest_hz(samples: np.ndarray) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(samples * np.hanning(len(samples))))) * RATE / len(samples))


@pytest.mark.parametrize("factor", [0.5, 0.87, 1.0, 1.137, 2.0])
def test_speed_moves_a_click_to_where_its_scale_says(factor):
    clicks = np.zeros(RATE, np.float32)
    clicks[[3000, 11000]] = 1.0
    moved, scale = speed(clicks, factor)
    assert scale == pytest.approx(1 / factor, rel=0.005)
    assert abs(len(moved) - RATE * scale) <= 1
    for at in (3000, 11000):
        near = slice(round(at * scale) - 50, round(at * scale) + 51)
        assert abs(int(np.argmax(moved[near])) - 50) <= 1


def test_speed_raises_the_pitch_with_it():
    moved, scale = speed(tone(400.0), 1.25)
    assert loudest_hz(moved) == pytest.approx(400 / scale, abs=2)


@pytest.mark.parametrize("semitones", [-3.0, 2.0, 6.0])
def test_pitch_shifts_a_tone_and_leaves_the_sounds_where_they_were(semitones):
    assert loudest_hz(pitch(tone(400.0), semitones, sample_rate=RATE)) == pytest.approx(
        400 * 2 ** (semitones / 12), rel=0.01
    )
    before = speechlike()
    after = pitch(before, semitones, sample_rate=RATE)
    assert len(after) == len(before)
    assert abs(lag(level(before), level(after))) <= 4  # ms


@pytest.mark.parametrize("kind", ["white", "pink", "babble"])
@pytest.mark.parametrize("snr_db", [-5.0, 10.0, 30.0])
def test_noise_has_the_ratio_that_was_asked_for(kind, snr_db):
    before = speechlike()
    others = [speechlike(0.7)[::-1].copy(), speechlike(3.0)]
    after = noise(before, snr_db, kind, np.random.default_rng(1), others=others)
    added = after.astype(np.float64) - before
    measured = 10 * np.log10(np.sum(np.square(before.astype(np.float64))) / np.sum(np.square(added)))
    assert measured == pytest.approx(snr_db, abs=0.01)


def test_pink_noise_falls_by_three_db_an_octave_and_white_does_not():
    slopes = {}
    for kind in ("white", "pink"):
        added = noise(tone(100.0, 20.0), -20.0, kind, np.random.default_rng(2)) - tone(100.0, 20.0)
        hz, power = signal.welch(added, RATE, nperseg=4096)
        inside = (hz > 200) & (hz < 6000)
        slopes[kind] = np.polyfit(np.log2(hz[inside]), 10 * np.log10(power[inside]), 1)[0]
    assert slopes["white"] == pytest.approx(0, abs=0.2)
    assert slopes["pink"] == pytest.approx(-3, abs=0.2)


@pytest.mark.parametrize("rt60_s", [0.2, 0.6])
def test_a_room_keeps_the_direct_sound_in_place_and_decays_as_asked(rt60_s):
    click = np.zeros(RATE, np.float32)
    click[2000] = 1.0
    heard = room(click, rt60_s, np.random.default_rng(3), sample_rate=RATE)
    assert int(np.argmax(np.abs(heard))) == 2000
    assert heard[2000] == pytest.approx(1.0, abs=1e-4)
    assert np.abs(heard[:2000]).max() < 1e-5
    # Schroeder's backward integral falls by 60 dB in the reverberation time; fitted from -5 to -25 dB.
    decay = 10 * np.log10(np.cumsum(np.square(heard[2032:].astype(np.float64))[::-1])[::-1] + 1e-12)
    decay -= decay[0]
    inside = (decay < -5) & (decay > -25)
    slope = np.polyfit(np.flatnonzero(inside) / RATE, decay[inside], 1)[0]
    assert -60 / slope == pytest.approx(rt60_s, rel=0.15)
    tail = np.sum(np.square(heard[2001:].astype(np.float64)))
    assert tail == pytest.approx(1.0, abs=0.02)


def test_a_band_keeps_what_is_inside_and_moves_nothing():
    for hz, gain in ((100, 0.0), (1000, 1.0), (6000, 0.0)):
        heard = band(tone(hz), 300.0, 3400.0, sample_rate=RATE)[4000:-4000]
        assert np.abs(heard).max() / 0.3 == pytest.approx(gain, abs=0.03)
    before = speechlike()
    assert lag(before, band(before, 300.0, 3400.0, sample_rate=RATE)) == 0


@pytest.mark.parametrize("name", ["mulaw", "gsm", "vorbis", "opus", "mp3"])
def test_a_codec_changes_the_sound_a_little_and_its_place_not_at_all(name):
    before = speechlike()
    try:
        after = codec(before, name, sample_rate=RATE)
    except ValueError as error:
        pytest.skip(str(error))
    assert len(after) == len(before)
    assert lag(before, after) == 0
    assert 0.6 < np.corrcoef(before, after)[0, 1] < 0.99999
    np.testing.assert_array_equal(after, codec(before, name, sample_rate=RATE))


def test_a_delay_that_a_decoder_leaves_is_found():
    before = speechlike()
    assert augmenting._delay(before, np.concatenate([np.zeros(529, np.float32), before])) == 529


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda s: speed(s, 3.0), "speed must be from 0.5 to 2, got 3"),
        (lambda s: pitch(s, 13.0, sample_rate=RATE), "pitch must be from -6 to 6"),
        (lambda s: noise(s, 99.0, "white", np.random.default_rng()), "noise must be from -20 to 80"),
        (lambda s: noise(0 * s, 9.0, "white", np.random.default_rng()), "all zero has no signal-to-noise ratio"),
        (lambda s: noise(s, 9.0, "babble", np.random.default_rng()), "babble needs other recordings"),
        (lambda s: room(s, 9.0, np.random.default_rng(), sample_rate=RATE), "room must be from 0.01 to 5"),
        (lambda s: band(s, 400.0, 300.0, sample_rate=RATE), "a band needs 0 < low < high < 8000 Hz"),
    ],
)
def test_values_out_of_range_are_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call(speechlike(0.5))


def test_words_of_the_command_line_are_read():
    assert parse([]) == {}
    assert parse(["noise=5:20", "pitch"]) == {"pitch": RANGES["pitch"], "noise": (5.0, 20.0)}
    assert parse(["all", "noise=1:2"]) == RANGES | {"noise": (1.0, 2.0)}


@pytest.mark.parametrize(
    ("word", "match"),
    [
        ("nois", "no augmentation 'nois'; there are all, speed, pitch"),
        ("noise=20:5", "noise=20:5: expected a range, such as noise=5:30"),
        ("noise=5", "expected a range"),
        ("noise=a:b", "expected a range"),
        ("speed=0.1:1", "speed must be from 0.5 to 2, got 0.1"),
        ("codec=0:1", "codec has no range"),
    ],
)
def test_wrong_words_of_the_command_line_are_refused(word, match):
    with pytest.raises(ValueError, match=match):
        parse([word])


def test_augmented_speech_has_scaled_times_says_what_was_done_and_is_the_same_each_time():
    burst = Interval(0.35, 0.45, "AA")
    speech = TimedSpeech(speechlike(), RATE, (burst,), (burst,), "ah", "flite-slt")
    seen = set()
    for seed in range(12):
        results = [augment(speech, RANGES, np.random.default_rng(seed), others=[speechlike(1.0)]) for _ in range(2)]
        (one, done), (two, _) = results
        np.testing.assert_array_equal(one.samples, two.samples)
        assert np.abs(one.samples).max() <= 1
        scale = one.duration / speech.duration
        assert one.phones[0].start == pytest.approx(0.35 * scale, abs=1e-3)
        assert ("speed" in done) == (len(one.samples) != len(speech.samples))
        seen |= set(done)
    assert seen == set(RANGES)
    assert augment(speech, {}, np.random.default_rng(0))[1] == {}
