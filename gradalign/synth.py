"""Timed synthetic speech: text spoken by an installed engine that also tells when each phone was said.

For training, benchmarks and examples, where times must be exact and nobody has to label anything. Flite is called as
a library, Festival as a program; both are optional Debian packages and are looked for when a voice is asked for.
"""

import ctypes
import math
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import librosa
import numpy as np
import soundfile
from jaxtyping import Float32

from gradalign._types import Seconds
from gradalign.alignment import Interval
from gradalign.errors import GradalignError
from gradalign.lexicon import PHONES

SAMPLE_RATE = 16000
"""Rate of all speech made here, whatever the engine's own rate."""

# The engines speak the 39 phones in lower case, the reduced vowels and allophones of the Boston Radio News phone set
# on top, and silence. CMUdict writes the reduced vowels as unstressed AH, IH and ER and has no syllabic consonants.
_PHONE = {phone.lower(): phone for phone in PHONES} | {
    "ax": "AH",
    "ix": "IH",
    "axr": "ER",
    "dx": "T",
    "el": "L",
    "em": "M",
    "en": "N",
    "nx": "N",
    "hv": "HH",
}
_TYPOGRAPHIC = str.maketrans("‘’“”–—", "''\"\"--")
_SILENCE = frozenset({"pau", "h#", "brth", "ssil", "sil", "#"})


class _Voice(NamedTuple):
    engine: Literal["flite", "festival"]
    name: str  # what the engine calls it: the end of the library's name, or of the Scheme function's
    package: str  # the Debian package that brings it


_VOICES = {
    "flite-awb": _Voice("flite", "cmu_us_awb", "flite"),
    "flite-kal16": _Voice("flite", "cmu_us_kal16", "flite"),
    "flite-rms": _Voice("flite", "cmu_us_rms", "flite"),
    "flite-slt": _Voice("flite", "cmu_us_slt", "flite"),
    "festival-kal_diphone": _Voice("festival", "kal_diphone", "festvox-kallpc16k"),
    "festival-ked_diphone": _Voice("festival", "ked_diphone", "festvox-kdlpc16k"),
    "festival-cmu_us_slt_arctic_hts": _Voice("festival", "cmu_us_slt_arctic_hts", "festvox-us-slt-hts"),
}
_FIXED_PITCH = ("flite-rms", "festival-cmu_us_slt_arctic_hts")


class _Segment(NamedTuple):
    """One phone or pause as an engine reports it."""

    phone: str
    start: Seconds
    end: Seconds
    token: int  # which word of the text it belongs to: any number that differs between words, 0 for none
    word: str


@dataclass(frozen=True, slots=True)
class TimedSpeech:
    """One synthetic utterance and when each phone and word of it was said.

    Attributes:
        samples: Mono, in [-1, 1].
        sample_rate: In Hz.
        phones: CMUdict phones without stress as the engine said them, in time order; silence is left out.
        words: One interval a word of ``text`` that was spoken, from its first phone to its last, without the
            punctuation around it.
        text: What was asked for.
        voice: Who said it, as listed by `voices`.
    """

    samples: Float32[np.ndarray, " samples"]
    sample_rate: int
    phones: tuple[Interval, ...]
    words: tuple[Interval, ...]
    text: str
    voice: str

    @property
    def duration(self) -> Seconds:
        """Length in seconds."""
        return len(self.samples) / self.sample_rate


def voices() -> tuple[str, ...]:
    """Names of the voices that can speak on this machine."""
    return tuple(name for name, voice in _VOICES.items() if _is_installed(voice))


def synthesise(text: str, voice: str, *, stretch: float = 1.0, pitch: float = 1.0) -> TimedSpeech:
    """Speech for ``text``, with the times the engine itself placed the phones at.

    The same arguments give the same samples.

    Args:
        text: English, one sentence or a few; line breaks count as spaces.
        voice: One of `voices`.
        stretch: How much slower than usual, > 0; 0.8 to 1.25 sounds natural.
        pitch: How much higher than usual, > 0, as a ratio; ``flite-rms`` and ``festival-cmu_us_slt_arctic_hts`` can
            only do 1.

    Raises:
        ValueError: If the text has no letter or digit, or characters other than ASCII and typographic quotes and
            dashes; if there is no such voice; or if an option is out of range.
        GradalignError: If the engine is not installed, fails, or says nothing or a phone that CMUdict has not.

    Example:
        >>> speech = synthesise("Hello world.", "flite-slt")  # doctest: +SKIP
        >>> [word.label for word in speech.words]  # doctest: +SKIP
        ['Hello', 'world']
    """
    return synthesise_all([text], voice, stretch=stretch, pitch=pitch)[0]


