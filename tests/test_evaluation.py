"""Files of alignments against those of a reference; how the command shows it is in test_cli.py."""

from pathlib import Path

import pytest

from gradalign import io
from gradalign.alignment import Alignment, Interval, Tier
from gradalign.errors import FormatError
from gradalign.evaluation import FilePair, FilePairs, compare_files, pair_files
from gradalign.metrics import compare

THE = Interval(0.1, 0.5, "the")


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(path: str, *words: Interval) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    io.write(Alignment(2.0, (Tier("words", words),)), path)
    return Path(path)


def test_two_files_are_a_pair_whatever_their_names():
    a, b = write("a.TextGrid", THE), write("b.json", THE)
    assert pair_files(a, b) == FilePairs((FilePair(a, b),))
    assert pair_files(a, b).complete


def test_folders_are_paired_by_path_below_them_and_the_rest_is_named(capsys):
    for path in ("ref/a.TextGrid", "ref/sub/b.TextGrid", "ref/c.TextGrid", "hyp/a.json", "hyp/sub/b.ctm", "hyp/z.json"):
        write(path, THE)
    Path("hyp/c.txt").write_text("not an alignment")
    files = pair_files(Path("ref"), Path("hyp"))
    assert files.pairs == (
        FilePair(Path("ref/a.TextGrid"), Path("hyp/a.json")),
        FilePair(Path("ref/c.TextGrid"), None),
        FilePair(Path("ref/sub/b.TextGrid"), Path("hyp/sub/b.ctm")),
    )
    assert not files.complete
    assert files.warnings == (
        "ref/c.TextGrid: no hypothesis of that name in hyp; all its units count as missing",
        "1 hypotheses have no reference and are left out, such as hyp/z.json",
    )
    assert capsys.readouterr() == ("", "")


def test_two_files_of_one_name_are_refused():
    write("ref/a.TextGrid", THE)
    write("hyp/a.TextGrid", THE)
    write("hyp/a.json", THE)
    with pytest.raises(FormatError, match=r"a\.json and .*a\.TextGrid are alignments of the same name"):
        pair_files(Path("ref"), Path("hyp"))


@pytest.mark.parametrize("match", ["label", "position"])
def test_two_files_compare_as_what_they_hold(match):
    right, found = (THE, Interval(0.5, 1.0, "cat")), (THE, Interval(0.5, 1.2, "hat"))
    pair = FilePair(write("a.TextGrid", *right), write("b.TextGrid", *found))
    expected = compare(Tier("words", right), Tier("words", found), match=match)
    assert compare_files(pair, match=match).n_missing == expected.n_missing == (match == "label")
    assert compare_files(pair, match=match).n_substituted == expected.n_substituted


def test_without_a_hypothesis_everything_is_missing():
    comparison = compare_files(FilePair(write("a.TextGrid", THE), None))
    assert (comparison.n_reference, comparison.n_missing) == (1, 1)


def test_a_tier_that_is_not_there_is_named():
    a = write("a.TextGrid", THE)
    with pytest.raises(FormatError, match=r"a\.TextGrid: has no tier 'phones'; it has words"):
        compare_files(FilePair(a, a), tier="phones")
