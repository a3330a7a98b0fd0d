"""Files: what is written is read again, here and by Praat and praatio; bad input has its message."""

import importlib.util
import json as stdlib_json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import parselmouth
import pytest
from hypothesis import given
from hypothesis import strategies as st
from parselmouth.praat import call
from praatio import textgrid as praatio_textgrid
from praatio.data_classes.interval_tier import IntervalTier
from praatio.data_classes.point_tier import PointTier
from praatio.utilities.constants import Interval as PraatioInterval
from praatio.utilities.constants import Point
from strategies import alignments, labels, words_tiers

from gradalign import io
from gradalign.alignment import Alignment, Interval, Tier
from gradalign.errors import FormatError
from gradalign.io import ctm, json, textgrid

# beartype looks at one random element of a sequence, which Hypothesis takes for a strategy's doing.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")

GOLDEN = Path(__file__).parent / "golden"
_spec = importlib.util.spec_from_file_location("make_io", GOLDEN / "make_io.py")
assert _spec is not None
assert _spec.loader is not None
make_io = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make_io)

HARD = Alignment(
    2.0,
    (
        Tier(
            'the "best" tier',
            (
                Interval(0.1, 0.2, 'say "hi"'),
                Interval(0.2, 1 / 3, "two\nlines"),
                Interval(0.5, 0.123456789012 + 0.5, "straße 日本 \U0001f600"),
                Interval(1.2, 2.0, '"'),
            ),
        ),
        Tier("phones", ()),
        Tier("full", (Interval(0.0, 2.0, "all"),)),
    ),
)


def spans(alignment: Alignment) -> list[tuple[str, list[tuple[float, float, str]]]]:
    return [(tier.name, [(i.start, i.end, i.label) for i in tier]) for tier in alignment.tiers]


def from_praat(path: Path) -> list[tuple[str, list[tuple[float, float, str]]]]:
    grid = parselmouth.read(str(path))
    tiers = []
    for n in range(1, int(call(grid, "Get number of tiers")) + 1):
        count = int(call(grid, "Get number of intervals", n))
        rows = [
            (
                call(grid, "Get starting point", n, k),
                call(grid, "Get end point", n, k),
                call(grid, "Get label of interval", n, k),
            )
            for k in range(1, count + 1)
        ]
        assert rows[0][0] == 0
        assert rows[-1][1] == call(grid, "Get end time")
        assert all(a[1] == b[0] for a, b in pairwise(rows))
        tiers.append((call(grid, "Get tier name", n), [row for row in rows if row[2]]))
    return tiers


# Round trips


@given(alignments(), st.booleans())
def test_a_textgrid_keeps_every_time_and_label(alignment: Alignment, long: bool) -> None:
    again = textgrid.parse(textgrid.format(alignment, long=long))
    assert again.duration == alignment.duration
    assert spans(again) == spans(alignment)


@given(labels().filter(lambda name: len(f"{name}.".splitlines()) == 1), st.booleans())
def test_a_textgrid_keeps_the_names_of_tiers(name: str, long: bool) -> None:
    alignment = Alignment(1.0, (Tier(name, (Interval(0.25, 0.5, "a"),)),))
    assert textgrid.parse(textgrid.format(alignment, long=long)) == alignment


@given(alignments())
def test_json_is_lossless(alignment: Alignment) -> None:
    assert json.parse(json.format(alignment)) == alignment


@given(words_tiers())
def test_ctm_keeps_labels_scores_order_and_times_to_half_a_microsecond(tier: Tier) -> None:
    alignment = Alignment(100.0, (tier,))
    if not len(tier):
        assert ctm.format(alignment) == ""
        return
    again = ctm.parse(ctm.format(alignment)).tier("words")
    assert [i.label for i in again] == ["_".join(i.label.split()) for i in tier]
    assert [i.score for i in again] == [i.score for i in tier]
    for a, b in zip(again, tier, strict=True):
        assert abs(a.start - b.start) <= 0.51e-6
        assert abs(a.end - b.end) <= 0.51e-6
    touching = [x.end == y.start for x, y in zip(tier, tier.intervals[1:], strict=False)]
    assert all(x.end == y.start for x, y, touch in zip(again, again.intervals[1:], touching, strict=False) if touch)


