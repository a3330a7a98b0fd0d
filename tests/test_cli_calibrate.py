"""``gradalign calibrate``: what is refused before anything slow, and that what it writes is used."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import textgrid
from flax import nnx

from gradalign import audio, calibrate, calibration, cli, io, timed_speech
from gradalign import bundle as bundles
from gradalign.bundle import Bundle
from gradalign.classifier import Classifier, name_of
from gradalign.features import LogMel
from gradalign.lexicon import PHONES
from gradalign.nn.aed import AED
from gradalign.nn.config import AEDConfig
from gradalign.synth.corpus import Progress

CONFIG = AEDConfig(
    dim=16, heads=2, encoder_layers=1, decoder_layers=1, feed_forward_dim=32, stem_channels=4, conv_kernel=5
)
WORDS = [[0.1, 0.4, "the"], [0.4, 0.9, "cat"]]
PHONES_SAID = [[0.1, 0.2, "DH"], [0.2, 0.4, "AH"], [0.4, 0.6, "K"], [0.6, 0.8, "AE"], [0.8, 0.9, "T"]]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch, rng):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRADALIGN_CACHE", "")
    bundles.save(Bundle("tiny", AED(CONFIG, rngs=nnx.Rngs(0)), LogMel(), PHONES), "tiny")
    soundfile.write("rec.wav", 0.1 * rng.normal(size=16_000), 16_000)
    line = {"audio_filepath": "rec.wav", "text": "the cat", "speaker": "me", "words": WORDS, "phones": PHONES_SAID}
    Path("timed.jsonl").write_text("\n".join(json.dumps(line | {"id": name}) for name in "abc"))
    Path("lost.jsonl").write_text(json.dumps(line | {"audio_filepath": "lost.wav"}))
    Path("bare.jsonl").write_text(json.dumps({"audio_filepath": "rec.wav", "text": "the cat"}))


def test_a_calibration_is_learnt_written_and_used(run_command):
    options = ("--data", "timed.jsonl", "--utterances", "2", "--steps", "1")
    status, out, err = run_command("calibrate", "tiny", *options)
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == "tiny/calibration.json: learnt on 2 recordings of me"
    assert "calibrated  2 recordings of me" in run_command("info", "tiny")[1]
    assert run_command("align", "rec.wav", "the cat", "--model", "tiny", "-o", "a.json", "--exact")[0] == 0
    found = io.read("a.json")
    assert found.method == "calibrated"
    assert all(word.confidence is not None for word in found.tier("words"))
    status, out, err = run_command("calibrate", "tiny", *options)
    assert (status, out) == (1, "")
    assert "tiny/calibration.json: exists already and was kept; pass --overwrite" in err


def test_a_few_recordings_leave_the_classifier_of_frames_as_it_is(run_command, rng):
    own = Classifier(rng.normal(size=(CONFIG.dim, len(PHONES) + 1)), rng.normal(size=len(PHONES) + 1))
    names = ("ctc", name_of(CONFIG))
    calibration.save(
        {"calibrated": calibration.Calibration(names, calibration.initial(2), (), own)},
        "tiny/calibration.json",
        about="",
        network=(network := bundles.fingerprint(bundles.flat_params(bundles.load("tiny").network))),
    )
    options = ("--data", "timed.jsonl", "--utterances", "2", "--steps", "1", "-o", "mine.json")
    status, _, err = run_command("calibrate", "tiny", *options)
    assert (status, err) == (0, "")
    found = calibration.load("mine.json", network=network)[0]["calibrated"].classifier
    assert found is not None
    assert abs(found.weights - own.weights).max() < 1e-5
    assert run_command("align", "rec.wav", "the cat", "--model", "tiny", "--calibration", "mine.json")[0] == 0


def test_a_calibration_that_cannot_be_kept_is_said_to_be_lost(run_command):
    calibration.save({}, "tiny/calibration.json", about="", network="another")
    options = ("--data", "timed.jsonl", "--utterances", "2", "--steps", "1", "-o", "mine.json")
    status, _, err = run_command("calibrate", "tiny", *options)
    assert status == 0
    assert "warning: nothing is kept of what tiny has learnt, in tiny/calibration.json: learnt for parameters" in err


def test_own_recordings_begin_with_what_the_model_has_learnt(run_command):
    options = ("--data", "timed.jsonl", "--utterances", "2", "--steps", "2")
    assert run_command("calibrate", "tiny", *options)[0] == 0
    network = bundles.fingerprint(bundles.flat_params(bundles.load("tiny").network))

    def taps(path: str) -> np.ndarray:
        return np.asarray(calibration.load(path, network=network)[0]["calibrated"].weights.taps)

    about = "learnt on 2 recordings of me"
    for name, more, ending in (("on", (), f"; begun with what was {about}"), ("anew", ("--afresh",), "")):
        status, out, err = run_command("calibrate", "tiny", *options, *more, "-o", f"{name}.json")
        assert (status, err) == (0, "")
        assert out.splitlines()[-1] == f"{name}.json: {about}{ending}"
    np.testing.assert_allclose(taps("anew.json"), taps("tiny/calibration.json"), atol=1e-6)
    assert abs(taps("on.json") - taps("anew.json")).max() > 1e-4


def test_the_default_of_steps_is_that_of_the_library():
    assert cli._parser().parse_args(["calibrate", "tiny"]).steps == calibrate.STEPS


def test_textgrids_with_words_alone_are_enough(run_command):
    """As a person leaves them: an empty tier of phones, and pauses in the tier of words."""
    grid = textgrid.TextGrid(maxTime=1.0)
    tier = textgrid.IntervalTier("words", 0.0, 1.0)
    for start, end, word in ((0.0, 0.1, "sil"), *WORDS):
        tier.add(start, end, word)
    grid.extend([tier, textgrid.IntervalTier("phones", 0.0, 1.0)])
    Path("mine").mkdir()
    grid.write("mine/rec.TextGrid")
    Path("mine/rec.wav").write_bytes(Path("rec.wav").read_bytes())
    status, out, err = run_command("calibrate", "tiny", "--data", "mine", "--steps", "1")
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == "tiny/calibration.json: learnt on 1 recordings"


def test_recordings_that_cannot_be_used_are_named(run_command):
    row = {"audio_filepath": "rec.wav", "text": "the cat", "words": WORDS, "id": "good"}
    odd = row | {"id": "odd", "words": [WORDS[0], [0.4, 0.9, "<unk>"]]}
    Path("worded.jsonl").write_text(f"{json.dumps(row)}\n{json.dumps(odd)}\n")
    status, out, err = run_command("calibrate", "tiny", "--data", "worded.jsonl", "--steps", "1")
    assert (status, err) == (0, "")
    problem = "because of: odd: '<unk>', word 2, is not one word that can be pronounced"
    assert f"1 of 2 utterances left out, the first one {problem}" in out


def test_times_of_words_are_enough(run_command):
    row = {"audio_filepath": "rec.wav", "text": "the cat", "speaker": "me", "words": WORDS, "id": "w"}
    Path("worded.jsonl").write_text(json.dumps(row))
    status, out, err = run_command("calibrate", "tiny", "--data", "worded.jsonl", "--steps", "1")
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == "tiny/calibration.json: learnt on 1 recordings of me"
    assert run_command("align", "rec.wav", "the cat", "--model", "tiny", "-o", "a.json", "--exact")[0] == 0
    assert all(word.confidence is not None for word in io.read("a.json").tier("words"))


def test_a_model_with_the_calibration_of_another_is_described_all_the_same(run_command):
    calibration.save({}, "tiny/calibration.json", about="", network="another")
    status, out, _ = run_command("info", "tiny")
    assert status == 0
    assert "calibrated  no: tiny/calibration.json: no calibration for this model" in out
    assert "labels      39: AA" in out


def test_weights_and_classifier_are_learnt_from_different_recordings(run_command, monkeypatch):
    monkeypatch.setattr("gradalign.calibrate.FEWEST", 1)
    seen = []
    real = timed_speech.read
    monkeypatch.setattr(timed_speech, "read", lambda one, bundle: seen.append(one.id) or real(one, bundle))
    options = ("--utterances", "2", "--frame-utterances", "5", "--steps", "1")
    status, out, err = run_command("calibrate", "tiny", "--data", "timed.jsonl", "timed.jsonl", *options)
    assert (status, err) == (0, "")
    assert sorted(seen) == ["a", "b", "c"]  # two for the weights, the third for the classifier, none twice
    assert "2 recordings of me; the classifier of frames on 1 others" in out


def test_synthetic_speech_holds_many_sentences_and_the_classifier_has_others(run_command, monkeypatch):
    read = []

    def spoken(chosen, folder, settings):
        read.append((folder.name.split("-")[0], settings, list(chosen)))
        return [Progress(0, 0.0, 0, ())]

    monkeypatch.setattr("gradalign.synth.corpus.write", spoken)
    monkeypatch.setattr("gradalign.synth.matching", lambda names: ("one", "two"))
    monkeypatch.setattr("gradalign.commands.calibrate._with_times", lambda sources: [])
    assert run_command("calibrate", "tiny", "--utterances", "90", "--frame-utterances", "310")[0] == 1
    parts = {name: [one for one in read if one[0] == name] for name in "01"}
    said = {name: [text for _, _, texts in part for text in texts] for name, part in parts.items()}
    assert (len(said["0"]), len(set(said["0"])), len(said["1"]), len(set(said["1"]))) == (90, 90, 310, 300)
    assert not set(said["0"]) & set(said["1"])
    seeds = [settings.seed for _, settings, _ in read]
    assert len(set(seeds)) == len(seeds)  # each few sentences in a manner of their own
    shares = [sum(len(texts) for _, s, texts in parts["0"] if s.voices == (voice,)) for voice in ("one", "two")]
    assert max(shares) - min(shares) <= 4
    # What is read twice is read by two voices.
    readers = {text: {s.voices for _, s, texts in parts["1"] if text in texts} for text in said["1"]}
    assert all(len(readers[text]) == said["1"].count(text) for text in readers)


def test_recordings_besides_are_learnt_from_as_they_are(run_command, monkeypatch):
    monkeypatch.setattr("gradalign.commands.calibrate._calibration_speech", lambda *_: [[Path("timed.jsonl")], []])
    line = json.loads(Path("timed.jsonl").read_text().splitlines()[0])
    Path("own.jsonl").write_text(json.dumps(line | {"id": "x", "speaker": "her"}))
    taken = {}
    real = calibrate.calibrate

    def learn(bundle, utterances, *, besides, within, **options):
        taken.update(utterances=utterances, besides=besides, within=[*taken.get("within", ()), within])
        return real(bundle, utterances, besides=besides, within=within, **options)

    monkeypatch.setattr(calibrate, "calibrate", learn)
    options = ("--besides", "own.jsonl", "own.jsonl", "--utterances", "2", "--frame-utterances", "0", "--steps", "1")
    status, out, err = run_command("calibrate", "tiny", *options)
    assert (status, err) == (0, "")
    assert out.splitlines()[-1].endswith("learnt on 2 synthetic utterances of me, and 1 recordings of her")
    assert len(taken["utterances"]) == 2
    (besides,) = taken["besides"]  # once, and nothing is put around or under it
    np.testing.assert_array_equal(besides.samples, audio.levelled(audio.read("rec.wav", sample_rate=16_000)))
    status, out, err = run_command("calibrate", "tiny", *options, "--within", "0.04", "--overwrite")
    assert (status, err) == (0, "")
    assert out.splitlines()[-1].endswith("and 1 recordings of her, whose times may be wrong by 0.04 s")
    assert taken["within"] == [0.0, 0.04]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("nowhere",), 1, "no model 'nowhere'"),
        (("tiny", "--data", "bare.jsonl"), 1, "bare.jsonl: none of 1 utterances has times of words"),
        (("tiny", "--data", "timed.jsonl", "--voices", "flite-slt"), 2, "--voices are for synthetic speech"),
        (("tiny", "--voices", "nobody"), 2, "nobody"),
        (("tiny", "--data", "timed.jsonl", "--besides", "timed.jsonl"), 2, "--besides is for recordings beside synth"),
        (("tiny", "--afresh"), 2, "--afresh is for --data: on synthetic speech calibrations always begin afresh"),
        (("tiny", "--within", "0.1"), 2, "--within is for recordings of --besides, and there are none"),
        (("tiny", "--besides", "timed.jsonl", "--within", "40"), 2, "expected seconds from 0 to 1; got '40'"),
        (("tiny", "--besides", "lost.jsonl"), 1, "lost.wav: no such audio file; check the paths of --bes"),
        (("tiny", "--besides", "bare.jsonl"), 1, "bare.jsonl: none of 1 utterances has times of words"),
        (("tiny", "--data", "timed.jsonl", "-o", "none/c.json"), 1, "there is no directory none"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_slow(run_command, arguments, status, message):
    got, out, err = run_command("calibrate", *arguments)
    assert (got, out) == (status, "")
    assert message in err.splitlines()[-1]
