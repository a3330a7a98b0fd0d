"""`gradalign inspect` as a user meets it, and what the aligner does with a model that was found reversed."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from planted import CONFIG, planted

from gradalign import bundle as bundles
from gradalign import io
from gradalign.analysis.verdict import TimeOrder
from gradalign.errors import FormatError
from gradalign.lexicon import PHONES

TEXT = "the cat sat down"
SAMPLES = 22_400
N_ENCODER = 36
"""Encoder frames of so many samples: 141 feature frames in fours."""


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """An empty current folder, and no cache of compiled programs outside the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRADALIGN_CACHE", "")


@pytest.fixture(autouse=True)
def recording(_here) -> Path:
    swell = np.abs(np.sin(np.arange(SAMPLES) / 1000))
    soundfile.write("rec.wav", 0.1 * swell * np.random.default_rng(0).normal(size=SAMPLES), 16_000)
    return Path("rec.wav")


@pytest.fixture
def reversed_() -> str:
    bundle = planted(1, N_ENCODER, block=2, reading="backwards", labels=PHONES)
    bundles.save(bundle, "reversed")
    return "reversed"


@pytest.fixture
def straight() -> str:
    bundles.save(planted(2, N_ENCODER, block=3, sight="self", reading="forwards", labels=PHONES), "straight")
    return "straight"


@pytest.fixture
def run(run_command):
    return run_command


def failed(result: tuple[int, str, str], message: str, *, status: int = 1) -> None:
    got, out, err = result
    assert (got, out) == (status, "")
    assert re.search(message, err), err


def test_a_reversed_model_is_found_drawn_and_noted_and_then_only_aligned_before_the_reversal(run, reversed_):
    status, out, err = run("inspect", reversed_, "rec.wav", TEXT, "-o", "page.png", "--save")
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == "encoder reverses time in block 2"
    assert "in block 2 self-attention outweighs the rest" in out
    assert "cross-attention of decoder layer 1: direction -1.00" in out
    assert Path("page.png").read_bytes()[:4] == b"\x89PNG"
    assert bundles.load(reversed_).time_order == TimeOrder("reversed", 2)
    assert "time order  encoder reverses time in block 2" in run("info", reversed_)[1]

    model = ("--model", reversed_)
    # The default, gradients at the features, goes on working; so do leaves before the reversal.
    assert run("align", "rec.wav", TEXT, *model, "-o", "a.json")[0] == 0
    assert [word.label for word in io.read("a.json").tier("words")] == TEXT.split()
    assert run("align", "rec.wav", TEXT, *model, "--leaf", "block-1", "-o", "b.json")[0] == 0
    for option in (("--method", "attention"), ("--method", "ctc"), ("--leaf", "block-2"), ("--leaf", "encoder")):
        refused = run("align", "rec.wav", TEXT, *model, *option, "-o", "c.json")
        failed(refused, f"its encoder reverses time in block 2, so that (method|leaf) '{option[1]}' would put words")
        assert "leaf before block 2" in refused[2]
    assert run("align", "rec.wav", TEXT, *model, "--method", "equal", "-o", "d.json")[0] == 0


def test_attention_that_falls_is_refused_without_a_verdict(run, reversed_):
    refused = run("align", "rec.wav", TEXT, "--model", reversed_, "--method", "attention")
    failed(refused, r"attention runs backwards through the recording \(its labels move by -\d+% of it\)")
    failed(
        run("align", "rec.wav", TEXT, "--model", reversed_, "--leaf", "encoder"), "saliency at leaf 'encoder' runs back"
    )
    assert run("align", "rec.wav", TEXT, "--model", reversed_)[0] == 0


def test_a_straight_model_keeps_time_order_and_is_aligned_by_every_method(run, straight):
    status, out, _ = run("inspect", straight, "rec.wav", TEXT, "--json", "--save")
    found = json.loads(out)
    assert (status, found["order"], found["block"]) == (0, "kept", None)
    assert found["verdict"] == "encoder keeps time order"
    assert np.shape(found["measures"]["head_diagonality"]) == (CONFIG.encoder_layers, CONFIG.heads)
    assert np.shape(found["measures"]["dominance"]) == (CONFIG.encoder_layers, len(found["modules"]))
    assert len(found["measures"]["frame_flip"]) == len(found["depths"]) == CONFIG.encoder_layers + 2
    for method in ("attention", "ctc"):
        assert run("align", "rec.wav", TEXT, "--model", straight, "--method", method, "--overwrite")[0] == 0


