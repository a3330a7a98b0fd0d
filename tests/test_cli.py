"""The command line as a user meets it: what is written, what is said, and the exit status."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import soundfile
from flax import nnx

import gradalign
from gradalign import audio, calibration, corpus, io, manifest, output
from gradalign import bundle as bundles
from gradalign.alignment import Alignment, Interval, Tier
from gradalign.bundle import Bundle
from gradalign.commands import _shared
from gradalign.errors import AlignmentError, FormatError
from gradalign.features import LogMel
from gradalign.lexicon import PHONES
from gradalign.nn.aed import AED
from gradalign.nn.config import AEDConfig
from gradalign.recognition import recognise
from gradalign.terminal import warnings_about

TEXT = "the cat sat down"
CONFIG = AEDConfig(
    dim=16, heads=2, encoder_layers=2, decoder_layers=1, feed_forward_dim=32, stem_channels=4, conv_kernel=5
)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    bundles.save(Bundle("tiny", AED(CONFIG, rngs=nnx.Rngs(0)), LogMel(), PHONES), folder)
    (folder / "card.md").write_text("# A tiny model\n", "utf-8")
    return folder


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """An empty current folder, and no cache of compiled programs outside the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRADALIGN_CACHE", "")
    # A network with random numbers looks everywhere, which would be a warning in every test.
    monkeypatch.setattr("gradalign.readout.UNSURE", 1e9)


def record(path: str | Path, seconds: float = 1.4, *, rate: int = 16_000, channels: int = 1) -> Path:
    """Noise that swells and fades, as a file."""
    n = int(seconds * rate)
    samples = np.random.default_rng(0).normal(size=(n, channels)) * np.abs(np.sin(np.arange(n) / 1000))[:, None]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * samples, rate)
    return Path(path)


@pytest.fixture
def gradalign_(run_command, model):
    """Runs a command with the tiny model: status, standard output, standard error."""

    def run(*arguments: str | Path, with_model: bool = True) -> tuple[int, str, str]:
        extra = ["--model", model] if with_model and arguments[0] in ("align", "plot", "recognise") else []
        return run_command(*arguments, *extra)

    return run


def failed(result: tuple[int, str, str], message: str) -> None:
    """One clear line on standard error, nothing on standard output, status 1."""
    status, out, err = result
    assert (status, out) == (1, "")
    assert re.fullmatch(rf"gradalign: error: [^\n]*{message}[^\n]*\n", err), err


# --- align, one recording


def test_align_writes_a_textgrid_beside_the_recording(gradalign_):
    record("rec.wav")
    status, out, err = gradalign_("align", "rec.wav", TEXT)
    assert (status, err) == (0, "")
    assert out == "rec.TextGrid: 4 words, 11 phones in 1.40 s\n"
    alignment = io.read("rec.TextGrid")
    assert [word.label for word in alignment.tier("words")] == TEXT.split()


def test_what_is_logged_of_a_recording_names_it(gradalign_, monkeypatch):
    record("rec.wav")

    def warned(*_, **__):
        logging.getLogger("gradalign.readout").warning("windows miss %.1f", 0.5)
        raise AlignmentError("enough")

    monkeypatch.setattr("gradalign.aligner.align", warned)
    status, _, err = gradalign_("align", "rec.wav", TEXT)
    assert status == 1
    assert err.splitlines() == ["gradalign: warning: rec.wav: windows miss 0.5", "gradalign: error: enough"]
    assert logging.getLogger("gradalign").handlers == []


@pytest.mark.parametrize("method", ["gradient", "ctc", "attention", "equal"])
def test_align_takes_every_method(gradalign_, method):
    record("rec.wav")
    assert gradalign_("align", "rec.wav", TEXT, "--method", method, "-o", "a.json")[0] == 0
    alignment = io.read("a.json")
    assert (alignment.method, alignment.model, alignment.transcript) == (method, "tiny", TEXT)


@pytest.mark.parametrize(
    ("arguments", "name", "tiers"),
    [
        (("-o", "a.TextGrid"), "a.TextGrid", ["words", "phones"]),
        (("-o", "a.json", "--tier", "phones"), "a.json", ["phones"]),
        (("-o", "a.json", "--tier", "both"), "a.json", ["words", "phones"]),
        (("--format", "short-textgrid", "--tier", "words"), "rec.TextGrid", ["words"]),
        (("--format", "ctm"), "rec.ctm", ["words"]),
        (("-o", "new/folder/", "--format", "json"), "new/folder/rec.json", ["words", "phones"]),
        (("-o", "odd.name", "--format", "json"), "odd.name", ["words", "phones"]),
    ],
)
def test_format_tier_and_output_choose_what_is_written_where(gradalign_, arguments, name, tiers):
    record("rec.wav")
    assert gradalign_("align", "rec.wav", TEXT, *arguments)[0] == 0
    format = "json" if name == "odd.name" else None
    found = io.read(name, format=format)
    assert [tier.name for tier in found.tiers] == tiers or len(found.tiers) == len(tiers) == 1


