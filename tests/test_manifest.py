"""Corpora in three layouts, written here by hand, and everything that may be wrong with them."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

import gradalign
from gradalign.alignment import Interval
from gradalign.errors import FormatError
from gradalign.lexicon import Lexicon
from gradalign.manifest import Report, Utterance, check, read, read_librispeech, read_manifest, read_mfa, write


def record(path: Path, seconds: float = 1.0, rate: int = 8000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    form = "OGG" if path.suffix == ".opus" else None
    soundfile.write(path, np.zeros(round(seconds * rate), np.int16), rate, format=form)
    return path


def write_lines(path: Path, *rows: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def utterance(audio: Path, text: str = "a good day", **fields) -> Utterance:
    given = {"id": audio.stem, "speaker": "s", "set": "c", "duration": None} | fields
    return Utterance(audio, text, **given)


def problems(*utterances: Utterance, **options) -> dict[str, tuple[str, ...]]:
    return {str(kind): names for kind, names in check(utterances, **options).problems.items()}


# The long form of Praat, written out here, so that the reader does not read what our writer wrote.
def text_grid(path: Path, end: float, **tiers: list[tuple[float, float, str]]) -> Path:
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {end}",
        "tiers? <exists>",
        f"size = {len(tiers)}",
        "item []:",
    ]
    for number, (name, rows) in enumerate(tiers.items(), 1):
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{name}"']
        lines += ["        xmin = 0", f"        xmax = {end}", f"        intervals: size = {len(rows)}"]
        for n, (start, stop, label) in enumerate(rows, 1):
            lines += [f"        intervals [{n}]:", f"            xmin = {start}", f"            xmax = {stop}"]
            lines += [f'            text = "{label}"']
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


# ---- manifests


def test_manifest_with_all_keys(tmp_path):
    path = write_lines(
        tmp_path / "train.jsonl",
        {
            "audio_filepath": "wavs/a.wav",
            "duration": 2,
            "text": "hi",
            "offset": 1,
            "speaker": 19,
            "set": "mine",
            "id": "x",
            "phones": [[0, 1, "HH"], [1, 1.5, "AY"]],
            "words": [[0, 1.5, "hi"]],
            "pitch": 3,
        },
    )
    phones = (Interval(0.0, 1.0, "HH"), Interval(1.0, 1.5, "AY"))
    words = (Interval(0.0, 1.5, "hi"),)
    assert read(path) == [Utterance(tmp_path / "wavs/a.wav", "hi", "x", "19", "mine", 2.0, 1.0, phones, words)]


def test_phones_that_were_heard_stand_in_for_the_text(tmp_path):
    row = {"audio_filepath": "a.wav", "text": "", "id": "a", "set": "m"}
    record(tmp_path / "a.wav")
    (found,) = read(write_lines(tmp_path / "m.jsonl", row | {"heard": ["HH", "AY"]}))
    assert found.heard == ("HH", "AY")
    assert problems(found) == {}
    write([found], tmp_path / "again.jsonl")
    assert read(tmp_path / "again.jsonl") == [found]
    assert problems(dataclasses.replace(found, heard=("HH", "QQ"))) == {"unknown phones": ("a (QQ)",)}
    assert problems(dataclasses.replace(found, heard=())) == {"no text": ("a",)}
    with pytest.raises(FormatError, match=r"heard is 'HH AY', expected a list of phones"):
        read(write_lines(tmp_path / "bad.jsonl", row | {"heard": "HH AY"}))


def test_manifest_with_two_keys_gets_names_and_no_duration(tmp_path):
    path = write_lines(tmp_path / "train.json", {"audio_filepath": "/far/a.wav", "text": "hi"}, "", "   ")
    assert read(path) == [Utterance(Path("/far/a.wav"), "hi", "a", "", "train", None)]


def test_null_is_not_stated(tmp_path):
    keys = ("duration", "offset", "speaker", "set", "id", "phones", "words")
    path = write_lines(tmp_path / "m.jsonl", {"audio_filepath": "a.wav", "text": "hi"} | dict.fromkeys(keys))
    assert read(path) == [Utterance(tmp_path / "a.wav", "hi", "a", "", "m", None)]


def test_ids_that_are_not_given_differ_from_all_others(tmp_path):
    rows = [{"audio_filepath": f"{folder}/a.wav", "text": "hi"} for folder in "pqrs"]
    rows.insert(1, {"audio_filepath": "t/b.wav", "text": "hi", "id": "a-2"})
    rows.append({"audio_filepath": "t/c.wav", "text": "hi", "id": "a"})
    assert [u.id for u in read(write_lines(tmp_path / "m.jsonl", *rows))] == ["a-3", "a-2", "a-4", "a-5", "a-6", "a"]


def test_given_ids_are_kept_even_if_they_repeat(tmp_path):
    rows = [{"audio_filepath": "a.wav", "text": "hi", "id": "x"}] * 2
    assert [u.id for u in read(write_lines(tmp_path / "m.jsonl", *rows))] == ["x", "x"]


def test_unicode_line_breaks_inside_a_text_end_no_line(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"audio_filepath": "a.wav", "text": "one\u2028two\x85three"}\r\n', "utf-8")
    assert read(path)[0].text == "one\u2028two\x85three"


GOOD = {"audio_filepath": "a.wav", "text": "hi"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"audio_filepath": "a.wav", ', r"line 2: got '.*', expected one JSON object \(Expecting"),
        ("a.wav hi", "line 2: got 'a.wav hi', expected one JSON object"),
        ("[1, 2]", r"line 2: got '\[1, 2\]', expected one JSON object"),
        ('{"audio_filepath": "a.wav", "text": "hi", "duration": NaN}', "NaN is not JSON"),
        ({"text": "hi"}, "line 2: audio_filepath is missing, expected text"),
        ({"audio_filepath": "a.wav"}, "line 2: text is missing, expected text"),
        (GOOD | {"text": None}, "line 2: text is None, expected text"),
        (GOOD | {"audio_filepath": ["a.wav"]}, r"line 2: audio_filepath is \['a.wav'\], expected text"),
        (GOOD | {"duration": "3"}, "line 2: duration is '3', expected seconds"),
        (GOOD | {"duration": True}, "line 2: duration is True, expected seconds"),
        (GOOD | {"duration": -1}, "line 2: the duration is -1.0, expected seconds, finite and >= 0"),
        ('{"audio_filepath": "a.wav", "text": "hi", "offset": 1e999}', "line 2: the start is inf, expected seconds"),
        (GOOD | {"duration": 10**400}, "line 2: int too large"),
        (GOOD | {"id": 1.5}, "line 2: id is 1.5, expected text"),
        (GOOD | {"speaker": False}, "line 2: speaker is False, expected text"),
        (GOOD | {"phones": "AA"}, r"line 2: phones is 'AA', expected a list of \[start, end, label\]"),
        (GOOD | {"phones": [[0, 1, "AA"], [1, 2]]}, r"line 2: phones\[1\] is \[1, 2\], expected \[start, end, label\]"),
        (GOOD | {"words": [["0", 1, "hi"]]}, r"line 2: words\[0\] is \['0', 1, 'hi'\], expected \[start, end, label\]"),
        (GOOD | {"words": [[1, 1, "hi"]]}, r"line 2: words\[0\]: interval 'hi': needs 0 <= start < end"),
        (GOOD | {"words": [[0, 1, " "]]}, r"line 2: words\[0\]: .* empty label"),
        ("[" * 100_000, "line 2: "),
    ],
)
def test_broken_line_is_named_with_what_is_wrong(tmp_path, line, message):
    path = write_lines(tmp_path / "m.jsonl", GOOD, line, GOOD)
    with pytest.raises(FormatError, match=message) as error:
        read(path)
    assert str(error.value).startswith(f"{path}: line 2: ")
    assert len(str(error.value)) < 400


def test_all_broken_lines_are_counted_and_the_first_named(tmp_path):
    path = write_lines(tmp_path / "m.jsonl", GOOD, *["x"] * 8)
    with pytest.raises(FormatError, match=r"line 2: .*line 6: .*; and 3 more broken lines$") as error:
        read(path)
    assert "line 7" not in str(error.value)


def test_what_is_no_corpus(tmp_path):
    write_lines(tmp_path / "empty.jsonl")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FormatError, match="holds no utterance"):
        read(tmp_path / "empty.jsonl")
    with pytest.raises(FormatError, match="no such file"):
        read(tmp_path / "gone.jsonl")
    with pytest.raises(FormatError, match="no such file or folder; expected a manifest"):
        read(tmp_path / "gone")
    with pytest.raises(FormatError, match="is no corpus; expected a manifest"):
        read(record(tmp_path / "a.wav"))
    with pytest.raises(FormatError, match=r"no recordings .* expected files such as x.wav"):
        read(tmp_path / "folder")
    with pytest.raises(FormatError, match="no transcripts in this folder"):
        read_librispeech(tmp_path / "folder")
    for reader in (read_librispeech, read_mfa):
        with pytest.raises(FormatError, match="no such folder"):
            reader(tmp_path / "gone")
        with pytest.raises(FormatError, match="is a file, expected a folder"):
            reader(tmp_path / "a.wav")


texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
names = texts.filter(bool)
seconds = st.floats(0, 1e6)
labelled = st.builds(
    lambda start, length, label: Interval(start, start + length, label),
    st.floats(0, 1e3),
    st.floats(1e-3, 1e3),
    names.filter(lambda label: bool(label.strip())),
)
timed = st.none() | st.lists(labelled, max_size=4).map(tuple)
files = st.sampled_from(["a.wav", "b/c d.flac", "../up.wav", "/far/ü.opus"])
# Made in the test: the type checker looks at random items of a tuple, which a strategy may not.
rows = st.tuples(files, texts, names, texts, names, st.none() | seconds, seconds, timed, timed)


@given(st.lists(rows, min_size=1, max_size=4))
def test_reading_what_was_written_gives_the_same(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("round") / "m.jsonl"
    written = [Utterance(path.parent / file, *others) for file, *others in rows]
    write(written, path)
    assert read(path) == written


def test_written_manifest_word_for_word(tmp_path):
    far, near = Path("/far/b.wav"), tmp_path / "wavs" / "a.wav"
    write(
        [
            Utterance(near, "né", "a", "s", "c", 1.5, 0.25, (Interval(0.0, 0.5, "N", -3.0),), ()),
            Utterance(far, "", "b", "", "c", None),
        ],
        tmp_path / "m.jsonl",
    )
    assert (tmp_path / "m.jsonl").read_text("utf-8") == (
        '{"audio_filepath": "wavs/a.wav", "duration": 1.5, "text": "né", "speaker": "s", "set": "c", "id": "a", '
        '"offset": 0.25, "phones": [[0.0, 0.5, "N"]], "words": []}\n'
        '{"audio_filepath": "/far/b.wav", "duration": null, "text": "", "speaker": "", "set": "c", "id": "b"}\n'
    )


def test_manifest_moves_with_its_folder_however_it_was_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record(Path("corpus/wavs/a.wav"))
    write([utterance(Path("corpus/wavs/a.wav")), utterance(tmp_path / "corpus/wavs/b.wav")], "corpus/m.jsonl")
    Path("corpus").rename("moved")
    assert [u.audio for u in read("moved/m.jsonl")] == [Path("moved/wavs/a.wav"), Path("moved/wavs/b.wav")]


def test_existing_manifest_is_kept_unless_asked(tmp_path):
    path = write_lines(tmp_path / "m.jsonl", GOOD)
    with pytest.raises(FormatError, match="exists already"):
        write([utterance(tmp_path / "b.wav")], path)
    write([utterance(tmp_path / "b.wav")], path, overwrite=True)
    assert [u.id for u in read(path)] == ["b"]


# ---- LibriSpeech


@pytest.fixture
def librispeech(tmp_path) -> Path:
    chapter = tmp_path / "LibriSpeech" / "dev-clean" / "84" / "121123"
    record(chapter / "84-121123-0000.flac", 1.0)
    record(chapter / "84-121123-0001.opus", 1.5)
    record(chapter / "84-121123-0002.wav")
    write_lines(
        chapter / "84-121123.trans.txt",
        "84-121123-0000 GO  DO YOU HEAR",
        "84-121123-0001 BUT IN LESS THAN FIVE MINUTES",
        "84-121123-0002",
        "",
        "84-121123-0003 HE IS GONE",
    )
    other = tmp_path / "LibriSpeech" / "train-clean-100" / "19" / "198"
    record(other / "19-198-0000.flac")
    write_lines(other / "19-198.trans.txt", "19-198-0000 NORTHANGER ABBEY")
    (tmp_path / "LibriSpeech" / "SPEAKERS.TXT").write_text(";ID |SEX\n")
    return tmp_path / "LibriSpeech"


def test_librispeech(librispeech):
    chapter = librispeech / "dev-clean" / "84" / "121123"
    first, second, third, fourth, last = read(librispeech)
    assert first == Utterance(
        chapter / "84-121123-0000.flac", "GO  DO YOU HEAR", "84-121123-0000", "84", "dev-clean", None
    )
    assert [u.audio.name for u in (second, third, fourth)] == [
        "84-121123-0001.opus",
        "84-121123-0002.wav",
        "84-121123-0003.flac",
    ]
    assert third.text == ""
    assert (last.id, last.speaker, last.set) == ("19-198-0000", "19", "train-clean-100")


@pytest.mark.parametrize("below", ["dev-clean", "dev-clean/84", "dev-clean/84/121123"])
def test_part_of_librispeech_reads_as_in_the_whole(librispeech, below, monkeypatch):
    whole = [u for u in read(librispeech) if u.set == "dev-clean"]
    assert read(librispeech / below) == whole
    monkeypatch.chdir(librispeech / below)
    assert [(u.id, u.set, u.speaker) for u in read(".")] == [(u.id, u.set, u.speaker) for u in whole]


def test_check_of_librispeech(librispeech):
    report = check(read(librispeech))
    missing = librispeech / "dev-clean/84/121123/84-121123-0003.flac"
    assert report.problems == {
        "missing audio": (f"84-121123-0003 ({missing})",),
        "no text": ("84-121123-0002",),
    }
    assert [u.duration for u in report.usable] == [1.0, pytest.approx(1.5, abs=0.01), 1.0]
    assert report.guessed == {"northanger": 1}


# ---- MFA


def test_mfa_folders_of_speakers(tmp_path):
    root = tmp_path / "corpus"
    for speaker, suffix in (("ann", ".lab"), ("bob", ".txt")):
        record(root / speaker / "one.wav")
        (root / speaker / f"one{suffix}").write_text("  She had\nyour dark suit\n")
    record(root / "bob" / "part" / "two.FLAC")
    (root / "bob" / "part" / "two.lab").write_bytes("naïve".encode("utf-16"))
    assert read(root) == [
        Utterance(root / "ann/one.wav", "She had\nyour dark suit", "ann/one", "ann", "corpus", None),
        Utterance(root / "bob/one.wav", "She had\nyour dark suit", "bob/one", "bob", "corpus", None),
        Utterance(root / "bob/part/two.FLAC", "naïve", "bob/part/two", "bob", "corpus", None),
    ]


def test_mfa_flat_folder_has_no_speakers(tmp_path):
    record(tmp_path / "flat" / "one.wav")
    record(tmp_path / "flat" / "one.mp3.flac")
    (tmp_path / "flat" / "one.lab").write_text("hello")
    (tmp_path / "flat" / "one.mp3.lab").write_text("world")
    assert [(u.id, u.text, u.speaker) for u in read(tmp_path / "flat")] == [
        ("one", "hello", ""),
        ("one.mp3", "world", ""),
    ]


def test_mfa_wav_goes_before_other_copies_of_a_recording(tmp_path):
    for suffix in (".flac", ".wav", ".ogg"):
        record(tmp_path / f"one{suffix}")
    (tmp_path / "one.lab").write_text("hello")
    assert [u.audio.name for u in read_mfa(tmp_path)] == ["one.wav"]


def test_mfa_widowed_files_are_named_by_the_check(tmp_path):
    record(tmp_path / "s" / "silent.wav")
    (tmp_path / "s" / "lost.lab").write_text("hello")
    (tmp_path / "s" / "gone.txt").write_text("hello")
    (tmp_path / "LICENSE.txt").write_text("All wrongs reserved")
    report = check(read_mfa(tmp_path))
    assert report.problems == {
        "missing audio": (f"s/gone ({tmp_path / 's/gone.wav'})", f"s/lost ({tmp_path / 's/lost.wav'})"),
        "no text": ("s/silent",),
    }


def test_mfa_text_grid_of_a_long_recording(tmp_path):
    record(tmp_path / "talk.wav", 10.0)
    text_grid(
        tmp_path / "talk.TextGrid",
        10.0,
        ann=[(0, 1.5, "good morning"), (1.5, 4, ""), (4, 6.25, " how are you ")],
        bob=[(0, 2, ""), (2, 3.5, "fine"), (3.5, 10, "")],
    )
    found = read(tmp_path)
    assert [(u.id, u.speaker, u.text, u.start, u.duration) for u in found] == [
        ("talk#1", "ann", "good morning", 0.0, 1.5),
        ("talk#2", "bob", "fine", 2.0, 1.5),
        ("talk#3", "ann", "how are you", 4.0, 2.25),
    ]
    assert {u.audio for u in found} == {tmp_path / "talk.wav"}
    report = check(found)
    assert report.usable == tuple(found)
    assert report.hours == pytest.approx(5.25 / 3600)


def test_mfa_text_grid_without_anything_said(tmp_path):
    record(tmp_path / "talk.wav")
    text_grid(tmp_path / "talk.TextGrid", 1.0, ann=[(0, 1, "")])
    assert problems(*read(tmp_path)) == {"no text": ("talk",)}


def test_mfa_output_gives_reference_times(tmp_path):
    record(tmp_path / "ann" / "one.wav", 2.0)
    (tmp_path / "ann" / "one.lab").write_text("something else")
    text_grid(
        tmp_path / "ann" / "one.TextGrid",
        2.0,
        words=[(0, 0.5, "<eps>"), (0.5, 1.0, "hi"), (1.0, 2.0, "you")],
        phones=[(0, 0.5, "sil"), (0.5, 0.75, "HH"), (0.75, 1, "AY1"), (1, 1.25, "y"), (1.25, 1.5, "uw"), (1.5, 2, "")],
    )
    (found,) = read(tmp_path)
    assert found == Utterance(
        tmp_path / "ann/one.wav",
        "hi you",
        "ann/one",
        "ann",
        tmp_path.name,
        2.0,
        phones=(
            Interval(0.5, 0.75, "HH"),
            Interval(0.75, 1.0, "AY"),
            Interval(1.0, 1.25, "Y"),
            Interval(1.25, 1.5, "UW"),
        ),
        words=(Interval(0.5, 1.0, "hi"), Interval(1.0, 2.0, "you")),
    )
    assert problems(found) == {}


def test_mfa_output_of_phones_only_takes_the_text_beside(tmp_path):
    record(tmp_path / "one.wav")
    (tmp_path / "one.lab").write_text("I")
    text_grid(tmp_path / "one.TextGrid", 1.0, phones=[(0, 0.5, ""), (0.5, 1.0, "AY1")])
    (found,) = read(tmp_path)
    assert (found.text, found.phones, found.words) == ("I", (Interval(0.5, 1.0, "AY"),), None)


def test_mfa_output_with_speakers_is_put_together_in_time_order(tmp_path):
    record(tmp_path / "one.wav")
    text_grid(
        tmp_path / "one.TextGrid",
        1.0,
        **{
            "ann - words": [(0, 0.5, "hi"), (0.5, 0.75, ""), (0.75, 1, "you")],
            "bob - words": [(0, 0.5, ""), (0.5, 0.75, "yes"), (0.75, 1, "")],
        },
    )
    assert read(tmp_path)[0].text == "hi yes you"


def test_mfa_phones_of_another_set_are_reported(tmp_path):
    record(tmp_path / "one.wav")
    text_grid(tmp_path / "one.TextGrid", 1.0, words=[(0, 1, "hi")], phones=[(0, 0.5, "ç"), (0.5, 1, "spn")])
    assert problems(*read(tmp_path)) == {"unknown phones": ("one (ç, spn)",)}
    assert problems(*read(tmp_path), labels=("ç", "spn")) == {}


def test_mfa_broken_files_are_all_named(tmp_path):
    for name in ("one", "two"):
        record(tmp_path / f"{name}.wav")
    (tmp_path / "one.TextGrid").write_text("no grid")
    (tmp_path / "two.lab").write_bytes(b"\xff\xfa\x00")
    with pytest.raises(FormatError, match=r"one.TextGrid: not a TextGrid.*; .*two.lab: is not text in UTF-8"):
        read(tmp_path)


# ---- checks


def test_sound_corpus_has_no_problems(tmp_path):
    said = [utterance(record(tmp_path / f"{n}.wav", n)) for n in (1, 2, 3)]
    report = check(said)
    assert (report.n_utterances, report.problems, report.guessed) == (3, {}, {})
    assert report.hours == pytest.approx(6 / 3600)
    assert report.usable == tuple(
        dataclasses.replace(u, duration=d) for u, d in zip(said, (1.0, 2.0, 3.0), strict=True)
    )


def test_nothing_to_check():
    assert check([]) == Report(0, 0.0, {}, {}, ())
    assert str(check([])) == "0 utterances, 0 usable (0.00 h)"


def test_missing_and_unreadable_audio(tmp_path):
    (tmp_path / "text.wav").write_text("these are words")
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "folder.wav").mkdir()
    named = [utterance(tmp_path / f"{name}.wav", duration=1.0) for name in ("text", "empty", "folder", "gone")]
    found = problems(*named)
    assert list(found) == ["missing audio", "unreadable audio"]
    assert [name.split()[0] for name in found["missing audio"]] == ["folder", "gone"]
    assert [name.split()[0] for name in found["unreadable audio"]] == ["text", "empty"]


def test_flac_whose_header_states_no_length_is_unreadable(tmp_path):
    path = record(tmp_path / "piped.flac")
    data = bytearray(path.read_bytes())
    # STREAMINFO starts at byte 8; its 36-bit count of samples is the low half of byte 13 and bytes 14 to 17.
    data[8 + 13] &= 0xF0
    data[8 + 14 : 8 + 18] = bytes(4)
    path.write_bytes(data)
    found = problems(utterance(path))
    assert list(found) == ["unreadable audio"]
    assert "states no length" in found["unreadable audio"][0]


def test_stated_duration_is_compared_with_the_recording(tmp_path):
    audio = record(tmp_path / "a.wav", 2.0)
    assert problems(utterance(audio, duration=2.09)) == {}
    assert problems(utterance(audio, duration=1.91)) == {}
    for stated in (1.89, 2.11):
        expected = f"a (stated {stated:.2f} s, the recording has 2.00 s)"
        assert problems(utterance(audio, duration=stated)) == {"wrong duration": (expected,)}


def test_part_of_a_recording_may_be_shorter_but_stays_inside(tmp_path):
    audio = record(tmp_path / "a.wav", 4.0)
    assert problems(utterance(audio, duration=1.0, start=1.0)) == {}
    parts = [utterance(audio, id=str(n), duration=2.0, start=2.0 * n) for n in range(3)]
    assert problems(*parts) == {"wrong duration": ("2 (goes to 6.00 s, the recording to 4.00 s)",)}
    found = problems(utterance(audio, start=5.0))
    assert found["wrong duration"] == ("a (goes to 5.00 s, the recording to 4.00 s)",)
    assert found["too short"] == ("a (0.00 s)",)


def test_part_without_a_stated_end_goes_to_that_of_the_recording(tmp_path):
    audio = record(tmp_path / "a.wav", 4.0)
    assert check([utterance(audio, start=1.5)]).usable[0].duration == 2.5


def test_too_short_and_too_long(tmp_path):
    said = [utterance(record(tmp_path / f"{ms}.wav", ms / 1000), "a") for ms in (50, 100, 500, 1000, 1100)]
    assert problems(*said) == {"too short": ("50 (0.05 s)",)}
    limits = {"min_duration_s": 0.5, "max_duration_s": 1.0}
    assert problems(*said, **limits) == {
        "too short": ("50 (0.05 s)", "100 (0.10 s)"),
        "too long": ("1100 (1.10 s)",),
    }


def test_text_without_words(tmp_path):
    audio = record(tmp_path / "a.wav")
    assert problems(utterance(audio, "")) == {"no text": ("a",)}
    assert problems(utterance(audio, " \n")) == {"no text": ("a",)}
    assert problems(utterance(audio, "*** ?!")) == {"no text": ("a (only symbols: '*** ?!')",)}


def test_word_without_a_pronunciation_is_a_problem_and_a_guessed_one_is_not(tmp_path):
    first, second = (utterance(record(tmp_path / f"{n}.wav", 2), t) for n, t in (("a", "日本 is far"), ("b", "zorble")))
    third = utterance(record(tmp_path / "c.wav", 2), "the Zorble-blicket of zorble's")
    report = check([first, second, third])
    assert report.problems == {"no pronunciation": ("a (日本)",)}
    assert [u.id for u in report.usable] == ["b", "c"]
    assert report.guessed == {"zorble": 2, "blicket": 1, "zorble's": 1}
    own = Lexicon({"zorble": [["Z", "AO", "R", "B", "AH", "L"]], "日本": [["N", "IH"]]})
    assert check([first, second, third], lexicon=own).guessed == {"blicket": 1}
    assert check([first], lexicon=own).problems == {"no pronunciation": ("a (日本)",)}


def test_text_is_not_pronounced_where_phones_are_given(tmp_path):
    phones = (Interval(0.0, 0.5, "N"), Interval(0.5, 1.0, "IH"))
    report = check([utterance(record(tmp_path / "a.wav"), "日本 zorble", phones=phones)])
    assert (report.problems, report.guessed) == ({}, {})


def test_more_phones_than_time_allows(tmp_path):
    audio = record(tmp_path / "a.wav", 0.2)
    assert problems(utterance(audio, "seven")) == {}  # S EH V AH N: 25 a second
    assert problems(utterance(audio, "sevens")) == {"too many phones": ("a (6 in 0.20 s)",)}
    assert problems(utterance(audio, "sevens"), max_phones_per_s=30.0) == {}
    given = tuple(Interval(n / 100, (n + 1) / 100, "AH") for n in range(6))
    assert problems(utterance(audio, "a", phones=given)) == {"too many phones": ("a (6 in 0.20 s)",)}


@pytest.mark.parametrize("kind", ["phones", "words"])
def test_times_that_overlap_or_run_out(tmp_path, kind):
    audio = record(tmp_path / "a.wav", 1.0)

    def found(*rows: tuple[float, float]) -> dict[str, tuple[str, ...]]:
        return problems(utterance(audio, **{kind: tuple(Interval(a, b, "AH") for a, b in rows)}))

    assert found((0.0, 0.5), (0.495, 1.005)) == {}
    overlap = {"bad times": ("a (AH starts at 0.400 s, AH before it ends at 0.500 s)",)}
    assert found((0.0, 0.5), (0.4, 1.0)) == overlap
    assert found((0.5, 1.0), (0.0, 0.5)) == {"bad times": ("a (AH starts at 0.000 s, AH before it ends at 1.000 s)",)}
    assert found((0.0, 1.2)) == {"bad times": ("a (AH ends at 1.200 s, the utterance at 1.000 s)",)}
    assert found() == {"bad times": ("a (an empty list of times)",)}


def test_times_count_from_the_start_of_the_utterance(tmp_path):
    audio = record(tmp_path / "a.wav", 4.0)
    part = utterance(audio, start=2.0, duration=1.0, words=(Interval(0.0, 1.0, "hi"),))
    assert problems(part) == {}
    assert list(problems(dataclasses.replace(part, words=(Interval(2.0, 3.0, "hi"),)))) == ["bad times"]


def test_repeated_id_leaves_the_first(tmp_path):
    one, two = record(tmp_path / "p" / "a.wav"), record(tmp_path / "q" / "a.wav")
    report = check([utterance(one), utterance(two), utterance(two, set="other")])
    assert report.problems == {"repeated id": (f"a ({two})",)}
    assert [u.audio for u in report.usable] == [one, two]


def test_an_utterance_has_all_of_its_problems(tmp_path):
    bad = utterance(tmp_path / "gone.wav", "", duration=0.01, words=(Interval(0.0, 1.0, "hi"),))
    assert list(problems(bad)) == ["missing audio", "too short", "no text", "bad times"]


def test_progress_counts_to_the_end(tmp_path):
    audio = record(tmp_path / "a.wav")
    calls: list[tuple[int, int]] = []
    check([utterance(audio, id=name) for name in "xyz"], progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_report_as_text(tmp_path):
    said = [utterance(record(tmp_path / f"{n}.wav", 36.0), "zorble the blicket") for n in range(2)]
    said.append(utterance(record(tmp_path / "2.wav"), "a zorble"))
    said += [utterance(record(tmp_path / f"silent-{n}.wav"), "") for n in range(7)]
    assert str(check(said, max_duration_s=40.0)) == (
        "10 utterances, 3 usable (0.02 h)\n"
        "  no text: 7: silent-0, silent-1, silent-2, silent-3, silent-4, and 2 more\n"
        "  pronounced by rule, in no dictionary: 2 words: zorble (3), blicket (2)"
    )


def test_negative_or_endless_times_are_no_utterance():
    for fields in ({"duration": -1.0}, {"duration": float("nan")}, {"start": -0.5}, {"start": float("inf")}):
        with pytest.raises(ValueError, match="expected seconds, finite and >= 0"):
            utterance(Path("a.wav"), **fields)


def test_manifests_do_without_jax():
    code = "import sys, gradalign.manifest; print(sorted({'jax', 'jaxlib', 'flax', 'soundfile'} & set(sys.modules)))"
    folder = Path(gradalign.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.stdout == "[]\n", done.stderr


def test_read_manifest_refuses_a_folder(tmp_path):
    with pytest.raises(FormatError, match="is a directory"):
        read_manifest(tmp_path)
