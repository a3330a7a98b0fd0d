"""English text as people write it, to the words that are spoken. No phones and no JAX here.

The text is folded character by character to plain letters, digits and ASCII marks, one grammar of
tokens (`_TOKEN`) finds the words, and each kind of token has one function that says it. Offsets are
carried through the folding, so every word points at the original text. Numbers are read by
`num2words` (LGPL, a separate library), in the American way, without "and".
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from num2words import num2words

from gradalign.lexicon import is_word

_Spoken = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a transcript.

    Attributes:
        text: As written, ``transcript[start_char:end_char]``, without the punctuation around it;
            signs that are read aloud stay ("$20", "5%").
        start_char: Offset of its first character.
        end_char: Offset one past its last character.
        spoken: What is said for it, in lower case; several words for "$20" or "well-known", none if
            it cannot be said in English, such as a word of another alphabet.
    """

    text: str
    start_char: int
    end_char: int
    spoken: tuple[str, ...]


def words(transcript: str) -> tuple[Word, ...]:
    """The words of `transcript` in order, each with its offsets and what is said for it.

    Hyphenated words are one word; dashes, slashes and white space separate words. Punctuation, emoji
    and other symbols that nobody reads aloud are no words. What cannot be known from text alone is
    decided as an American reader most often would: 1999 is a year, 3:30 a time, "Dr." a doctor.

    Args:
        transcript: Any text.

    Returns:
        Words with increasing, non-overlapping offsets.

    Example:
        >>> from gradalign.text import words
        >>> [(w.text, w.spoken) for w in words("“Don’t pay $20!”")]
        [('Don’t', ("don't",)), ('pay', ('pay',)), ('$20', ('twenty', 'dollars'))]
    """
    folded, origin = _fold(transcript)
    mixed = any(c.islower() for c in folded)  # in a text all of capitals they say nothing about acronyms
    found: list[Word] = []
    unit: _Spoken = ()  # "dollars" is owed after "million" in "$3 million"
    quoted = False  # inside '...', where a final apostrophe closes the quotation
    end_char = 0
    for match in _TOKEN.finditer(folded):
        kind, start, end = str(match.lastgroup), match.start(), match.end()
        quoted = quoted or folded[start - 1 : start] == "'"
        if quoted and match[0].endswith("'"):
            end, quoted = end - 1, False
        elif _CLOSING.match(folded, end):
            quoted = False
        token = folded[start:end]
        spoken = _SAY[kind](token, _Context(folded[max(0, start - 12) : start], folded[end : end + 24], mixed))
        if unit:
            spoken, unit = (*spoken, *unit), ()
        if kind == "money" and _MAGNITUDE.match(folded, end):
            spoken, unit = _money_parts(token)
        start_char, end_char = _original(transcript, origin, start, end, end_char)
        if start_char < end_char:
            found.append(Word(transcript[start_char:end_char], start_char, end_char, spoken))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Context:
    before: str  # folded text just before the token
    after: str  # and just after it
    mixed: bool  # whether the transcript has small letters


def _original(transcript: str, origin: list[int], start: int, end: int, floor: int) -> tuple[int, int]:
    """Offsets in `transcript` of the folded token [start, end), with the accents that follow its last letter."""
    start_char, end_char = max(origin[start], floor), origin[end - 1] + 1
    while end_char < len(transcript) and unicodedata.category(transcript[end_char])[0] == "M":
        end_char += 1
    return start_char, max(end_char, floor)


# ---- folding


def _fold(transcript: str) -> tuple[str, list[int]]:
    """Plain text, and for each of its characters the offset of the one it came from."""
    pieces = [_fold_character(c) for c in transcript]
    return "".join(pieces), [i for i, piece in enumerate(pieces) for _ in piece]