@pytest.mark.parametrize(("name", "format"), make_io.FILES.items())
def test_writing_gives_the_golden_file(name: str, format: io.Format, tmp_path: Path) -> None:
    io.write(make_io.ALIGNMENT, tmp_path / name, format=format)
    # The stem is the CTM utterance, so the names agree as well.
    assert (tmp_path / name).read_bytes() == (GOLDEN / name).read_bytes()


def test_reading_the_golden_files_gives_the_alignment() -> None:
    assert io.read(GOLDEN / "two_words.json") == make_io.ALIGNMENT
    for name in ("two_words.TextGrid", "two_words.short.TextGrid"):
        assert spans(io.read(GOLDEN / name)) == spans(make_io.ALIGNMENT)
    assert [i.label for i in io.read(GOLDEN / "two_words.ctm").tier("words")] == ['say_"é"', "日本"]


# Foreign readers and writers


@pytest.mark.parametrize("long", [True, False])
def test_praat_reads_what_we_write(long: bool, tmp_path: Path) -> None:
    textgrid.write(HARD, tmp_path / "a.TextGrid", long=long)
    assert from_praat(tmp_path / "a.TextGrid") == spans(HARD)


@pytest.mark.parametrize("long", [True, False])
def test_praatio_reads_what_we_write(long: bool, tmp_path: Path) -> None:
    textgrid.write(HARD, tmp_path / "a.TextGrid", long=long)
    grid = praatio_textgrid.openTextgrid(str(tmp_path / "a.TextGrid"), includeEmptyIntervals=False)
    assert grid.maxTimestamp == HARD.duration
    got = [(tier.name, [tuple(entry) for entry in tier.entries]) for tier in grid.tiers]
    # praatio leaves the quotes of names doubled.
    assert [(name.replace('""', '"'), rows) for name, rows in got] == spans(HARD)


@pytest.mark.parametrize("command", ["Save as text file...", "Save as short text file..."])
@pytest.mark.parametrize("label", ["plain", 'é 日本 "quoted"'])
def test_what_praat_writes_is_read(command: str, label: str, tmp_path: Path) -> None:
    grid = call("Create TextGrid", 0.0, 1.7, "words pts phones", "pts")
    call(grid, "Insert boundary", 1, 0.123456789012)
    call(grid, "Set interval text", 1, 2, label)
    call(grid, "Insert point", 2, 0.3, "click")
    call(grid, "Insert point", 2, 0.4, "two\nlines")
    call(grid, command, str(tmp_path / "p.TextGrid"))
    utf16 = (tmp_path / "p.TextGrid").read_bytes()[:2] in (b"\xff\xfe", b"\xfe\xff")
    assert utf16 == (label != "plain"), "Praat writes UTF-16 where ASCII will not do"
    again = io.read(tmp_path / "p.TextGrid")
    assert again.duration == 1.7
    assert spans(again) == [("words", [(0.123456789012, 1.7, label)]), ("phones", [])]


@pytest.mark.parametrize("format", ["long_textgrid", "short_textgrid"])
def test_what_praatio_writes_is_read(format: Literal["long_textgrid", "short_textgrid"], tmp_path: Path) -> None:
    grid = praatio_textgrid.Textgrid()
    grid.addTier(PointTier("pts", [Point(0.5, "x"), Point(0.75, 'y "q"')], 0, 2.0))
    grid.addTier(
        IntervalTier("words", [PraatioInterval(0.25, 0.5, 'a "b"'), PraatioInterval(0.5, 1.0, "日\n本")], 0, 2.0)
    )
    grid.save(str(tmp_path / "p.TextGrid"), format=format, includeBlankSpaces=True)
    assert spans(io.read(tmp_path / "p.TextGrid")) == [("words", [(0.25, 0.5, 'a "b"'), (0.5, 1.0, "日\n本")])]