@pytest.mark.parametrize("format", ["textgrid", "short-textgrid", "json", "ctm"])
def test_a_dash_prints_the_alignment_and_nothing_else(gradalign_, format):
    record("rec.wav")
    status, out, err = gradalign_("align", "rec.wav", TEXT, "-o", "-", "--format", format, "--tier", "words")
    assert (status, err) == (0, "")
    Path("a").write_text(out, "utf-8")
    assert len(io.read("a", format=format).tiers[0]) == 4
    assert sorted(os.listdir()) == ["a", "rec.wav"]


@pytest.mark.parametrize("name", ["rec.txt", "rec.lab"])
def test_the_transcript_may_be_a_file_named_or_beside(gradalign_, name):
    record("rec.wav")
    Path(name).write_text(TEXT + "\n", "utf-8")
    assert gradalign_("align", "rec.wav", "-o", "a.json")[0] == 0
    assert gradalign_("align", "rec.wav", name, "-o", "b.json")[0] == 0
    assert io.read("a.json") == io.read("b.json")
    assert io.read("a.json").transcript == TEXT + "\n"


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (44_100, 2)])
def test_other_rates_and_stereo_work(gradalign_, rate, channels):
    record("rec.wav", rate=rate, channels=channels)
    assert gradalign_("align", "rec.wav", TEXT)[0] == 0
    assert io.read("rec.TextGrid").duration == pytest.approx(1.4, abs=1e-3)
    assert gradalign_("align", "rec.wav", TEXT, "--overwrite", "--channel", channels - 1)[0] == 0


def test_a_word_that_cannot_be_pronounced_is_named_with_its_place_and_the_rest_is_aligned(gradalign_):
    record("rec.wav")
    status, out, err = gradalign_("align", "rec.wav", "the cat сидит down")
    assert (status, out) == (0, "rec.TextGrid: 3 words, 8 phones in 1.40 s\n")
    assert err == (
        "gradalign: warning: rec.wav: 'сидит' at characters 8-13 was not aligned: no pronunciation is known\n"
    )


def test_quiet_says_nothing_but_warnings(gradalign_):
    record("rec.wav")
    assert gradalign_("align", "rec.wav", TEXT, "--quiet") == (0, "", "")
    assert "сидит" in gradalign_("align", "rec.wav", "the cat сидит", "--quiet", "--overwrite")[2]


def test_an_output_that_exists_is_kept_unless_overwrite(gradalign_):
    record("rec.wav")
    Path("rec.TextGrid").write_text("mine")
    # Refused before the model is looked at.
    failed(gradalign_("align", "rec.wav", TEXT, "--model", "none", with_model=False), "kept; pass --overwrite")
    assert Path("rec.TextGrid").read_text() == "mine"
    assert gradalign_("align", "rec.wav", TEXT, "--overwrite")[0] == 0
    assert len(io.read("rec.TextGrid").tier("words")) == 4


# --- align, bad input


def empty(path: str) -> None:
    Path(path).touch()


def header_only(path: str) -> None:
    record(path)
    Path(path).write_bytes(Path(path).read_bytes()[:44])


def garbage(path: str) -> None:
    Path(path).write_bytes(b"not audio at all" * 100)


def no_samples(path: str) -> None:
    soundfile.write(path, np.zeros(0), 16_000)


def with_sample(value: float):
    def write(path: str) -> None:
        samples = np.random.default_rng(0).normal(size=16_000).astype(np.float32)
        samples[7] = value
        soundfile.write(path, samples, 16_000, subtype="FLOAT")

    return write


def silence(path: str) -> None:
    soundfile.write(path, np.zeros(16_000), 16_000)


def lasting(seconds: float):
    return lambda path: record(path, seconds)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (empty, r"rec\.wav is empty \(0 bytes\)"),
        (header_only, "(holds 0 samples|could not be read as audio)"),
        (garbage, r"rec\.wav could not be read as audio"),
        (no_samples, "holds 0 samples; expected speech"),
        (with_sample(np.nan), "1 samples that are NaN or infinite"),
        (with_sample(np.inf), "1 samples that are NaN or infinite"),
        (silence, "is silent"),
        (lasting(0.02), "labels need at least .* got 3 frames"),
        (lasting(70), "the CTC head does not hear the transcript"),
        (lambda path: None, r"rec\.wav: no such audio file"),
    ],
)
def test_a_bad_recording_is_one_clear_line(gradalign_, write, message):
    write("rec.wav")
    failed(gradalign_("align", "rec.wav", TEXT), message)
    assert not Path("rec.TextGrid").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the transcript is empty"),
        (" \n ", "the transcript is empty"),
        ("!!! ... ♫", "holds no words, only symbols"),
        ("Съешь ещё этих булок", "can be pronounced as English.* Latin alphabet"),
        ("word " * 200, "labels need at least"),
        ("missing.txt", r"missing\.txt: no such transcript file"),
        ("folder", "folder is a directory; expected the transcript"),
        ("rec.wav", r"rec\.wav is a recording; the recording comes first"),
        ("other.TextGrid", r"other\.TextGrid is not plain text"),
        ("latin1.txt", r"latin1\.txt: is not text in UTF-8"),
        ("empty.txt", "the transcript is empty"),
        ("my transcript.txt", r"my transcript\.txt: no such transcript file"),
        ("script.docx", r"script\.docx: no such transcript file"),
        ("nowhere/script", "nowhere/script: no such transcript file"),
        ("sub.srt", r"sub\.srt is not plain text"),
        ("htk.lab", r"htk\.lab holds labels with their times"),
    ],
)
def test_a_bad_transcript_is_one_clear_line(gradalign_, text, message):
    record("rec.wav")
    Path("folder").mkdir()
    Path("other.TextGrid").touch()
    Path("empty.txt").touch()
    Path("sub.srt").touch()
    Path("htk.lab").write_text("0 1500000 sil\n1500000 3000000 dh\n")
    Path("latin1.txt").write_bytes("café au lait".encode("latin-1"))
    failed(gradalign_("align", "rec.wav", text), message)