def synthesise_all(
    texts: Sequence[str], voice: str, *, stretch: float = 1.0, pitch: float = 1.0
) -> tuple[TimedSpeech, ...]:
    """`synthesise` for many texts; with Festival, which takes a second to start, much faster than one by one."""
    if voice not in _VOICES:
        raise ValueError(f"no voice {voice!r}; there are {', '.join(_VOICES)}")
    if not (0 < stretch < math.inf and 0 < pitch < math.inf):
        raise ValueError(f"stretch and pitch must be > 0 and finite, got {stretch} and {pitch}")
    if pitch != 1 and voice in _FIXED_PITCH:
        raise ValueError(f"voice {voice} cannot change its pitch by {pitch}; leave it at 1 or take another voice")
    plain = [" ".join(text.translate(_TYPOGRAPHIC).split()) for text in texts]
    for text in plain:
        if not text.isascii() or not any(c.isalnum() for c in text):
            raise ValueError(f"the voices read English in ASCII, with at least one letter or digit; got {text!r}")
    asked = _VOICES[voice]
    if not _is_installed(asked):
        raise GradalignError(f"voice {voice} is not installed; on Debian: apt-get install {asked.package}")
    speak = _speak_flite if asked.engine == "flite" else _speak_festival
    spoken = speak(plain, asked.name, stretch, pitch)
    return tuple(_timed(*said, text, voice) for said, text in zip(spoken, texts, strict=True))


def _timed(samples: np.ndarray, rate: int, segments: list[_Segment], text: str, voice: str) -> TimedSpeech:
    if rate != SAMPLE_RATE:
        samples = librosa.resample(samples, orig_sr=rate, target_sr=SAMPLE_RATE)
    phones: list[Interval] = []
    words: dict[int, Interval] = {}
    for segment in _joined(segments):
        if segment.phone in _SILENCE:
            continue
        if segment.phone not in _PHONE:
            raise GradalignError(
                f"voice {voice} said {segment.phone!r} at {segment.start:.3f} s: no phone of CMUdict's"
            )
        phones.append(Interval(segment.start, segment.end, _PHONE[segment.phone]))
        if segment.token:
            begin = words[segment.token].start if segment.token in words else segment.start
            words[segment.token] = Interval(begin, segment.end, segment.word)
    if not phones:
        raise GradalignError(f"voice {voice} finds nothing to say in {text!r}")
    return TimedSpeech(samples.astype(np.float32), SAMPLE_RATE, tuple(phones), tuple(words.values()), text, voice)


def _joined(segments: Iterable[_Segment]) -> list[_Segment]:
    """``segments`` with an "er" made whole that Festival's ked voice splits into "er" and an "r" of no word."""
    joined: list[_Segment] = []
    for segment in segments:
        if joined and joined[-1].phone == "er" and segment.phone == "r" and not segment.token:
            joined[-1] = joined[-1]._replace(end=segment.end)
        else:
            joined.append(segment)
    return joined


def _is_installed(voice: _Voice) -> bool:
    if voice.engine == "festival":
        return voice.name in _festival_voices()
    try:
        _flite_voice(voice.name)
    except OSError:
        return False
    return True


# Flite. The `flite` program prints phones but not which word they belong to, so the library is asked instead.


class _FliteVoice(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("features", ctypes.c_void_p))


class _FliteWave(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_char_p),
        ("sample_rate", ctypes.c_int),
        ("num_samples", ctypes.c_int),
        ("num_channels", ctypes.c_int),
        ("samples", ctypes.POINTER(ctypes.c_short)),
    )


_FLITE = {  # function: what it returns, what it takes
    "srand": (None, (ctypes.c_uint,)),
    "flite_synth_text": (ctypes.c_void_p, (ctypes.c_char_p, ctypes.POINTER(_FliteVoice))),
    "flite_feat_set_float": (None, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_float)),
    "utt_wave": (ctypes.POINTER(_FliteWave), (ctypes.c_void_p,)),
    "utt_relation": (ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_char_p)),
    "relation_head": (ctypes.c_void_p, (ctypes.c_void_p,)),
    "item_next": (ctypes.c_void_p, (ctypes.c_void_p,)),
    "item_as": (ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_char_p)),
    "item_parent": (ctypes.c_void_p, (ctypes.c_void_p,)),
    "item_feat_float": (ctypes.c_float, (ctypes.c_void_p, ctypes.c_char_p)),
    "item_feat_string": (ctypes.c_char_p, (ctypes.c_void_p, ctypes.c_char_p)),
    "delete_utterance": (None, (ctypes.c_void_p,)),
}


@lru_cache(maxsize=1)
def _flite() -> ctypes.CDLL:
    """The library with its functions declared; OSError where it is not installed."""
    for language in ("usenglish", "cmulex"):
        ctypes.CDLL(f"libflite_{language}.so.1", mode=ctypes.RTLD_GLOBAL)
    library = ctypes.CDLL("libflite.so.1", mode=ctypes.RTLD_GLOBAL)
    for function, (result, arguments) in _FLITE.items():
        getattr(library, function).restype = result
        getattr(library, function).argtypes = arguments
    library.flite_init()
    return library