def test_a_short_textgrid_of_point_tiers_alone_has_no_tiers(tmp_path: Path) -> None:
    grid = call("Create TextGrid", 0.0, 1.0, "a b", "a b")
    call(grid, "Insert point", 2, 0.3, "click")
    call(grid, "Save as short text file...", str(tmp_path / "p.TextGrid"))
    assert io.read(tmp_path / "p.TextGrid") == Alignment(1.0, ())


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("long", [True, False])
def test_byte_order_marks_and_windows_lines_are_read(encoding: str, newline: str, long: bool, tmp_path: Path) -> None:
    text = textgrid.format(make_io.ALIGNMENT, long=long).replace("\n", newline)
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
    (tmp_path / "a.TextGrid").write_bytes(mark + text.encode(encoding))
    assert spans(io.read(tmp_path / "a.TextGrid")) == spans(make_io.ALIGNMENT)


@pytest.mark.parametrize("long", [True, False])
def test_labels_that_look_like_times_are_labels(long: bool) -> None:
    hard = Alignment(2.0, (Tier("words", (Interval(0.5, 1.0, 'a\n1\n1\n"b"'), Interval(1.0, 1.5, "1"))),))
    assert spans(textgrid.parse(textgrid.format(hard, long=long))) == spans(hard)


@pytest.mark.parametrize("long", [True, False])
def test_no_length_is_found_however_the_times_are_written(long: bool) -> None:
    text = textgrid.format(Alignment(2.0, (Tier("words", (Interval(0.5, 1.25, "a"),)),)), long=long)
    with pytest.raises(FormatError, match=r"line \d+: a labelled interval starts and ends at 0\.5 s"):
        textgrid.parse(text.replace("1.25", "0.50"))


def test_labels_of_white_space_are_silence_in_a_textgrid() -> None:
    text = textgrid.format(make_io.ALIGNMENT).replace('"日本"', '" \t"')
    assert [i.label for i in textgrid.parse(text).tier("words")] == ['say "é"']


def test_nothing_but_the_package_s_rounding_stands_between_long_and_short() -> None:
    assert spans(textgrid.parse(textgrid.format(HARD))) == spans(textgrid.parse(textgrid.format(HARD, long=False)))


# Choice of format


@pytest.mark.parametrize("name", ["a.TextGrid", "a.textgrid", "a.TEXTGRID", "a.json", "a.JSON", "a.ctm"])
def test_the_suffix_chooses_the_format(name: str, tmp_path: Path) -> None:
    io.write(make_io.ALIGNMENT, tmp_path / name)
    assert len(io.read(str(tmp_path / name)).tier("words")) == 2


def test_a_named_format_beats_the_suffix(tmp_path: Path) -> None:
    io.write(make_io.ALIGNMENT, tmp_path / "a.txt", format="short-textgrid")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8").splitlines()[3] == "0.0"
    assert spans(io.read(tmp_path / "a.txt", format="textgrid")) == spans(make_io.ALIGNMENT)


def test_chosen_tiers_are_written_in_the_order_given(tmp_path: Path) -> None:
    io.write(make_io.ALIGNMENT, tmp_path / "a.json", tiers=("phones",))
    assert [tier.name for tier in io.read(tmp_path / "a.json").tiers] == ["phones"]
    io.write(make_io.ALIGNMENT, tmp_path / "a.ctm", tiers=("phones",))
    assert (tmp_path / "a.ctm").read_text().split()[:6] == ["a", "1", "0.125000", "0.125000", "S", "-1.0"]
    io.write(make_io.ALIGNMENT, tmp_path / "a.TextGrid", tiers=("phones", "words"))
    assert [tier.name for tier in io.read(tmp_path / "a.TextGrid").tiers] == ["phones", "words"]


def test_an_unknown_suffix_format_or_tier_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"suffix '.xyz', expected .TextGrid, .json or .ctm"):
        io.read(tmp_path / "a.xyz")
    with pytest.raises(FormatError, match=r"suffix ''"):
        io.write(make_io.ALIGNMENT, tmp_path / "a")
    with pytest.raises(ValueError, match=r"tiers are \['x'\], expected some of \['words', 'phones'\]"):
        io.write(make_io.ALIGNMENT, tmp_path / "a.json", tiers=("x",))
    with pytest.raises(ValueError, match="holds one tier"):
        io.write(make_io.ALIGNMENT, tmp_path / "a.ctm", tiers=("words", "phones"))
    assert list(tmp_path.iterdir()) == []


# Paths


