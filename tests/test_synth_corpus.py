"""The synthetic corpus and `gradalign synth`: which text goes to whom, what is written, and how it goes on."""

import json
import re
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile

from gradalign import io, synth
from gradalign.cli import main
from gradalign.errors import FormatError, GradalignError
from gradalign.synth import corpus
from gradalign.synth.corpus import BATCH, SENTENCES, VOICES, Settings, plan, read_texts

TEXTS = [f"this is sentence number {word}" for word in "one two three four five six seven eight nine ten".split()]
needs_voice = pytest.mark.skipif("flite-slt" not in synth.voices(), reason="voice flite-slt is not installed")


def bare(line: str) -> str:
    return " ".join(re.findall(r"[a-z']+", line.lower()))


@pytest.fixture
def texts(tmp_path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("hello there\nwhere is my hat\n")
    return path


def run(*argv: object) -> int:
    return main(["synth", *map(str, argv)])


def wrong_usage(capsys, *argv: object) -> str:
    with pytest.raises(SystemExit) as left:
        run(*argv)
    assert left.value.code == 2
    return capsys.readouterr().err


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def test_the_sentences_of_the_package_are_many_and_none_is_of_the_benchmark():
    found, left_out = read_texts([SENTENCES])
    assert len(found) == 400
    assert left_out == 0
    benchmark = (Path(__file__).parents[1] / "benchmarks" / "sentences.txt").read_text().splitlines()
    assert not {bare(line) for line in found} & {bare(line) for line in benchmark}


def test_the_voices_of_training_are_none_of_the_benchmark_nor_of_its_speakers():
    assert not {"flite-rms", "festival-kal_diphone", "flite-kal", "flite-kal16"} & set(VOICES)


def test_texts_are_read_a_line_each_or_as_prose(tmp_path):
    (tmp_path / "lines.txt").write_text("# a list\nthe first line\n\nthe second\nthe first line\n")
    (tmp_path / "prose.txt").write_text('Mr. Hill came\nhome. "Why?" she\nasked. He slept.\n\nA new day')
    assert read_texts([tmp_path / "lines.txt"]) == (["the first line", "the second"], 0)
    assert read_texts([tmp_path / "prose.txt"])[0] == [
        "Mr. Hill came home.",
        '"Why?',
        "she asked.",
        "He slept.",
        "A new day",
    ]


def test_a_manifest_gives_the_words_of_its_sets_and_long_texts_are_cut_evenly(tmp_path):
    entries = [
        {"set": "a", "text": "IT’S A “TEST”, 'INDEED'"},
        {"set": "b", "text": "not this"},
        {"set": "a", "text": "nor 2 of these"},
        {"set": "a", "text": " ".join(["word"] * 21)},
    ]
    path = tmp_path / "m.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    found, _ = read_texts([path], sets=["a"])
    assert found == ["it's a test indeed", " ".join(["word"] * 10), " ".join(["word"] * 11)]


def test_what_the_voices_cannot_read_is_counted(tmp_path):
    (tmp_path / "t.txt").write_text("hello\nпривет\n", encoding="utf-8")
    assert read_texts([tmp_path / "t.txt"]) == (["hello"], 1)


@pytest.mark.parametrize(("name", "content"), [("t.txt", ""), ("t.txt", "# only this\n"), ("t.txt", "?\n")])
def test_a_file_without_a_sentence_is_refused(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(FormatError, match=r"t.txt: no sentence that the voices can read"):
        read_texts([tmp_path / name])


def test_unicode_line_breaks_inside_a_text_end_no_line(tmp_path):
    (tmp_path / "m.json").write_text('{"text": "one\u2028two"}\n', encoding="utf-8")
    assert read_texts([tmp_path / "m.json"])[0] == ["one two"]


@pytest.mark.parametrize("line", ['{"words": 1}', '{"text": 1}', '["text"]', "text"])
def test_a_manifest_that_is_none_is_refused_with_its_line(tmp_path, line):
    (tmp_path / "m.jsonl").write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(FormatError, match=r'm.jsonl: line 2 is not a JSON object with a "text"'):
        read_texts([tmp_path / "m.jsonl"])


def test_the_plan_is_that_of_the_first_training_corpus():
    # Written down when that corpus was made: changing the order of draws would make another corpus.
    batches = list(plan(TEXTS, Settings(), endless=False))
    assert [(b.voice, len(b.texts), b.stretch, b.pitch) for b in batches] == [
        ("flite-awb", 4, 1.05, 1.08),
        ("flite-slt", 6, 0.95, 1.16),
        ("festival-ked_diphone", 6, 1.15, 1.16),
        ("festival-cmu_us_slt_arctic_hts", 4, 1.15, 1.0),
    ]
    assert [b.texts[0].split()[-1] for b in batches] == ["three", "nine", "eight", "eight"]


def test_each_text_is_read_by_two_voices_or_by_each_and_first_readings_come_first():
    many = [f"{a} {b}" for a in TEXTS for b in TEXTS]
    read = {text: [] for text in many}
    for batch in plan(many, Settings(), endless=False):
        assert len(batch.texts) <= BATCH
        for text in batch.texts:
            read[text].append(batch.voice)
    assert all(len(set(voices)) == len(voices) == 2 for voices in read.values())
    every = [(b.voice, t) for b in plan(many, Settings(each=True), endless=False) for t in b.texts]
    assert sorted(every) == sorted((voice, text) for voice in VOICES for text in many)
    alone = [t for b in plan(TEXTS, Settings(voices=("flite-slt",)), endless=False) for t in b.texts]
    assert sorted(alone) == sorted(TEXTS)


def test_an_endless_plan_begins_again_in_another_order():
    once = list(plan(TEXTS, Settings(), endless=False))
    twice = list(islice(plan(TEXTS, Settings(), endless=True), 2 * len(once)))
    assert twice[: len(once)] == once
    assert [b.texts for b in twice[len(once) :]] != [b.texts for b in once]
    assert [b.number for b in twice] == list(range(len(twice)))


@needs_voice
def test_the_command_writes_recordings_and_their_times(tmp_path, texts, capsys):
    assert run("-o", tmp_path / "out", "--texts", texts, "--voices", "flite-slt", "--textgrid") == 0
    assert "2 recordings, 0.00 h; 2 made, 0 kept, 0 failed" in capsys.readouterr().out
    lines = lines_of(tmp_path / "out")
    assert {line["text"] for line in lines} == {"hello there", "where is my hat"}
    for line in lines:
        samples, rate = soundfile.read(tmp_path / "out" / line["audio_filepath"])
        assert len(samples) / rate == pytest.approx(line["duration"], abs=1e-4)
        again = synth.synthesise(line["text"], "flite-slt", stretch=line["stretch"], pitch=line["pitch"])
        np.testing.assert_allclose(samples, again.samples, atol=1 / 32768)
        assert [word[2] for word in line["words"]] == line["text"].split()
        grid = io.read(tmp_path / "out" / "textgrid" / f"{line['id']}.TextGrid")
        assert [[round(p.start, 4), round(p.end, 4), p.label] for p in grid.tier("phones")] == line["phones"]


@needs_voice
def test_the_same_command_gives_the_same_bytes_and_another_seed_does_not(tmp_path, texts):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert (
            run("-o", tmp_path / name, "--texts", texts, "--voices", "flite-slt", "--augment", "all", "--seed", seed)
            == 0
        )
    files = {name: {p.name: p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file()} for name in "abc"}
    assert files["a"] == files["b"] != files["c"]
    assert all("augment" in line for line in lines_of(tmp_path / "a"))


@needs_voice
def test_a_run_that_was_stopped_goes_on_to_what_an_unbroken_one_gives(tmp_path, monkeypatch, capsys):
    source = tmp_path / "t.txt"
    source.write_text(
        "\n".join(
            f"{a} {b}"
            for a in ("a red", "one big")
            for b in "dog cat hat box cup pen bed jug toy hen map key bus cow".split()
        )
    )
    argv = ("--texts", source, "--voices", "flite-slt", "--seed", 1)
    assert run("-o", tmp_path / "whole", *argv) == 0
    calls = []

    def stopped(*args, **options):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return synth.synthesise_all(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(corpus, "synthesise_all", stopped)
        assert run("-o", tmp_path / "broken", *argv) == 130
    assert "interrupted; the same command goes on from here" in capsys.readouterr().err
    assert len(lines_of(tmp_path / "broken")) == BATCH
    with (tmp_path / "broken" / "manifest.jsonl").open("a") as file:
        file.write('{"audio_filepath": "cut sh')  # as a power cut leaves it
    assert run("-o", tmp_path / "broken", *argv) == 0
    assert f"28 recordings, 0.01 h; 3 made, {BATCH} kept" in capsys.readouterr().out
    for name in ("manifest.jsonl", "synth.json"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@needs_voice
def test_more_hours_go_on_from_fewer(tmp_path, texts):
    for hours in (0.0005, 0.002):
        assert run("-o", tmp_path / "out", "--texts", texts, "--voices", "flite-slt", "--hours", hours, "--quiet") == 0
        lines = lines_of(tmp_path / "out")
        assert 3600 * hours < sum(line["duration"] for line in lines) < 3600 * hours + 5
    assert len({line["id"] for line in lines}) == len(lines)


@needs_voice
def test_a_corpus_of_other_options_is_kept_unless_told(tmp_path, texts, capsys):
    argv = ("-o", tmp_path / "out", "--texts", texts, "--voices", "flite-slt")
    assert run(*argv) == 0
    before = (tmp_path / "out" / "manifest.jsonl").read_bytes()
    assert run(*argv, "--seed", 5) == 1
    assert "exists already and was kept; it was made with other seed" in capsys.readouterr().err
    assert (tmp_path / "out" / "manifest.jsonl").read_bytes() == before
    assert run(*argv, "--seed", 5, "--overwrite") == 0
    assert len(list((tmp_path / "out" / "audio").iterdir())) == 2


@needs_voice
def test_recordings_of_somebody_else_are_never_dropped(tmp_path, texts, capsys):
    (tmp_path / "mine.wav").write_bytes(b"precious")
    (tmp_path / "out").mkdir()
    manifest = tmp_path / "out" / "manifest.jsonl"
    manifest.write_text('{"audio_filepath": "../mine.wav", "text": "a", "id": "../mine"}\n')
    argv = ("-o", tmp_path / "out", "--texts", texts, "--voices", "flite-slt", "--overwrite")
    assert run(*argv) == 1
    assert "manifest.jsonl: was not made by gradalign synth and was kept" in capsys.readouterr().err
    (tmp_path / "out" / "synth.json").write_text("{}")
    assert run(*argv) == 0
    assert (tmp_path / "mine.wav").read_bytes() == b"precious"


@needs_voice
def test_one_text_that_cannot_be_spoken_is_reported_and_does_not_stop_the_others(tmp_path, texts, monkeypatch, capsys):
    def choosy(spoken, voice, **options):
        if "hello there" in spoken:
            raise GradalignError("'q!' was said at 0.100 s: no phone of CMUdict's")
        return synth.synthesise_all(spoken, voice, **options)

    monkeypatch.setattr(corpus, "synthesise_all", choosy)
    assert run("-o", tmp_path / "out", "--texts", texts, "--voices", "flite-slt") == 1
    assert "warning: 'hello there': 'q!' was said at 0.100 s" in capsys.readouterr().err
    assert [line["text"] for line in lines_of(tmp_path / "out")] == ["where is my hat"]


@needs_voice
def test_a_run_in_which_nothing_can_be_spoken_ends(tmp_path, texts, monkeypatch, capsys):
    def failing(*_args, **_options):
        raise GradalignError("broken")

    monkeypatch.setattr(corpus, "synthesise_all", failing)
    assert run("-o", tmp_path / "out", "--texts", texts, "--voices", "flite-slt", "--hours", 1) == 1
    assert "none of the texts can be spoken; the last reason: " in capsys.readouterr().err


def test_voices_are_listed_with_what_brings_them(capsys):
    assert run("--list-voices") == 0
    listed = capsys.readouterr().out
    assert re.search(r"^flite-slt +(installed|apt-get install flite)$", listed, re.MULTILINE)
    assert re.search(r"^espeak-en-gb\+f1 +(installed|apt-get install espeak-ng)$", listed, re.MULTILINE)


def test_wrong_usage_says_what_is_right(tmp_path, capsys):
    out = ("-o", tmp_path / "out")
    assert "where to? give a folder: -o FOLDER" in wrong_usage(capsys)
    assert "no voice 'flite-stl'; did you mean flite-slt" in wrong_usage(capsys, *out, "--voices", "flite-stl")
    assert "no voice 'zz*'; there are flite-awb" in wrong_usage(capsys, *out, "--voices", "zz*")
    assert "expected a number of hours above 0" in wrong_usage(capsys, *out, "--hours", "-1")
    assert "expected a whole number, at least 0" in wrong_usage(capsys, *out, "--seed", "-1")
    assert "--sets goes with --texts MANIFEST.jsonl" in wrong_usage(capsys, *out, "--sets", "a")
    assert "not allowed with argument" in wrong_usage(capsys, *out, "--hours", 1, "--each")
    assert not (tmp_path / "out").exists()


@needs_voice
def test_wrong_augmentations_and_files_say_what_is_wrong(tmp_path, capsys):
    argv = ("-o", tmp_path / "out", "--voices", "flite-slt")
    assert "no augmentation 'nose'" in wrong_usage(capsys, *argv, "--augment", "nose")
    assert run(*argv, "--texts", tmp_path / "none.txt") == 1
    assert "none.txt: no such file; check the path" in capsys.readouterr().err
    (tmp_path / "empty.txt").touch()
    assert run(*argv, "--texts", tmp_path / "empty.txt") == 1
    assert "empty.txt: no sentence that the voices can read" in capsys.readouterr().err
    assert run("-o", tmp_path / "empty.txt", "--voices", "flite-slt") == 1
    assert "is a file, expected a folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_engines_the_packages_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(synth, "_is_installed", lambda _voice: False)
    assert run("-o", tmp_path / "out") == 1
    assert (
        "are not installed; on Debian: apt-get install festvox-kdlpc16k festvox-us-slt-hts flite"
        in capsys.readouterr().err
    )
    assert run("-o", tmp_path / "out", "--voices", "espeak-*") == 1
    assert "and 111 more are not installed; on Debian: apt-get install espeak-ng" in capsys.readouterr().err