@lru_cache
def _flite_voice(name: str) -> Any:  # ctypes makes its pointer classes at run time
    """A pointer to the voice; OSError where it is not installed."""
    _flite()
    register = getattr(ctypes.CDLL(f"libflite_{name}.so.1"), f"register_{name}")
    register.restype = ctypes.POINTER(_FliteVoice)
    register.argtypes = (ctypes.c_char_p,)
    return register(None)


def _speak_flite(
    texts: list[str], name: str, stretch: float, pitch: float
) -> Iterator[tuple[np.ndarray, int, list[_Segment]]]:
    library, voice = _flite(), _flite_voice(name)
    features = voice.contents.features
    usual = 1.1 if name == "cmu_us_kal16" else 1.0  # what the voice sets itself, and would be overwritten
    for text in texts:
        library.flite_feat_set_float(features, b"duration_stretch", stretch * usual)
        library.flite_feat_set_float(features, b"f0_shift", pitch)
        library.srand(1)  # C's own, where the voices that are vocoders get their noise: the seed a process starts with
        utterance = library.flite_synth_text(text.encode(), voice)
        try:
            wave = library.utt_wave(utterance).contents
            samples = np.ctypeslib.as_array(wave.samples, (wave.num_samples,)).astype(np.float32) / 32768
            yield samples, wave.sample_rate, list(_flite_segments(library, utterance))
        finally:
            library.delete_utterance(utterance)


def _flite_segments(library: ctypes.CDLL, utterance: int) -> Iterator[_Segment]:
    start = 0.0
    item = library.relation_head(library.utt_relation(utterance, b"Segment"))
    while item:
        token = item
        for relation, levels in ((b"SylStructure", 2), (b"Token", 1)):
            token = token and library.item_as(token, relation)
            for _ in range(levels):
                token = token and library.item_parent(token)
        word = library.item_feat_string(token, b"name").decode() if token else ""
        phone = library.item_feat_string(item, b"name").decode()
        end = library.item_feat_float(item, b"end")
        yield _Segment(phone, start, end, token or 0, word)
        start = end
        item = library.item_next(item)


# Festival. One process speaks all texts: it writes the waves to files and prints the phones.

_FESTIVAL_SPEAK = """
(define (gradalign_segment s)
  (format t "S\\t%s\\t%f\\t%s\\t%s\\n" (item.name s) (item.feat s "end")
    (item.feat s "R:SylStructure.parent.parent.R:Token.parent.addr")
    (item.feat s "R:SylStructure.parent.parent.R:Token.parent.name")))
(define (gradalign_speak text path)
  (let ((utt (utt.synth (eval (list 'Utterance 'Text text)))))
    (utt.save.wave utt path 'riff)
    (format t "U\\n")
    (mapcar gradalign_segment (utt.relation.items utt 'Segment))))
"""


@lru_cache(maxsize=1)
def _festival_voices() -> frozenset[str]:
    try:
        listed = _festival('(mapcar (lambda (voice) (format t "%s\\n" voice)) (voice.list))')
    except FileNotFoundError:
        return frozenset()
    return frozenset(listed.split())


def _festival(program: str) -> str:
    with tempfile.NamedTemporaryFile("w", suffix=".scm", encoding="utf-8") as file:
        file.write(program)
        file.flush()
        command = ["festival", "--batch", file.name]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        raise GradalignError(f"festival failed with status {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout


def _speak_festival(
    texts: list[str], name: str, stretch: float, pitch: float
) -> Iterator[tuple[np.ndarray, int, list[_Segment]]]:
    setup = [_FESTIVAL_SPEAK, f"(voice_{name})"]
    if name.endswith("_hts"):
        setup.append(f'(set! hts_engine_params (append hts_engine_params (list (list "-r" {1 / stretch:.6f}))))')
    else:  # both diphone voices set a stretch of 1.1 and a mean of 105 Hz themselves
        setup.append(f"(Parameter.set 'Duration_Stretch {1.1 * stretch:.6f})")
        setup.append(f"(set! int_lr_params (cons '(target_f0_mean {105 * pitch:.6f}) (cdr int_lr_params)))")
    with tempfile.TemporaryDirectory() as folder:
        waves = [Path(folder, f"{i}.wav") for i in range(len(texts))]
        calls = [f"(gradalign_speak {_quoted(t)} {_quoted(str(w))})" for t, w in zip(texts, waves, strict=True)]
        printed = _festival("\n".join([*setup, *calls])).split("U\n")[1:]
        if len(printed) != len(texts):
            raise GradalignError(f"festival spoke {len(printed)} of {len(texts)} texts with the voice {name}")
        for wave, lines in zip(waves, printed, strict=True):
            samples, rate = soundfile.read(wave, dtype="float32")
            yield samples, rate, list(_festival_segments(lines))


def _quoted(text: str) -> str:
    """``text`` as a Scheme string."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _festival_segments(lines: str) -> Iterator[_Segment]:
    start = 0.0
    for line in lines.splitlines():
        _, phone, end, token, word = line.split("\t")
        yield _Segment(phone, start, float(end), int(token, 16), word)
        start = float(end)
