"""Transcripts: what the aligner is asked to place."""

import pytest

from gradalign.errors import AlignmentError
from gradalign.lexicon import Lexicon
from gradalign.transcript import Transcript


def test_labels_are_the_first_pronunciation_of_each_word():
    found = Transcript.from_text("The cat.")
    assert found.labels == ("DH", "AH", "K", "AE", "T")
    assert found.word_of_label == (0, 0, 1, 1, 1)


def test_every_variant_is_kept():
    found = Transcript.from_text("read")
    assert {variant.phones for variant in found.variants[0]} == {("R", "EH", "D"), ("R", "IY", "D")}


def test_a_word_said_as_two_has_two_units():
    found = Transcript.from_text("It costs $20.")
    assert [word.text for word in found.words] == ["It", "costs", "$20"]
    assert len(found.variants) == 4  # it, costs, twenty, dollars
    assert {found.unit_of_label[i] for i, word in enumerate(found.word_of_label) if word == 2} == {2, 3}


def test_a_word_without_pronunciation_stays_in_the_words_and_has_no_labels():
    found = Transcript.from_text("hello привет world")
    assert [word.text for word in found.words] == ["hello", "привет", "world"]
    assert 1 not in found.word_of_label


def test_offsets_point_into_the_text():
    text = "“Well—known,” he said; 3 o'clock!"
    for word in Transcript.from_text(text).words:
        assert text[word.start_char : word.end_char] == word.text


def test_a_user_s_pronunciation_wins():
    found = Transcript.from_text("gradalign", Lexicon({"gradalign": [["G", "R", "AE", "D"]]}))
    assert found.labels == ("G", "R", "AE", "D")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the transcript is empty"),
        (" \n\t", "the transcript is empty"),
        ("--- !!! ♪", "no words, only symbols"),
        ("привет как дела", "no word of the transcript can be pronounced as English"),
        ("你好", "no word of the transcript can be pronounced"),
    ],
)
def test_text_that_cannot_be_aligned_says_why(text: str, message: str):
    with pytest.raises(AlignmentError, match=message):
        Transcript.from_text(text)


def test_a_text_in_another_language_of_the_same_alphabet_gets_a_warning(caplog: pytest.LogCaptureFixture):
    Transcript.from_text("Przepraszam, gdzie znajduje się najbliższa przychodnia?")
    assert "words are in no English dictionary" in caplog.text
    caplog.clear()
    Transcript.from_text("The Przewalski horse grazes on the steppe.")
    assert not caplog.text


def test_units_of_your_own_make_a_transcript():
    found = Transcript.from_units([("ab", ["a", "b"]), ("c", ["c"])])
    assert found.text == "ab c"
    assert found.labels == ("a", "b", "c")
    assert found.word_of_label == found.unit_of_label == (0, 0, 1)


def test_units_without_labels_are_refused():
    with pytest.raises(AlignmentError, match="no word of the transcript has a label"):
        Transcript.from_units([("a", [])])