@pytest.mark.parametrize(
    ("command", "victim"),
    [
        (("align", "rec.wav", "words.txt", "-o", "words.txt", "--format", "textgrid"), "words.txt"),
        (("align", "rec.wav", TEXT, "-o", "rec.wav", "--format", "json"), "rec.wav"),
        (("recognise", "-o", "a.wav", "rec.wav"), "a.wav"),
        (("evaluate", "a.TextGrid", "b.TextGrid", "--json", "a.TextGrid"), "a.TextGrid"),
    ],
)
def test_what_is_read_is_never_written_over(gradalign_, command, victim):
    for name in ("rec.wav", "a.wav"):
        record(name)
    Path("words.txt").write_text(TEXT)
    for name in ("a.TextGrid", "b.TextGrid"):
        Alignment(1.0, (Tier("words", (Interval(0.1, 0.5, "the"),)),)).to_textgrid(name)
    before = Path(victim).read_bytes()
    failed(gradalign_(*command, "--overwrite"), rf"{re.escape(victim)}: (is read by|has the suffix of a rec)")
    assert Path(victim).read_bytes() == before


def test_the_file_to_write_may_have_the_name_that_it_takes_by_itself(tmp_path):
    """As `gradalign calibrate . --overwrite` has in a model's folder: nothing of it is an input."""
    path = tmp_path / "calibration.json"
    path.touch()
    assert output.target("calibration.json", Path("calibration.json"), ".json", overwrite=True).samefile(path)


def test_a_word_with_a_slash_or_dots_is_no_file(gradalign_):
    record("rec.wav")
    Path("count.txt").write_text("10 9 8 7\n1 2 three\n")
    for text in ("1/2", "p.m.", "U.S.", "the cat and/or the dog", "count.txt"):
        status, _, err = gradalign_("align", "rec.wav", text, "-o", "-")
        assert status == 0, err


def test_an_unknown_option_names_the_help_of_its_command(gradalign_):
    record("rec.wav")
    status, _, err = gradalign_("align", "rec.wav", TEXT, "--methd", "ctc")
    assert status == 2
    assert "usage: gradalign align" in err
    assert "unrecognized arguments: --methd ctc; see gradalign align --help" in err


def test_forms_that_contradict_each_other_are_refused(gradalign_):
    record("rec.wav")
    Path("in").mkdir()
    record("in/a.wav")
    Path("in/a.txt").write_text(TEXT)
    for command, message in (
        (("rec.wav", TEXT, "-o", "x.json", "--format", "ctm"), "two forms of file"),
        (("in", "-o", "out.json"), "give --format json -o FOLDER"),
    ):
        status, _, err = gradalign_("align", *command)
        assert status == 2
        assert message in err
    assert not Path("x.json").exists()
    assert not Path("out.json").exists()


def test_a_folder_says_which_transcripts_have_no_recording_that_can_be_read(gradalign_):
    Path("in").mkdir()
    record("in/a.wav")
    Path("in/b.m4a").touch()
    for name in "ab":
        Path(f"in/{name}.txt").write_text(TEXT)
    status, _, err = gradalign_("align", "in")
    assert status == 0
    assert re.search(r"gradalign: warning: no recording that can be read .* lies beside b\.txt\n", err)
    # All is done, but a model that is not there is still an error.
    assert gradalign_("align", "in", "--model", "nowhere", with_model=False)[0] == 1


def truncate(folder: Path) -> None:
    path = folder / "params.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def scramble(folder: Path) -> None:
    (folder / "params.safetensors").write_bytes(b"\xff" * 1000)


