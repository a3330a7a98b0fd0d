"""A transcript as the aligner sees it: words of the text, their labels, and where silence may lie."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from gradalign.errors import AlignmentError
from gradalign.lexicon import Lexicon, Pronunciation
from gradalign.text import Word, words

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Transcript:
    """Words, and the labels that spell them.

    Attributes:
        text: What the words' offsets count in.
        words: Every word of the text, in order, also those without labels.
        labels: Names of all labels in order; phones for the models that come with the package.
        word_of_label: Per label the index of its word in ``words``; never falling.
        unit_of_label: Per label the index of its spoken unit. A word has more than one where it is
            said as several ("$20", "well-known"); silence may lie between units, never inside.
        variants: Per unit every pronunciation known; ``labels`` holds the first of each.
    """

    text: str
    words: tuple[Word, ...]
    labels: tuple[str, ...]
    word_of_label: tuple[int, ...]
    unit_of_label: tuple[int, ...]
    variants: tuple[tuple[Pronunciation, ...], ...] = ()

    @classmethod
    def from_text(cls, text: str, lexicon: Lexicon | None = None) -> "Transcript":
        """English text to words and phones.

        A word with a part that cannot be pronounced gets no labels at all: half a word is not aligned.

        Args:
            text: As people write it.
            lexicon: Pronunciations; by default CMUdict and the package's grapheme-to-phoneme model.

        Raises:
            AlignmentError: If the text is empty, holds no word, or no word that can be pronounced.
        """
        lexicon = lexicon or default_lexicon()
        if not text.strip():
            raise AlignmentError("the transcript is empty; expected the words that are said in the recording")
        found = words(text)
        if not found:
            raise AlignmentError(f"the transcript holds no words, only symbols: {_short(text)}; expected English text")
        labels: list[str] = []
        word_of_label: list[int] = []
        unit_of_label: list[int] = []
        variants: list[tuple[Pronunciation, ...]] = []
        for index, word in enumerate(found):
            spoken = [lexicon.pronunciations(part) for part in word.spoken]
            if not spoken or not all(spoken):
                continue
            for pronunciations in spoken:
                phones = pronunciations[0].phones
                labels += phones
                word_of_label += [index] * len(phones)
                unit_of_label += [len(variants)] * len(phones)
                variants.append(pronunciations)
        guessed = sum(v[0].source == "g2p" for v in variants)
        if guessed > 2 and guessed > len(variants) / 2:
            _log.warning(
                "%d of %d words are in no English dictionary and their pronunciation was guessed: is %s English?",
                guessed,
                len(variants),
                _short(text),
            )
        if not labels:
            raise AlignmentError(
                f"no word of the transcript can be pronounced as English: {_short(text)}; expected English text in "
                "the Latin alphabet"
            )
        return cls(text, found, tuple(labels), tuple(word_of_label), tuple(unit_of_label), tuple(variants))

    @classmethod
    def from_units(cls, units: Sequence[tuple[str, Sequence[str]]]) -> "Transcript":
        """Words with labels of your own, for a model with other labels than phones.

        Args:
            units: Each word with its labels in order, such as ``("cat", ["c", "a", "t"])``.

        Raises:
            AlignmentError: If there is no label at all.
        """
        texts = [word for word, _ in units]
        starts = [sum(len(text) + 1 for text in texts[:i]) for i in range(len(texts))]
        found = tuple(Word(text, start, start + len(text), (text,)) for text, start in zip(texts, starts, strict=True))
        owners = tuple(i for i, (_, labels) in enumerate(units) for _ in labels)
        names = tuple(label for _, labels in units for label in labels)
        if not names:
            raise AlignmentError("no word of the transcript has a label; expected at least one")
        return cls(" ".join(texts), found, names, owners, owners)


@lru_cache(maxsize=1)
def default_lexicon() -> Lexicon:
    """CMUdict and the package's grapheme-to-phoneme model, read once a process."""
    return Lexicon()


def _short(text: str) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= 60 else text[:57] + "...")