def test_an_output_that_exists_is_kept_unless_told(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("mine")
    with pytest.raises(FormatError, match=r"a.json: exists already and was kept; pass overwrite=True \(--overwrite\)"):
        io.write(make_io.ALIGNMENT, path)
    assert path.read_text() == "mine"
    io.write(make_io.ALIGNMENT, path, overwrite=True)
    assert io.read(path) == make_io.ALIGNMENT
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"], "no draft is left behind"


def test_a_failed_write_leaves_the_old_file_and_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(FormatError, match=r"cannot be written .*No space left"):
        io.write(make_io.ALIGNMENT, path, overwrite=True)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_written_file_has_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    io.write(make_io.ALIGNMENT, tmp_path / "a.json")
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_missing_directory_or_a_directory_for_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"there is no directory .*nowhere to write to; create it"):
        io.write(make_io.ALIGNMENT, tmp_path / "nowhere" / "a.json")
    (tmp_path / "d.json").mkdir()
    with pytest.raises(FormatError, match=r"d.json: is not a regular file"):
        io.write(make_io.ALIGNMENT, tmp_path / "d.json", overwrite=True)
    with pytest.raises(FormatError, match=r"d.json: is a directory"):
        io.read(tmp_path / "d.json")


@pytest.mark.parametrize("suffix", ["TextGrid", "json", "ctm"])
def test_missing_and_undecodable_files_are_named(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    with pytest.raises(FormatError, match=rf"a.{suffix}: no such file"):
        io.read(path)
    path.write_bytes(b"caf\xe9 \xff\n")
    with pytest.raises(FormatError, match=rf"a.{suffix}: is not text in UTF-8.*\(byte 3: .*; save it as UTF-8"):
        io.read(path)
    path.write_bytes(b"\xff\xfea")
    with pytest.raises(FormatError, match="is not text"):
        io.read(path)
    with pytest.raises(FormatError, match="cannot be read"):
        io.read(f"{path}\0.{suffix}")


@pytest.mark.parametrize("suffix", ["TextGrid", "json", "ctm"])
def test_half_a_surrogate_pair_is_refused(suffix: str, tmp_path: Path) -> None:
    alignment = Alignment(1.0, (Tier("words", (Interval(0.0, 1.0, "a\ud800"),)),))
    with pytest.raises(FormatError, match="half a surrogate pair"):
        io.write(alignment, tmp_path / f"a.{suffix}")
    assert list(tmp_path.iterdir()) == []


# Malformed TextGrids

LONG = textgrid.format(make_io.ALIGNMENT)
SHORT = textgrid.format(make_io.ALIGNMENT, long=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a TextGrid in text form: .*header"),
        ("hello\n", "not a TextGrid in text form: .*header"),
        ('File type = "ooTextFile"\nObject class = "Sound"\n', "not a TextGrid"),
        (LONG[: len(LONG) // 2], r"\(tier 1\)"),
        (SHORT[: SHORT.index('"phones"') + 20], r"\(tier 2\)"),
        (LONG.replace("xmax = 0.5\n", "xmax = half\n"), r"\(tier 1\).*half"),
        (LONG.replace("xmax = 0.5\n", "xmax = 0.7\n"), r"\(tier 1\)"),
        (LONG.replace('"phones"', '"words"'), r"tier names must differ"),
        (SHORT.replace("0.125\n0.5\n", "0.125\n0.125\n"), r"line 16: a labelled interval starts and ends at 0.125 s"),
        (LONG.replace("xmax = 1.5", "xmax = -1"), "positive duration|tier 1"),
        (LONG.replace("xmax = 1.5", "xmax = nan"), "positive duration"),
        (LONG.replace("xmin = 0.0", "xmin = -1.0").replace("0.125", "-0.5"), "0 <= start"),
    ],
)
def test_a_malformed_textgrid_has_its_message(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.TextGrid").write_text(text, encoding="utf-8")
    with pytest.raises(FormatError, match=rf"bad.TextGrid: .*{message}"):
        io.read(tmp_path / "bad.TextGrid")


@given(st.text(max_size=80) | st.integers(0, len(LONG)).map(lambda n: LONG[:n] + LONG[n + 3 :]))
def test_damaged_textgrids_raise_nothing_but_format_errors(text: str) -> None:
    try:
        textgrid.parse(text)
    except FormatError:
        pass


@pytest.mark.parametrize(
    ("tiers", "message"),
    [
        ((), "at least one tier"),
        ((Tier("words", (Interval(0.0, 1.0, "a\0b"),)),), "NUL character"),
        ((Tier("two\nlines", ()),), "line break"),
        ((Tier("x\n", ()),), "line break"),
        ((Tier("x\u2028", ()),), "line break"),
    ],
)
def test_what_a_textgrid_cannot_hold_is_refused(tiers: tuple[Tier, ...], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        textgrid.format(Alignment(1.0, tiers))


# Malformed JSON


def damaged(**changes: object) -> str:
    content = stdlib_json.loads(json.format(make_io.ALIGNMENT))
    for key, value in changes.items():
        content[key] = value
    return stdlib_json.dumps(content)


def tier_row(**changes: object) -> list[dict[str, Any]]:
    row = {"start": 0.0, "end": 1.0, "label": "a", "score": None, **changes}
    return [{"name": "x", "intervals": [row]}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format":\n oops}', "line 2: not JSON"),
        ("", "line 1: not JSON"),
        ("[1, 2]", 'expected an object with "format": "gradalign-alignment", got None'),
        (damaged(format="other"), "got 'other'"),
        (damaged(version=2), "is of version 2, this release reads up to 1; upgrade gradalign"),
        (damaged(version=0), "is of version 0"),
        (damaged(version="1"), "version is '1', expected int"),
        (damaged(duration=None), "duration is None, expected float"),
        (damaged(duration=True), "duration is True, expected float"),
        (damaged(duration=math.nan), "holds NaN, which is not JSON"),
        (damaged(duration=-1.0), "positive duration"),
        (damaged(duration=1.0), "after the recording's end"),
        (damaged(tiers={}), "tiers is {}, expected list"),
        (damaged(tiers=[3]), r"tiers\[0\].intervals is missing"),
        (damaged(tiers=tier_row(label=3)), r"tiers\[0\].intervals\[0\].label is 3, expected str"),
        (damaged(tiers=tier_row(end=0.0)), r"tiers\[0\].intervals\[0\]: .*start < end"),
        (damaged(tiers=tier_row(score="x")), r"score is 'x', expected float or null"),
        (damaged(tiers=tier_row() + tier_row()), "tier names must differ"),
        (damaged(tiers=[{"name": "x", "intervals": 2 * tier_row()[0]["intervals"]}]), r"tiers\[0\]: .*overlap"),
        (damaged(words=[{"text": "a"}]), r"words\[0\].status is missing"),
        (
            damaged(words=[{"text": "a", "start_char": 0, "end_char": 1, "status": "lost", "index": None}]),
            r"words\[0\]: status is 'lost', expected one of aligned",
        ),
        (
            damaged(words=[{"text": "a", "start_char": 0, "end_char": 1, "status": "aligned", "index": None}]),
            r"words\[0\]: .*does not go with",
        ),
        ("[" * 100_000, "not JSON"),
        (damaged(duration=0).replace('"duration": 0', '"duration": ' + "9" * 5000), "not JSON that can be read"),
    ],
)
def test_malformed_json_has_its_message(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(FormatError, match=rf"bad.json: .*{message}"):
        io.read(tmp_path / "bad.json")


def test_a_score_that_is_not_finite_is_refused() -> None:
    for score in (math.nan, math.inf):
        alignment = Alignment(1.0, (Tier("words", (Interval(0.0, 1.0, "a", score),)),))
        with pytest.raises(FormatError, match="a score is NaN or infinite"):
            json.format(alignment)
        with pytest.raises(FormatError, match="expected a finite number"):
            ctm.format(alignment)


# CTM


def test_a_ctm_line_by_hand() -> None:
    alignment = Alignment(2.0, (Tier("words", (Interval(0.3, 0.7000004, "a b\tc", -0.5), Interval(1.0, 1.5, ";;x"))),))
    assert ctm.format(alignment, utterance="u1") == "u1 1 0.300000 0.400000 a_b_c -0.5\nu1 1 1.000000 0.500000 ;;x\n"


def test_several_utterances_are_read_apart() -> None:
    text = ";; comment\n\nu2 A 0.5 0.25 b 0.9\r\nu1 1 0.1 0.2 x\nu2 A 0.10 0.2 a\n"
    found = ctm.parse_many(text)
    assert list(found) == ["u2", "u1"]
    assert found["u2"].tier("words").intervals == (Interval(0.1, 0.3, "a"), Interval(0.5, 0.75, "b", 0.9))
    assert found["u2"].duration == 0.75
    with pytest.raises(FormatError, match=r"holds 2 utterances \(u2, u1\), expected one; .*parse_many"):
        ctm.parse(text)


def test_an_overlap_from_rounding_to_two_decimals_is_cut() -> None:
    text = "u 1 0.13 0.14 a\nu 1 0.26 0.1 b\n"
    assert [(i.start, i.end) for i in ctm.parse(text).tier("words")] == [(0.13, 0.26), (0.26, 0.36)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no word"),
        (";; only\n", "holds no word"),
        ("u 1 0.1 0.2\n", "line 1: has 4 columns"),
        ("u 1 0.1 0.2 a\nu 1 0.1 0.2 a b c\n", "line 2: has 7 columns"),
        ("u 1 x 0.2 a\n", "line 1: a time or score is not a number: 'u 1 x 0.2 a'"),
        ("u 1 * * <ALT_BEGIN>\n", "line 1: a time or score is not a number"),
        ("u 1 0.1 0.2 a high\n", "line 1: a time or score"),
        ("u 1 0.1 0.0 a\n", "line 1: start is 0.1 s and duration 0.0 s, expected"),
        ("u 1 -0.1 0.2 a\n", "line 1: start is -0.1"),
        ("u 1 nan 0.2 a\n", "line 1: start is NaN"),
        ("u 1 0.1 inf a\n", "duration Infinity"),
        ("u 1 0.1 0.5 a\nu 1 0.3 0.2 b\n", "lines 1 and 2: 'a' ends at 0.6 s, after 'b' starts at 0.3 s"),
        ("u 1 0.1 0.01 a\nu 1 0.1 0.2 b\n", "lines 1 and 2"),
        ("u 1 0.1 0.1 a\nu 2 0.3 0.2 b\n", "line 2: utterance 'u' has the channels '1' and '2'"),
    ],
)
def test_malformed_ctm_has_its_message(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.ctm").write_text(text)
    with pytest.raises(FormatError, match=rf"bad.ctm: .*{message}"):
        io.read(tmp_path / "bad.ctm")


def test_what_ctm_cannot_hold_is_refused() -> None:
    short = Alignment(1.0, (Tier("words", (Interval(0.5, 0.5000001, "a"),)),))
    with pytest.raises(FormatError, match=r"label 'a' at 0.5 s: is shorter than a microsecond"):
        ctm.format(short)
    for name in ("", "a b", ";;u"):
        with pytest.raises(FormatError, match="the utterance's name is"):
            ctm.format(replace(short, tiers=(Tier("words", ()),)), utterance=name)
    with pytest.raises(KeyError, match="no tier 'phones'"):
        ctm.format(short, tier="phones")


def test_a_file_name_with_spaces_makes_one_column(tmp_path: Path) -> None:
    ctm.write(make_io.ALIGNMENT, tmp_path / "my talk.ctm")
    assert (tmp_path / "my talk.ctm").read_text().startswith("my_talk 1 ")


def test_json_keeps_ranges_and_confidence_to_the_last_bit():
    word = Interval(0.1, 1 / 3, "a", -0.5, (0.09, 0.11), (0.3, 0.35), 1 / 7)
    alignment = Alignment(1.0, (Tier("words", (word,)),))
    assert json.parse(json.format(alignment)) == alignment
    text = json.format(alignment).replace("0.09,", '"0.09",')
    with pytest.raises(FormatError, match=r"tiers\[0\].intervals\[0\].start_range is .*, expected two numbers"):
        json.parse(text)
    with pytest.raises(FormatError, match="a confidence lies in"):
        json.parse(json.format(alignment).replace(str(1 / 7), "1.5"))
