"""``gradalign calibrate``: what is refused before anything slow, and that what it writes is used."""

import json
from pathlib import Path

import pytest
import soundfile
from flax import nnx

from gradalign import bundle as bundles
from gradalign import io
from gradalign.bundle import Bundle
from gradalign.features import LogMel
from gradalign.lexicon import PHONES
from gradalign.nn.aed import AED
from gradalign.nn.config import AEDConfig

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


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("nowhere",), 1, "no model 'nowhere'"),
        (("tiny", "--data", "bare.jsonl"), 1, "bare.jsonl: none of 1 utterances has times of both phones and words"),
        (("tiny", "--data", "timed.jsonl", "--voices", "flite-slt"), 2, "--voices are for synthetic speech"),
        (("tiny", "--voices", "nobody"), 2, "nobody"),
        (("tiny", "--data", "timed.jsonl", "-o", "none/c.json"), 1, "there is no directory none"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_slow(run_command, arguments, status, message):
    got, out, err = run_command("calibrate", *arguments)
    assert (got, out) == (status, "")
    assert message in err.splitlines()[-1]