_FRACTIONS = "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"
_PLAIN = (
    {c: "'" for c in "‘’‛ʼʹʻ′´"}
    | {c: "-" for c in "‐‑−﹣－"}
    | {c: " – " for c in "—―⸺⸻"}
    | {c: c for c in "–×°£€¥" + _FRACTIONS}
    | {"…": " ", "\u200b": " ", "⁄": "/", "∕": "/"}
    | dict(zip("øØłŁđĐðÐıæÆœŒßẞþÞ", "o O l L d D d D i ae AE oe OE ss SS th Th".split(), strict=True))
)


@lru_cache(maxsize=4096)
def _fold_character(c: str) -> str:
    if c.isascii():
        return "'" if c == "`" else c if c.isprintable() and c != "_" else " "
    if c in _PLAIN:
        return _PLAIN[c]
    digit = unicodedata.decimal(c, None)
    if digit is not None:
        return str(digit)
    category = unicodedata.category(c)
    if category[0] == "M" or category == "Cf":
        return ""
    decomposed = unicodedata.normalize("NFKD", c)
    if category == "No" or (category == "Lm" and decomposed != c):  # superscripts, circled numbers: notes, not speech
        return "*"
    return "".join(_fold_part(part) for part in decomposed)


def _fold_part(part: str) -> str:
    if unicodedata.category(part)[0] == "M" or part in "_":
        return ""
    return _PLAIN.get(part, part if part.isalpha() or part.isascii() else "*")


# ---- the grammar of tokens

_END = r"(?![^\W_]|[-'][^\W_]|[.,]\d)"
_NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_PART = r"(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+\.\d+|[^\W_]+)"
_MINUS = r"(?:(?<![^\s(\[])[-+])?"
_UNITS = {
    "km": "kilometers", "kg": "kilograms", "cm": "centimeters", "mm": "millimeters", "ml": "milliliters",
    "mg": "milligrams", "lb": "pounds", "lbs": "pounds", "oz": "ounces", "ft": "feet", "mi": "miles", "yd": "yards",
    "mph": "miles per hour", "km/h": "kilometers per hour", "kph": "kilometers per hour", "hz": "hertz",
    "khz": "kilohertz", "mhz": "megahertz", "ghz": "gigahertz", "kb": "kilobytes", "mb": "megabytes",
    "gb": "gigabytes", "tb": "terabytes", "kw": "kilowatts", "kwh": "kilowatt hours", "ms": "milliseconds",
    "sec": "seconds", "secs": "seconds", "min": "minutes", "mins": "minutes", "hr": "hours", "hrs": "hours",
    "am": "a m", "pm": "p m", "bn": "billion", "°": "degrees", "°c": "degrees celsius", "°f": "degrees fahrenheit",
}  # fmt: skip
_SINGULAR = {"feet": "foot", "hertz": "hertz", "miles per hour": "mile per hour"}
_UNIT = "|".join(sorted(map(re.escape, _UNITS), key=len, reverse=True))
_ELISIONS = "tis|twas|twere|twould|em|cause|cuz|bout|til|till|round|neath|n|cept|fore"