def widen(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["network"]["dim"] = 32
    (folder / "config.json").write_text(json.dumps(config))


def break_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "unreadable or truncated parameters"),
        (scramble, "unreadable or truncated parameters"),
        (widen, "belong to another config"),
        (break_config, "unreadable model config"),
        (shutil.rmtree, "no model .* expected a folder with config.json"),
    ],
)
@pytest.mark.parametrize("command", ["align", "info"])
def test_a_bad_model_is_one_clear_line(gradalign_, model, damage, message, command):
    shutil.copytree(model, "model")
    damage(Path("model"))
    record("rec.wav")
    arguments = ("align", "rec.wav", TEXT, "--model", "model") if command == "align" else ("info", "model")
    failed(gradalign_(*arguments, with_model=False), message)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("none/a.TextGrid", "there is no directory none to write to"),
        ("rec.wav/", r"rec\.wav: is a file, expected a folder"),
        ("rec.wav/sub/", "cannot be made"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_the_work(gradalign_, output, message):
    record("rec.wav")
    failed(gradalign_("align", "rec.wav", TEXT, "-o", output, "--model", "none", with_model=False), message)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(gradalign_):
    record("rec.wav")
    Path("closed").mkdir(mode=0o500)
    failed(gradalign_("align", "rec.wav", TEXT, "-o", "closed/"), "may not write there")


# --- usage


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the following arguments are required: COMMAND"),
        (("algin", "rec.wav"), "invalid choice: 'algin'.*align"),
        (("align",), "required: AUDIO"),
        (("align", "rec.wav"), r"what is said in rec\.wav\? .*rec\.txt beside it"),
        (("align", "rec.wav", TEXT, "--method", "magic"), "invalid choice: 'magic'.*gradient"),
        (("align", "rec.wav", TEXT, "--leaf", "roots"), "no leaf 'roots'; this model has features, stem, block-1"),
        (
            ("align", "rec.wav", TEXT, "--method", "ctc", "--exact"),
            "--exact goes with .* gradients, got 'ctc'; leave it",
        ),
        (("align", "rec.wav", TEXT, "-o", "a.xml"), r"cannot tell the format from the suffix '\.xml'"),
        (("align", "rec.wav", TEXT, "-o", "a.ctm", "--tier", "both"), "a CTM file holds one tier"),
        (("align", "rec.wav", TEXT, "--jobs", "2"), "--jobs goes with a folder of recordings"),
        (("align", "folder", TEXT), "folder is a folder: each transcript must lie beside"),
        (("align", "folder", "-o", "-"), "-o FOLDER"),
        (("recognise",), "required: AUDIO"),
        (("recognise", "rec.wav", "--beam", "0"), "--beam: expected a whole number, at least 1; got '0'"),
        (("recognise", "rec.wav", "--n-best", "two"), "--n-best: expected a whole number, at least 1; got 'two'"),
        (("recognise", "rec.wav", "--ctc-weight", "30"), "--ctc-weight: expected a number from 0 to 1; got '30'"),
        (("recognise", "rec.wav", "--word-penalty", "nan"), "--word-penalty: expected a number; got 'nan'"),
        (("recognise", "rec.wav", "--surest", "0.5"), "--surest writes a manifest of phones: it goes with -o"),
        (("recognise", "rec.wav", "-o", "folder"), "-o folder: is a folder; expected one file"),
        (("recognise", "rec.wav", "--word-penalty", "1"), "--word-penalty goes with --words WORDLIST"),
        (("plot", "rec.wav", TEXT, "-o", "a.doc"), r"use \.png, \.pdf or \.svg"),
    ],
)
def test_wrong_usage_is_status_2_and_says_what_is_expected(gradalign_, model, arguments, message):
    record("rec.wav")
    Path("folder").mkdir()
    status, out, err = gradalign_(*arguments, with_model=len(arguments) > 2) if arguments else _bare(gradalign_)
    assert (status, out) == (2, "")
    assert re.search(message, err.splitlines()[-1]), err


def test_an_option_that_would_be_without_effect_is_wrong_usage(gradalign_, model):
    record("rec.wav")
    network = bundles.fingerprint(bundles.flat_params(bundles.load(model).network))
    learnt = {"calibrated": calibration.Calibration(("ctc",), calibration.initial(1))}
    calibration.save(learnt, "c.json", about="", network=network)
    for options, message in (
        (("--method", "gradient"), "--calibration goes with a calibrated method, got 'gradient'"),
        (("--leaf", "encoder"), "--calibration goes with a calibrated method, got 'gradient'"),
        (("--exact",), "--exact goes with methods that follow gradients, got 'calibrated'"),
    ):
        status, out, err = gradalign_("align", "rec.wav", TEXT, "--calibration", "c.json", *options)
        assert (status, out) == (2, "")
        assert message in err.splitlines()[-1]


def _bare(run) -> tuple[int, str, str]:
    return run("--", with_model=False)


@pytest.mark.parametrize("command", ["align", "evaluate", "plot", "recognise", "info"])
def test_every_command_has_help_with_the_exit_status(gradalign_, command):
    status, out, err = gradalign_(command, "--help", with_model=False)
    assert (status, err) == (0, "")
    assert "exit status: 0 all done" in out


def test_formats_are_those_of_the_library():
    assert get_args(output.Format) == get_args(io.Format) == tuple(output.SUFFIX)


