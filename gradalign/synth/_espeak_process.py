"""One text spoken by libespeak-ng, in a process of its own: run as a program by `gradalign.synth.espeak`.

The library carries state from one call to the next, so that the same text sounds different each time, and stops for
good where it is initialised twice. A fresh process is the only way to the same samples each time. It takes as little
time as it can: only the standard library is imported.
"""

import ctypes
import json
import sys

_SYNCHRONOUS = 2
_WITH_PHONEME_EVENTS = 1
_CHARS_ASCII = 1  # UTF-8
_RATE, _PITCH = 1, 3
_KINDS = {1: "word", 5: "end", 7: "phone"}


class _Id(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


def main() -> None:
    """From a JSON object on standard input to one line of JSON and the samples, as 16 bit, on standard output."""
    asked = json.load(sys.stdin)
    library = ctypes.CDLL("libespeak-ng.so.1")
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, None, _WITH_PHONEME_EVENTS)
    if rate <= 0 or library.espeak_SetVoiceByName(asked["voice"].encode()):
        sys.exit(f"espeak-ng cannot load the voice {asked['voice']}; its data come with the package espeak-ng-data")
    library.espeak_SetParameter(_RATE, asked["rate"], 0)
    library.espeak_SetParameter(_PITCH, asked["pitch"], 0)
    chunks: list[bytes] = []
    events: list[tuple[str, int, int, str]] = []

    def receive(wave, n_samples, event) -> int:
        if wave and n_samples:
            chunks.append(ctypes.string_at(wave, 2 * n_samples))
        i = 0
        while event[i].type:  # 0 ends the list
            if event[i].type in _KINDS:
                # The 8 bytes of the union; a mnemonic of 8 has no zero byte at its end.
                phone = ctypes.string_at(ctypes.addressof(event[i].id), 8).partition(b"\0")[0]
                name = phone.decode("utf-8", "replace") if _KINDS[event[i].type] == "phone" else ""
                events.append((_KINDS[event[i].type], event[i].text_position, event[i].sample, name))
            i += 1
        return 0

    callback = _Callback(receive)
    library.espeak_SetSynthCallback(callback)
    text = asked["text"].encode("ascii")
    library.espeak_Synth(text, ctypes.c_size_t(len(text) + 1), 0, 0, 0, _CHARS_ASCII, None, None)
    library.espeak_Synchronize()
    sys.stdout.buffer.write(json.dumps({"rate": rate, "events": events}).encode() + b"\n" + b"".join(chunks))


if __name__ == "__main__":
    main()