_TOKEN = re.compile(
    rf"""
    (?P<address>[A-Za-z0-9.+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+ | (?:https?://)?(?:[A-Za-z0-9-]+\.)+
        (?:com|org|net|edu|gov|io|co\.uk)(?![^\W_]))
    | (?P<money>-?[$£€¥](?:{_NUMBER})(?:[kKmMbB]n?)?(?![^\W_]) | (?:{_NUMBER})[€£¥])
    | (?P<phone>(?:\d{{3}}[-.])?\d{{3}}[-.]\d{{4}}{_END} | (?<=\()\d{{3}}(?=\)\ ?\d{{3}}-\d{{4}}))
    | (?P<dotted>\d+(?:\.\d+){{2,}}{_END})
    | (?P<clock>\d+(?::\d+)+(?:[aApP]\.?[mM]\b)?{_END})
    | (?P<fraction>\d+(?:/\d+)+{_END} | \d*[{_FRACTIONS}])
    | (?P<ordinal>\d{{1,3}}(?:,\d{{3}})+(?:st|nd|rd|th)\b | \d+(?:st|nd|rd|th){_END})
    | (?P<decade>'?\d{{2,4}}'?s{_END} | '\d{{2}}{_END})
    | (?P<range>\d+(?:\.\d+)?[-–]\d+(?:\.\d+)?%?{_END})
    | (?P<times>\d+[x×]\d+{_END})
    | (?P<measure>{_MINUS}(?:{_NUMBER})(?i:{_UNIT}){_END})
    | (?P<number>\#?{_MINUS}(?:{_NUMBER})(?:%|{_END}))
    | (?P<initials>(?:(?:[A-Za-z]\.)+[A-Za-z]|[Pp]h\.[Dd])(?:\.?'s)?(?![^\W_]))
    | (?P<unit>(?<=\d\ )(?:(?i:{_UNIT})(?![^\W_]|[-'][^\W_])|[€£¥$](?!\d)))
    | (?P<joined>{_PART}(?:&{_PART})+)
    | (?P<word>(?:'(?=(?i:{_ELISIONS})(?![^\W_])))?@?{_PART}(?:[-']{_PART})*'?)
    | (?P<sign>[&@%+=])
    """,
    re.VERBOSE,
)
_CLOSING = re.compile(r"[.,!?;:\"]*'(?![^\W_])")
_MAGNITUDE = re.compile(r"\s+(?:hundred|thousand|million|billion|trillion)\b", re.IGNORECASE)


# ---- saying numbers


_DIGITS = "zero one two three four five six seven eight nine".split()


def _cardinal(number: str) -> _Spoken:
    """A quantity such as "1,234.50"."""
    whole, point, decimals = number.replace(",", "").partition(".")
    said = _integer(whole) if whole else ()
    return (*said, "point", *_digits(decimals)) if point else said


def _integer(whole: str) -> _Spoken:
    if len(whole) > 15 or (len(whole) > 1 and whole[0] == "0"):
        return _digits(whole)
    return _plain(num2words(int(whole)))


def _digits(digits: str) -> _Spoken:
    return tuple(_DIGITS[int(d)] for d in digits if d.isdigit())


def _plain(said: str) -> _Spoken:
    return tuple(w for w in re.findall("[a-z]+", said) if w != "and")


def _year_or_cardinal(number: str) -> _Spoken:
    if re.fullmatch("1[1-9]\\d\\d|20\\d\\d", number):
        return _plain(num2words(int(number), to="year"))
    return _cardinal(number)


def _ordinal(number: str) -> _Spoken:
    digits = re.sub(r"\D", "", number)
    return _plain(num2words(int(digits), to="ordinal")) if len(digits) <= 15 else _digits(digits)


def _pluralised(said: _Spoken) -> _Spoken:
    last = said[-1]
    return (*said[:-1], last[:-1] + "ies" if last.endswith("y") else last + ("es" if last.endswith("x") else "s"))


def _signed(token: str) -> tuple[_Spoken, str]:
    sign = {"-": ("minus",), "+": ("plus",)}.get(token[:1], ())
    return sign, token[1:] if sign else token


def _say_number(token: str, context: _Context) -> _Spoken:
    if token[0] == "#":
        return ("number", *_say_number(token[1:], context))
    sign, number = _signed(token)
    if number.endswith("%"):
        return (*sign, *_cardinal(number.rstrip("% ")), "percent")
    if sign or re.match(" ?[%°]", context.after):
        return (*sign, *_cardinal(number))
    return _year_or_cardinal(number)


def _say_measure(token: str, context: _Context) -> _Spoken:
    sign, rest = _signed(token)
    number, unit = re.fullmatch(r"([\d.,]+)(.+)", rest).groups()  # pyright: ignore[reportOptionalMemberAccess]
    return (*sign, *_cardinal(number), *_unit(unit, one=number == "1"))