def test_the_version_is_that_of_the_package(gradalign_):
    assert gradalign_("--version", with_model=False) == (0, f"gradalign {gradalign.__version__}\n", "")


# --- align, a folder


def test_a_folder_gives_one_table_and_one_bad_file_does_not_stop_the_rest(gradalign_):
    for name in ("a.wav", "sub/b.flac", "c.wav", "e.wav"):
        record(f"in/{name}")
        Path("in", name).with_suffix(".txt").write_text(TEXT)
    Path("in/c.wav").write_bytes(b"")
    Path("in/e.txt").rename("in/e.lab")
    Path("in/e.lab").write_text("the cat сидит")
    record("in/d.wav")  # without a transcript
    record("in/a.flac")  # same output as a.wav
    status, out, err = gradalign_("align", "in", "-o", "out")
    assert (status, err) == (1, "")
    rows = [re.split(r"\s{2,}", line) for line in out.splitlines()]
    assert rows[:-1] == [
        ["a.flac", "aligned", "4 words, 11 phones"],
        ["a.wav", "failed", "a.flac has the same name and so the same output; rename one of them"],
        ["c.wav", "failed", "in/c.wav is empty (0 bytes); expected an audio file"],
        ["d.wav", "failed", "no transcript; expected d.txt or d.lab beside it"],
        [
            "e.wav",
            "aligned",
            "2 words, 5 phones; 'сидит' at characters 8-13 was not aligned: no pronunciation is known",
        ],
        ["sub/b.flac", "aligned", "4 words, 11 phones"],
    ]
    assert rows[-1] == ["6 recordings: 3 aligned, 0 kept, 3 failed; output in out"]
    written = sorted(str(path.relative_to("out")) for path in Path("out").rglob("*.TextGrid"))
    assert written == ["a.TextGrid", "e.TextGrid", "sub/b.TextGrid"]


def test_a_second_run_keeps_what_is_there_and_loads_no_model(gradalign_, model):
    shutil.copytree(model, "broken")
    truncate(Path("broken"))
    for name in ("a", "b"):
        record(f"in/{name}.wav")
        Path(f"in/{name}.txt").write_text(TEXT)
    assert gradalign_("align", "in", "--format", "json")[0] == 0
    Path("in/a.json").write_text("mine")
    status, out, _ = gradalign_("align", "in", "--format", "json", "--model", "broken", with_model=False)
    assert status == 0
    assert "2 recordings: 0 aligned, 2 kept, 0 failed" in out
    assert Path("in/a.json").read_text() == "mine"
    assert "2 aligned" in gradalign_("align", "in", "--format", "json", "--overwrite")[1]
    assert io.read("in/a.json").transcript == TEXT


def test_an_interrupted_folder_keeps_what_is_done_and_goes_on_later(gradalign_, monkeypatch):
    for name in ("a", "b", "c"):
        record(f"in/{name}.wav")
        Path(f"in/{name}.txt").write_text(TEXT)
    real = _shared.align_one

    def stop_at_b(args, bundle, audio, text, **options):
        if audio.name == "b.wav":
            raise KeyboardInterrupt
        return real(args, bundle, audio, text, **options)

    monkeypatch.setattr(_shared, "align_one", stop_at_b)
    status, out, err = gradalign_("align", "in", "--jobs", "1")
    assert status == 130
    assert out.startswith("a.wav  aligned")
    assert "the same command goes on from here" in err
    assert sorted(path.name for path in Path("in").glob("*.TextGrid")) == ["a.TextGrid"]
    monkeypatch.setattr(_shared, "align_one", real)
    assert "2 aligned, 1 kept, 0 failed" in gradalign_("align", "in")[1]


def test_quiet_in_a_folder_names_only_what_went_wrong(gradalign_):
    record("in/a.wav")
    Path("in/a.txt").write_text("the cat сидит")
    record("in/b.wav")
    status, out, err = gradalign_("align", "in", "--quiet")
    assert (status, out) == (1, "")
    assert [line.split(":")[1:3] for line in err.splitlines()] == [[" warning", " a.wav"], [" error", " b.wav"]]


def test_a_folder_without_recordings_is_refused(gradalign_):
    Path("in").mkdir()
    failed(gradalign_("align", "in"), "in: no recordings in this folder")


def test_small_recordings_come_first():
    for name, seconds in (("a", 3.0), ("b", 1.0), ("c", 2.0)):
        record(f"in/{name}.wav", seconds)
    items = corpus.by_size(corpus.find(Path("in"), Path("out"), ".json"))
    assert [item.name for item in items] == ["b.wav", "c.wav", "a.wav"]


def test_an_error_that_is_not_ours_is_logged_and_does_not_stop_the_others(caplog):
    for name in ("a", "b"):
        record(f"in/{name}.wav")
        Path(f"in/{name}.txt").write_text(TEXT)

    def align(audio: Path, text: str) -> Alignment:
        if audio.name == "a.wav":
            raise MemoryError("too much")
        return Alignment(1.0, (Tier("words", (Interval(0.0, 1.0, text),)),))

    items = corpus.find(Path("in"), Path("out"), ".json")
    outcomes = list(corpus.run(items, align, lambda alignment, path: io.write(alignment, path)))
    assert [(o.status, o.message) for o in outcomes] == [
        ("failed", "unexpected MemoryError: too much"),
        ("aligned", ""),
    ]
    assert "MemoryError" in caplog.text