def test_a_model_is_saved_and_loaded_with_its_verdict(tmp_path):
    noted = dataclasses.replace(planted(2, N_ENCODER), time_order=TimeOrder("mixed", reason="of two minds"))
    bundles.save(noted, tmp_path / "noted")
    assert bundles.load(tmp_path / "noted").time_order == noted.time_order
    config = json.loads((tmp_path / "noted" / "config.json").read_text())
    config["time_order"] = {"order": "reversed"}
    (tmp_path / "noted" / "config.json").write_text(json.dumps(config))
    with pytest.raises(FormatError, match="not a config of a gradalign model: a block goes with"):
        bundles.load(tmp_path / "noted")


def test_a_manifest_is_averaged_and_what_cannot_be_used_is_named(run, reversed_):
    soundfile.write("quiet.wav", np.zeros(SAMPLES), 16_000)
    lines = [
        {"audio_filepath": "rec.wav", "text": TEXT, "id": "one"},
        {"audio_filepath": "quiet.wav", "text": TEXT, "id": "two"},
        {"audio_filepath": "rec.wav", "text": TEXT, "id": "part", "offset": 0.0, "duration": 1.4},
    ]
    Path("m.jsonl").write_text("\n".join(map(json.dumps, lines)))
    status, out, err = run("inspect", reversed_, "--manifest", "m.jsonl", "--json")
    assert status == 0
    assert "two was left out" in err
    found = json.loads(out)
    assert [u["name"] for u in found["utterances"]] == ["one", "part"]
    assert (found["order"], found["block"]) == ("reversed", 2)
    status, out, err = run("inspect", reversed_, "--manifest", "m.jsonl", "--limit", "2", "--quiet")
    assert (status, err) == (0, "")  # the first and the last one
    assert out.startswith("model planted, 2 recordings: one, part\n")


def test_without_a_recording_the_one_of_the_package_is_taken(run, straight):
    status, out, _ = run("inspect", straight)
    assert status == 0
    assert out.startswith("model planted, 1 recording: example.wav\n")
    assert out.splitlines()[-1].startswith(("encoder", "mixed"))


def test_bad_input_is_said_before_anything_slow(run, straight):
    failed(run("inspect", "nowhere"), "no model 'nowhere'")
    failed(run("inspect", straight, "none.wav", TEXT), "none.wav: no such audio file")
    failed(run("inspect", straight, "rec.wav"), "what is said in rec.wav", status=2)
    failed(run("inspect", straight, "rec.wav", TEXT, "--manifest", "m.jsonl"), "a recording or --manifest", status=2)
    failed(run("inspect", straight, "--manifest", "m.jsonl"), "m.jsonl: no such file")
    failed(run("inspect", straight, "rec.wav", TEXT, "-o", "page.txt"), r"expected a file that ends in .png", status=2)
    failed(run("inspect", straight, "rec.wav", TEXT, "--limit", "0"), "at least 1", status=2)
    failed(run("inspect", straight, "rec.wav", TEXT, "--limit", "2"), "--limit goes with --manifest", status=2)
    Path("page.png").write_text("mine")
    failed(run("inspect", straight, "rec.wav", TEXT, "-o", "page.png"), "page.png: exists already")
    Path("empty.jsonl").write_text(json.dumps({"audio_filepath": "gone.wav", "text": TEXT}))
    failed(run("inspect", straight, "--manifest", "empty.jsonl"), "none of 1 utterances can be used")
    soundfile.write("quiet.wav", np.zeros(SAMPLES), 16_000)
    failed(run("inspect", straight, "quiet.wav", TEXT), "quiet.wav is silent")


def test_labels_that_the_model_lacks_are_named(run):
    bundles.save(planted(2, N_ENCODER), "numbers")
    failed(run("inspect", "numbers", "rec.wav", TEXT), "model 'planted' has no label for")