def _say_unit(token: str, context: _Context) -> _Spoken:
    return _unit(token, one=re.search(r"(?<![\d.,])1 $", context.before) is not None)


def _unit(unit: str, *, one: bool) -> _Spoken:
    name = _CURRENCIES[unit][1] if unit in _CURRENCIES else _UNITS[unit.lower()]
    head, *rest = name.split()
    if one and name not in ("a m", "p m", "billion"):
        head = _SINGULAR.get(head, head.removesuffix("s"))
    return (head, *rest)


_CURRENCIES = {  # one, many, one hundredth, hundredths
    "$": ("dollar", "dollars", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "€": ("euro", "euros", "cent", "cents"),
    "¥": ("yen", "yen", "sen", "sen"),
}
_SUFFIXES = {"k": "thousand", "m": "million", "mn": "million", "b": "billion", "bn": "billion"}


def _money_parts(token: str) -> tuple[_Spoken, _Spoken]:
    """The amount as a bare number, and the unit that follows it."""
    sign, rest = _signed(token)
    symbol = next(c for c in rest if c in _CURRENCIES)
    amount = re.sub(r"[^\d.,]", "", rest)
    suffix = _SUFFIXES.get(re.sub(r"[^a-z]", "", rest.lower()))
    one = amount == "1" and suffix is None
    return (*sign, *_cardinal(amount), *([suffix] if suffix else [])), (_CURRENCIES[symbol][0 if one else 1],)


def _say_money(token: str, context: _Context) -> _Spoken:
    exact = re.fullmatch(r"(-?)[^\d.]*([\d,]*)\.(\d\d)[^\d.a-zA-Z]*", token)
    if exact is None:
        amount, unit = _money_parts(token)
        return (*amount, *unit)
    sign, whole, hundredths = exact[1], exact[2].replace(",", ""), int(exact[3])
    one, many, cent, cents = next(_CURRENCIES[c] for c in token if c in _CURRENCIES)
    said: _Spoken = ("minus",) if sign else ()
    if whole.strip("0") or not hundredths:
        said += (*_cardinal(whole or "0"), one if whole == "1" else many)
        said += ("and",) if hundredths else ()
    return said + ((*_integer(str(hundredths)), cent if hundredths == 1 else cents) if hundredths else ())


def _say_clock(token: str, context: _Context) -> _Spoken:
    half = re.search("[ap]", token, re.IGNORECASE)
    fields = re.findall(r"\d+", token)
    suffix = (half[0].lower(), "m") if half else ()
    if len(fields) != 2 or len(fields[0]) > 2 or len(fields[1]) != 2 or int(fields[0]) > 24 or int(fields[1]) > 59:
        between = ("to",) if len(fields) == 2 else ()
        return (*_integer(fields[0]), *(w for field in fields[1:] for w in (*between, *_integer(field))))
    hour, minute = _cardinal(fields[0].lstrip("0") or "0"), int(fields[1])
    if minute == 0:
        spaced = re.match(r"\s*[ap]\.?m\b", context.after, re.IGNORECASE)
        return (*hour, *(suffix or (() if spaced else ("o'clock",))))
    return (*hour, *(("oh",) if minute < 10 else ()), *_integer(str(minute)), *suffix)


def _say_fraction(token: str, context: _Context) -> _Spoken:
    if token[-1] in _FRACTIONS:
        whole, part = token[:-1], unicodedata.normalize("NFKD", token[-1]).replace("⁄", "/")
        said = _say_fraction(part, context)
        return (*_cardinal(whole), "and", *(("a", *said[1:]) if said[0] == "one" else said)) if whole else said
    fields = token.split("/")
    top, bottom = int(fields[0][:9]), int(fields[1][:9])
    if len(fields) > 2 or not 0 < top < bottom <= 100 or (bottom > 10 and top > 1) or len(token) > 7:
        return tuple(w for field in fields for w in _year_or_cardinal(field.lstrip("0") or "0"))
    name = {2: ("half",), 4: ("quarter",)}.get(bottom) or _ordinal(str(bottom))
    return (*_cardinal(str(top)), *(name if top == 1 else _pluralised(name)))


def _say_decade(token: str, context: _Context) -> _Spoken:
    digits = re.sub(r"\D", "", token)
    said = _year_or_cardinal(digits) if digits[0] != "0" else ("oh", *_digits(digits[1:]))
    return _pluralised(said) if token.endswith("s") else said


def _say_range(token: str, context: _Context) -> _Spoken:
    first, last = re.split("[-–]", token)
    percent = ("percent",) if last.endswith("%") else ()
    return (*_year_or_cardinal(first), "to", *_year_or_cardinal(last.rstrip("%")), *percent)


def _say_times(token: str, context: _Context) -> _Spoken:
    first, last = re.findall(r"\d+", token)
    return (*_cardinal(first), "by", *_cardinal(last))


def _say_dotted(token: str, context: _Context) -> _Spoken:
    first, *rest = token.split(".")
    return (*_integer(first), *(w for field in rest for w in ("point", *_integer(field))))


# ---- saying words

_ALWAYS = {
    "mr": "mister", "mrs": "missus", "dr": "doctor", "prof": "professor", "jr": "junior", "sr": "senior",
    "etc": "et cetera", "vs": "versus", "ltd": "limited", "dept": "department", "blvd": "boulevard", "sgt": "sergeant",
    "capt": "captain", "lt": "lieutenant", "phd": "p h d", "approx": "approximately",
}  # fmt: skip
_WITH_DOT = {  # words or names without it
    "st": "street", "ave": "avenue", "rd": "road", "co": "company", "inc": "incorporated", "corp": "corporation",
    "mt": "mount", "ft": "fort",
}  # fmt: skip
_TITLES = {  # with the dot and before a name
    "st": "saint", "col": "colonel", "gen": "general", "rev": "reverend", "gov": "governor", "sen": "senator",
    "rep": "representative", "hon": "honorable",
}  # fmt: skip
_BEFORE_NUMBERS = {
    "jan": "january", "feb": "february", "mar": "march", "apr": "april", "aug": "august", "sept": "september",
    "sep": "september", "oct": "october", "nov": "november", "dec": "december", "no": "number", "vol": "volume",
    "fig": "figure",
}  # fmt: skip
_INITIALS = {"eg": "for example", "ie": "that is"}
_FIXED = {"'n'": "and", "'n": "and", "n'": "and"}
_ROMAN = re.compile(r"(?=..)X{0,3}(?:IX|IV|V?I{0,3})")


def _say_word(token: str, context: _Context) -> _Spoken:
    lower = token.lower()
    if lower in _FIXED:
        return (_FIXED[lower],)
    if token.startswith("@"):
        return ("at", *_say_word(token[1:], context))
    full = _abbreviation(lower, context)
    if full:
        return tuple(full.split())
    return tuple(w for part in token.split("-") for w in _say_part(part, mixed=context.mixed))


def _abbreviation(lower: str, context: _Context) -> str | None:
    if re.match(r"\. ?\d", context.after) and lower in _BEFORE_NUMBERS:
        return _BEFORE_NUMBERS[lower]
    name_follows = re.match(r"\.\s+[A-Z]", context.after)
    if name_follows and lower in _TITLES:
        return _TITLES[lower]
    if context.after.startswith(".") and lower in _WITH_DOT:
        return _WITH_DOT[lower]
    return _ALWAYS.get(lower)


def _say_part(part: str, *, mixed: bool) -> _Spoken:
    """What is said for a run of letters, digits and apostrophes."""
    if re.search(r"[^a-zA-Z0-9.,']", part):
        return ()
    if re.fullmatch(r"\d+(?:st|nd|rd|th)", part):
        return _ordinal(part)
    if re.fullmatch(r"[\d.,]+", part):
        return _year_or_cardinal(part)
    if re.search(r"\d", part):
        return _say_mixture(part)
    acronym = re.fullmatch(r"([A-Z]{2,})('?s|')?", part)
    if acronym and _is_spelled(acronym[1], mixed=mixed):
        *first, last = acronym[1].lower()
        return (*first, last + ("'s" if acronym[2] else ""))
    if mixed and _ROMAN.fullmatch(part):
        return _integer(str(_roman(part)))
    return (part.lower(),) if re.search("[a-zA-Z]", part) else ()


def _say_mixture(part: str) -> _Spoken:
    """Letters and digits run together: "MP3", "B2B", "iphone12"."""
    said: list[str] = []
    for run in re.findall(r"\d+(?:[.,]\d+)*|[a-zA-Z']+", part):
        letters = run.replace("'", "")
        if run[0].isdigit():
            said += _year_or_cardinal(run)
        elif run.lower() == "'s" and said:
            said[-1] += "'s"
        elif len(letters) <= 2 or (letters.isupper() and len(letters) <= 4):
            said += letters.lower()
        else:
            said.append(run.lower())
    return tuple(said)


def _is_spelled(capitals: str, *, mixed: bool) -> bool:
    """Whether a run of capitals is said letter by letter: unknown, and short or hard to say."""
    if is_word(capitals) or (mixed and _ROMAN.fullmatch(capitals)):
        return False
    if not re.search("[AEIOUY]", capitals):
        return True
    return mixed and (len(capitals) <= 3 or re.search("[^AEIOUY]{3}|[AEIOUY]{3}", capitals) is not None)


def _roman(numeral: str) -> int:
    values = [{"I": 1, "V": 5, "X": 10}[c] for c in numeral]
    return sum(-a if a < b else a for a, b in zip(values, [*values[1:], 0], strict=True))


def _say_initials(token: str, context: _Context) -> _Spoken:
    letters = re.sub("[^a-z]", "", token.lower().removesuffix("'s"))
    said = _INITIALS[letters].split() if letters in _INITIALS else list(letters)
    return (*said[:-1], said[-1] + "'s") if token.endswith("'s") else tuple(said)


def _say_joined(token: str, context: _Context) -> _Spoken:
    said: list[str] = []
    for i, part in enumerate(token.split("&")):
        spelled = part.isascii() and part.isupper() and part.isalpha() and len(part) <= 3
        said += ["and"] * (i > 0 and not token.upper() == "AT&T")
        said += part.lower() if spelled else _say_part(part, mixed=True)
    return tuple(said)


def _say_address(token: str, context: _Context) -> _Spoken:
    names = {".": ("dot",), "@": ("at",), "-": ("dash",), "+": ("plus",), "/": ("slash",), ":": ("colon",)}
    pieces = re.findall(r"[A-Za-z0-9]+|[^A-Za-z0-9]", re.sub("^https?://", "", token))
    return tuple(
        w for p in pieces for w in (names.get(p) or (tuple("www") if p == "www" else _say_part(p, mixed=True)))
    )


_SIGNS = {"&": "and", "@": "at", "%": "percent", "+": "plus", "=": "equals"}

_SAY: dict[str, Callable[[str, _Context], _Spoken]] = {
    "address": _say_address,
    "money": _say_money,
    "phone": lambda token, context: _digits(token),
    "dotted": _say_dotted,
    "clock": _say_clock,
    "fraction": _say_fraction,
    "ordinal": lambda token, context: _ordinal(token),
    "decade": _say_decade,
    "range": _say_range,
    "times": _say_times,
    "measure": _say_measure,
    "number": _say_number,
    "initials": _say_initials,
    "unit": _say_unit,
    "joined": _say_joined,
    "word": _say_word,
    "sign": lambda token, context: (_SIGNS[token],),
}