def test_several_jobs_give_what_one_gives_in_the_same_order(gradalign_):
    for name, seconds in (("a", 1.0), ("b", 1.7), ("c", 1.2), ("d", 1.5), ("e", 1.1)):
        record(f"in/{name}.wav", seconds)
        Path(f"in/{name}.txt").write_text(TEXT)
    Path("in/c.txt").unlink()
    one, several = (gradalign_("align", "in", "-o", f"out{n}", "--format", "json", "--jobs", n) for n in ("1", "3"))
    assert one[0] == several[0] == 1
    assert several[1] == one[1].replace("out1", "out3")
    written = sorted(path.name for path in Path("out1").iterdir())
    assert written == ["a.json", "b.json", "d.json", "e.json"]
    assert all(Path("out1", name).read_text() == Path("out3", name).read_text() for name in written)


def test_several_jobs_run_at_a_time_and_a_stopped_run_ends_them():
    for name in "abcdefgh":
        record(f"in/{name}.wav")
        Path(f"in/{name}.txt").write_text(TEXT)
    together, begun = threading.Barrier(2, timeout=30), []

    def align(audio: Path, text: str) -> Alignment:
        begun.append(audio.stem)
        if audio.stem in "ab":
            together.wait()  # each needs the other one to be there
        return Alignment(1.0, (Tier("words", (Interval(0.0, 1.0, text),)),))

    items = corpus.find(Path("in"), Path("out"), ".json")
    run = corpus.run(items, align, lambda alignment, path: io.write(alignment, path), jobs=2)
    assert [next(run).item.name for _ in range(2)] == ["a.wav", "b.wav"]
    run.close()
    assert len(begun) < len(items)
    assert sorted(path.stem for path in Path("out").iterdir()) == sorted(begun)


def test_warnings_name_the_recording_that_they_are_about(capsys):
    log, ready = logging.getLogger("gradalign.test"), threading.Barrier(2, timeout=30)

    def work(name: str) -> None:
        with warnings_about(Path(name)):
            ready.wait()
            log.warning("of %s", name)
            ready.wait()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, ("a.wav", "b.wav")))
    lines = sorted(capsys.readouterr().err.splitlines())
    assert lines == [f"gradalign: warning: {name}: of {name}" for name in ("a.wav", "b.wav")]


# --- evaluate


def words(path: str, *times: tuple[float, float, str]) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    io.write(Alignment(2.0, (Tier("words", tuple(Interval(*t) for t in times)),)), path)


def test_evaluate_prints_the_measures_of_two_files_and_writes_them_as_json(gradalign_):
    words("a.TextGrid", (0.1, 0.5, "the"), (0.5, 1.0, "cat"))
    words("b.json", (0.11, 0.5, "the"), (0.5, 1.03, "Cat."))
    status, out, err = gradalign_("evaluate", "a.TextGrid", "b.json", "--json", "m.json")
    assert (status, err) == (0, "")
    assert "2 paired" in out
    measures = json.loads(Path("m.json").read_text())
    assert measures["tse_s"] == pytest.approx(0.01)
    assert (measures["tier"], measures["n_missing"]) == ("words", 0)
    failed(gradalign_("evaluate", "a.TextGrid", "b.json", "--json", "m.json"), "exists already")
    assert gradalign_("evaluate", "a.TextGrid", "b.json", "--json", "m.json", "--overwrite")[0] == 0


def test_evaluate_pairs_two_folders_by_name_and_charges_what_is_missing(gradalign_):
    words("ref/a.TextGrid", (0.1, 0.5, "the"))
    words("ref/sub/b.TextGrid", (0.1, 0.5, "cat"))
    words("hyp/a.json", (0.1, 0.5, "the"))
    words("hyp/z.json", (0.1, 0.5, "dog"))
    status, out, err = gradalign_("evaluate", "ref", "hyp")
    assert status == 1
    assert "2 recordings, 2 reference units: 1 paired (0 with other labels), 1 missing, 0 extra" in out
    assert "ref/sub/b.TextGrid: no hypothesis of that name in hyp; all its units count as missing" in err
    assert "1 hypotheses have no reference and are left out, such as hyp/z.json" in err


