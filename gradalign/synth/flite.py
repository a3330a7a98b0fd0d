"""Flite, called as a library: its program prints phones but not which word they belong to."""

import ctypes
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from gradalign.synth.phones import Segment, of_festival


def is_installed(name: str) -> bool:
    """Whether the library with this voice is here.

    Args:
        name: The end of the library's name, such as "cmu_us_slt".
    """
    try:
        _voice(name)
    except OSError:
        return False
    return True


def speak(texts: list[str], name: str, stretch: float, pitch: float) -> Iterator[tuple[np.ndarray, int, list[Segment]]]:
    """Samples, their rate, and the phones of each text.

    Args:
        texts: In ASCII.
        name: As for `is_installed`.
        stretch: How much slower than usual.
        pitch: How much higher than usual.

    Raises:
        GradalignError: If the voice says an unknown phone.
    """
    library, voice = _library(), _voice(name)
    features = voice.contents.features
    usual = (
        1.1 if name in ("cmu_us_kal", "cmu_us_kal16") else 1.0
    )  # what the voice sets itself, and would be overwritten
    for text in texts:
        library.flite_feat_set_float(features, b"duration_stretch", stretch * usual)
        library.flite_feat_set_float(features, b"f0_shift", pitch)
        library.srand(1)  # C's own, where the voices that are vocoders get their noise: the seed a process starts with
        utterance = library.flite_synth_text(text.encode(), voice)
        try:
            wave = library.utt_wave(utterance).contents
            samples = np.ctypeslib.as_array(wave.samples, (wave.num_samples,)).astype(np.float32) / 32768
            yield samples, wave.sample_rate, list(_segments(library, utterance))
        finally:
            library.delete_utterance(utterance)


def _segments(library: ctypes.CDLL, utterance: int) -> Iterator[Segment]:
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
        yield Segment(of_festival(phone, start), start, end, token or 0, word)
        start = end
        item = library.item_next(item)


class _Voice(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("features", ctypes.c_void_p))


class _Wave(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_char_p),
        ("sample_rate", ctypes.c_int),
        ("num_samples", ctypes.c_int),
        ("num_channels", ctypes.c_int),
        ("samples", ctypes.POINTER(ctypes.c_short)),
    )


_FUNCTIONS = {  # function: what it returns, what it takes
    "srand": (None, (ctypes.c_uint,)),
    "flite_synth_text": (ctypes.c_void_p, (ctypes.c_char_p, ctypes.POINTER(_Voice))),
    "flite_feat_set_float": (None, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_float)),
    "utt_wave": (ctypes.POINTER(_Wave), (ctypes.c_void_p,)),
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
def _library() -> ctypes.CDLL:
    """The library with its functions declared; OSError where it is not installed."""
    for language in ("usenglish", "cmulex"):
        ctypes.CDLL(f"libflite_{language}.so.1", mode=ctypes.RTLD_GLOBAL)
    library = ctypes.CDLL("libflite.so.1", mode=ctypes.RTLD_GLOBAL)
    for function, (result, arguments) in _FUNCTIONS.items():
        getattr(library, function).restype = result
        getattr(library, function).argtypes = arguments
    library.flite_init()
    return library


@lru_cache
def _voice(name: str) -> Any:  # ctypes makes its pointer classes at run time
    """A pointer to the voice; OSError where it is not installed."""
    _library()
    register = getattr(ctypes.CDLL(f"libflite_{name}.so.1"), f"register_{name}")
    register.restype = ctypes.POINTER(_Voice)
    register.argtypes = (ctypes.c_char_p,)
    return register(None)
