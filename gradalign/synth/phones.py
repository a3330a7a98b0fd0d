"""Each engine's phones as the 39 of CMUdict, without stress."""

from typing import NamedTuple

from gradalign._types import Seconds
from gradalign.errors import GradalignError
from gradalign.lexicon import PHONES

# Flite and Festival speak the 39 phones in lower case, the reduced vowels and allophones of the Boston Radio News phone
# set on top, and silence. CMUdict writes the reduced vowels as unstressed AH, IH and ER and has no syllabic consonants.
_FESTIVAL = (
    {phone.lower(): phone for phone in PHONES}
    | {"ax": "AH", "ix": "IH", "axr": "ER", "dx": "T", "el": "L", "em": "M", "en": "N", "nx": "N", "hv": "HH"}
    | dict.fromkeys(("pau", "h#", "brth", "ssil", "sil", "#"), "")
)

# What stands for one sound in all accents of espeak-ng; `t#` is the tap of "water", `?` the stop of "button", `t[` the
# dental one that the Caribbean has for TH.
_ESPEAK = {
    phone: of_cmudict
    for phone, _, of_cmudict in (
        pair.partition(":")
        for pair in """
        p:P b:B t:T t2:T t#:T ?:T t[:T d:D k:K g:G x:K tS:CH dZ:JH f:F v:V T:TH D:DH s:S z:Z S:SH Z:ZH h:HH
        m:M n:N N:NG l:L l#:L r:R r-:R w:W w#:W j:Y
        i:IY I:IH I2:IH I#:IH E:EH e:EH a:AE aa:AE a#:AH 0:AA O:AO O2:AO V:AH @:AH @2:AH @5:AH @-:AH o:OW U:UH u:UW
        eI:EY aI:AY aI2:AY OI:OY oU:OW aU:AW 3:ER VR:ER IR:ER
        """.split()
    )
} | {"i:": "IY", "u:": "UW", "A:": "AA", "O:": "AO", "3:": "ER", "_:": "", "_": "", "_!": "", "_|": "", "_::": ""}
_ESPEAK_SYLLABIC = {"@L": "AH L", "n-": "AH N"}
_ESPEAK_RHOTIC = {
    "i@": "IY AH",
    "i@3": "IH R",
    "e@": "EH R",
    "A@": "AA R",
    "o@": "AO R",
    "O@": "AO R",
    "U@": "UH R",
    "aI@": "AY AH",
    "aI3": "AY ER",
}
# Where an r is dropped unless a vowel follows; then the engine says it as a phone of its own.
_ESPEAK_NON_RHOTIC = {
    "i@": "IH AH",
    "i@3": "IH AH",
    "e@": "EH AH",
    "A@": "AA",
    "o@": "AO",
    "O@": "AO",
    "U@": "UH AH",
    "aI@": "AY AH",
    "aI3": "AY AH",
    "3": "AH",
}
# Here the r is always a phone of its own, but for "cure".
_ESPEAK_SCOTTISH = {
    "i@": "IY AH",
    "i@3": "IH",
    "e@": "EH",
    "A@": "AA",
    "o@": "AO",
    "O@": "AO",
    "U@": "UH R",
    "aI@": "AY AH",
    "aI3": "AY ER",
}


class Segment(NamedTuple):
    """One phone as an engine reports it.

    Attributes:
        phone: One of CMUdict's, "" for silence.
        start: In seconds.
        end: In seconds.
        token: Which word of the text it belongs to: any number that differs between words, 0 for none.
        word: That word without the punctuation around it.
    """

    phone: str
    start: Seconds
    end: Seconds
    token: int
    word: str


def of_festival(phone: str, at: Seconds) -> str:
    """CMUdict's phone for one of Festival's or flite's; "" for silence.

    Args:
        phone: Its name there.
        at: When it was said, for the message.

    Raises:
        GradalignError: If CMUdict has no such phone.
    """
    if phone not in _FESTIVAL:
        raise _unknown(phone, at)
    return _FESTIVAL[phone]


def of_espeak(phone: str, accent: str, at: Seconds) -> tuple[str, ...]:
    """CMUdict's phones for one of espeak-ng's; none for silence.

    Args:
        phone: Its mnemonic, such as "aI3".
        accent: Whose, such as "en-us": accents differ in which vowels have an r.
        at: When it was said, for the message.

    Raises:
        GradalignError: If CMUdict has no such phone.
    """
    own = {"en-us": _ESPEAK_RHOTIC, "en-gb-scotland": _ESPEAK_SCOTTISH}.get(accent, _ESPEAK_NON_RHOTIC)
    for phones in (own, _ESPEAK_SYLLABIC, _ESPEAK):
        if phone in phones:
            return tuple(phones[phone].split())
    raise _unknown(phone, at)


def _unknown(phone: str, at: Seconds) -> GradalignError:
    return GradalignError(f"{phone!r} was said at {at:.3f} s: no phone of CMUdict's")