def test_evaluate_names_a_malformed_file_and_goes_on_with_the_others(gradalign_):
    for name in ("a", "b"):
        words(f"ref/{name}.TextGrid", (0.1, 0.5, "the"))
        words(f"hyp/{name}.TextGrid", (0.1, 0.5, "the"))
    Path("hyp/a.TextGrid").write_text('File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0\nnonsense')
    status, out, err = gradalign_("evaluate", "ref", "hyp")
    assert status == 1
    assert out.startswith("2 recordings, 2 reference units: 1 paired (0 with other labels), 1 missing")
    assert re.fullmatch(r"gradalign: error: hyp/a\.TextGrid: [^\n]+\n", err)
    failed(gradalign_("evaluate", "ref/a.TextGrid", "hyp/a.TextGrid"), r"hyp/a\.TextGrid: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none", "hyp"), "none: no such file or folder"),
        (("ref", "ref/a.TextGrid"), "one is a file, the other a folder"),
        (("ref", "other"), "no two alignments have the same name"),
        (("ref/a.TextGrid", "ref/a.TextGrid", "--tier", "phones"), "has no tier 'phones'; it has words"),
        (("ref/a.TextGrid", "ref/a.xyz"), r"cannot tell the format from the suffix '\.xyz'"),
    ],
)
def test_evaluate_refuses_what_cannot_be_compared(gradalign_, arguments, message):
    words("ref/a.TextGrid", (0.1, 0.5, "the"))
    words("other/b.TextGrid", (0.1, 0.5, "the"))
    Path("ref/a.xyz").touch()
    failed(gradalign_("evaluate", *arguments), message)


# --- plot and info


def test_plot_writes_a_picture_beside_the_recording(gradalign_):
    record("rec.wav")
    status, out, err = gradalign_("plot", "rec.wav", TEXT)
    assert (status, out, err) == (0, "rec.png: 4 words, 11 phones in 1.40 s\n", "")
    assert Path("rec.png").read_bytes().startswith(b"\x89PNG")
    failed(gradalign_("plot", "rec.wav", TEXT), "kept; pass --overwrite")
    failed(gradalign_("plot", ".", TEXT), "is a directory; expected an audio file")


def test_plot_without_matplotlib_says_what_to_install(gradalign_, monkeypatch):
    record("rec.wav")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    failed(gradalign_("plot", "rec.wav", TEXT), r'pip install "gradalign\[plot\]"')


# --- recognise


def test_recognise_prints_the_phones_of_one_recording_and_nothing_else(gradalign_, model):
    rec = record("rec.wav")
    status, out, err = gradalign_("recognise", rec, "--beam", "2")
    assert (status, err) == (0, "")
    expected = recognise(bundles.load(model), audio.read(rec), beam=2)
    assert out == " ".join(expected.labels) + "\n"
    assert set(out.split()) <= set(PHONES)
    assert os.listdir() == ["rec.wav"]


def test_recognise_prints_words_of_a_list(gradalign_):
    record("rec.wav")
    Path("words.txt").write_text("the\ncat\nsat on it\n")
    status, out, err = gradalign_("recognise", "rec.wav", "--words", "words.txt", "--word-penalty", "-20")
    assert (status, err) == (0, "")
    assert out.split()
    assert set(out.split()) <= {"the", "cat", "sat", "on", "it"}


def test_recognise_names_each_of_several_recordings_and_prints_their_n_best(gradalign_):
    record("a.wav")
    record("b.wav", 0.7)
    status, out, err = gradalign_("recognise", "a.wav", "b.wav", "--n-best", "3", "--beam", "1")
    assert (status, err) == (0, "")
    found = [re.fullmatch(r"([ab]\.wav): +(-\d+\.\d\d)  ([A-Z ]*)", line) for line in out.splitlines()]
    assert [match and match[1] for match in found] == ["a.wav"] * 3 + ["b.wav"] * 3
    scores = [float(match[2]) for match in found if match]
    assert scores[:3] == sorted(scores[:3], reverse=True)


def test_recognise_writes_json_lines(gradalign_):
    record("a.wav")
    record("b.wav", 0.7)
    Path("words.txt").write_text("the cat")
    arguments = ("recognise", "a.wav", "b.wav", "--words", "words.txt", "--json", "--n-best", "2", "-o", "heard.json")
    assert gradalign_(*arguments) == (0, "", "")
    rows = [json.loads(line) for line in Path("heard.json").read_text("utf-8").splitlines()]
    assert [(row["audio"], row["model"], len(row["n_best"])) for row in rows] == [
        ("a.wav", "tiny", 2),
        ("b.wav", "tiny", 2),
    ]
    assert set(rows[0]["n_best"][0]) == {"log_prob", "words", "phones"}
    failed(gradalign_(*arguments), "heard.json: exists already and was kept; pass --overwrite")
    assert gradalign_(*arguments, "--overwrite")[0] == 0


def test_recognise_writes_each_recording_before_the_next_one(gradalign_, monkeypatch):
    from gradalign.commands import recognise as command

    names = ("a.wav", "b.wav", "c.wav")
    for name in names:
        record(name, 0.7)
    real = command._recognise_one

    def stop_at_c(args, bundle, audio, vocabulary):
        if audio.name == "c.wav":
            assert len(Path("heard.txt").read_text().splitlines()) == 2
            raise KeyboardInterrupt
        return real(args, bundle, audio, vocabulary)

    monkeypatch.setattr(command, "_recognise_one", stop_at_c)
    Path("heard.txt").write_text("another run\n")
    status, _, err = gradalign_("recognise", *names, "--beam", "1", "-o", "heard.txt", "--overwrite")
    assert status == 130
    assert "interrupted; what was written is complete" in err
    assert [line.partition(":")[0] for line in Path("heard.txt").read_text().splitlines()] == ["a.wav", "b.wav"]


def test_recognise_of_too_small_a_share_says_so(gradalign_):
    record("a.wav")
    failed(
        gradalign_("recognise", "a.wav", "--surest", "0.1", "-o", "heard.jsonl"), "a share of 0.1 is none; give more"
    )


def test_recognise_writes_a_manifest_of_what_it_is_surest_of(gradalign_, model):
    seconds = {"a.wav": 1.0, "b.wav": 0.7, "c.wav": 0.5}
    for name, length in seconds.items():
        record(name, length)
    arguments = ("recognise", *seconds, "--surest", "0.67", "-o", "heard.jsonl")
    assert gradalign_(*arguments) == (0, "", "")
    bundle = bundles.load(model)
    heard = {name: recognise(bundle, audio.read(Path(name))) for name in seconds}
    some = [name for name in seconds if heard[name].labels]
    best = sorted(some, key=lambda name: heard[name].log_prob / len(heard[name].labels))[-round(0.67 * len(some)) :]
    found = manifest.read("heard.jsonl")
    assert [(u.audio.name, u.heard) for u in found] == [(name, heard[name].labels) for name in sorted(best)]


def test_recognise_goes_on_after_a_recording_that_fails(gradalign_):
    garbage("a.wav")
    lasting(61)("b.wav")
    record("c.wav", 0.7)
    status, out, err = gradalign_("recognise", "a.wav", "b.wav", "c.wav", "--beam", "1")
    assert status == 1
    assert out.startswith("c.wav: ")
    assert "a.wav could not be read as audio" in err.splitlines()[0]
    assert "b.wav is 61 s long, at most 60 s" in err.splitlines()[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none.wav",), r"none\.wav: no such audio file; check the path"),
        (("none.wav", "rec.wav", "nil.wav"), r"none\.wav: no such .*; nil\.wav: no such audio file"),
        (("folder",), "folder is a directory; expected audio files"),
        (("rec.wav", "--words", "none.txt"), r"none\.txt: no such word list; expected a text file, one word a line"),
        (("rec.wav", "--words", "rec.wav"), r"rec\.wav is not plain text; expected a text file of words"),
        (("rec.wav", "--words", "folder"), "folder is not plain text"),
        (("rec.wav", "--words", "empty.txt"), "the word list holds no word that can be pronounced"),
        (("rec.wav", "-o", "none/a.txt"), "there is no directory none to write to"),
        (("rec.wav", "--channel", "3"), r"rec\.wav has 1 channel"),
    ],
)
def test_recognise_refuses_what_cannot_be_used_in_one_clear_line(gradalign_, arguments, message):
    record("rec.wav")
    Path("folder").mkdir()
    Path("empty.txt").touch()
    failed(gradalign_("recognise", *arguments), message)


def test_info_describes_a_model(gradalign_, model):
    status, out, err = gradalign_("info", model)
    assert (status, err) == (0, "")
    for expected in (r"model +tiny\n", r"frames +10 ms; of the encoder 40 ms", r"labels +39: AA AE", "# A tiny model"):
        assert re.search(expected, out), out


# --- the process


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    root = str(Path(gradalign.__file__).parents[1])
    # The user's own choice would win over `GRADALIGN_CACHE`.
    inherited = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**inherited, "PYTHONPATH": root, **environment},
        check=False,
    )


def test_help_and_import_load_neither_jax_nor_numpy():
    code = "import sys, gradalign, gradalign.cli\ntry: gradalign.cli.main(['--help'])\nexcept SystemExit: pass\n"
    done = python("-c", code + "print(sorted({'jax', 'numpy', 'librosa', 'matplotlib'} & set(sys.modules)))")
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_a_process_aligns_keeps_its_programs_and_is_silent_about_jax(model, tmp_path):
    record("rec.wav")
    arguments = ("-m", "gradalign", "align", "rec.wav", TEXT, "--model", str(model), "--exact")
    done = python(*arguments, GRADALIGN_CACHE=str(tmp_path / "cache"))
    assert (done.returncode, done.stderr) == (0, "")
    assert list((tmp_path / "cache" / "jax").iterdir())
    done = python(*arguments, GRADALIGN_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 1
    assert done.stderr.endswith("pass --overwrite to replace it\n")


# --- the package


def test_every_public_name_is_there_and_no_other_is_made_up():
    for name in gradalign.__all__:
        assert getattr(gradalign, name) is not None
    assert set(gradalign.__all__) <= set(dir(gradalign))
    assert gradalign.FormatError is FormatError
    with pytest.raises(AttributeError, match="no attribute 'allign'"):
        gradalign.allign  # noqa: B018 (the access is the test)
