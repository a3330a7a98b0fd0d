"""Festival, called as a program: one process speaks all texts, writes the waves to files and prints the phones."""

import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile

from gradalign.errors import GradalignError
from gradalign.synth.phones import Segment, of_festival

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


def is_installed(name: str) -> bool:
    """Whether the program and this voice are here.

    Args:
        name: The end of the Scheme function's name, such as "ked_diphone".
    """
    return name in _voices()


def speak(texts: list[str], name: str, stretch: float, pitch: float) -> Iterator[tuple[np.ndarray, int, list[Segment]]]:
    """Samples, their rate, and the phones of each text.

    Args:
        texts: In ASCII.
        name: As for `is_installed`.
        stretch: How much slower than usual.
        pitch: How much higher than usual; 1 for the "_hts" voice.

    Raises:
        GradalignError: If Festival fails, or the voice says an unknown phone.
    """
    setup = [_FESTIVAL_SPEAK, f"(voice_{name})"]
    if name.endswith("_hts"):
        setup.append(f'(set! hts_engine_params (append hts_engine_params (list (list "-r" {1 / stretch:.6f}))))')
    else:  # both diphone voices set a stretch of 1.1 and a mean of 105 Hz themselves
        setup.append(f"(Parameter.set 'Duration_Stretch {1.1 * stretch:.6f})")
        setup.append(f"(set! int_lr_params (cons '(target_f0_mean {105 * pitch:.6f}) (cdr int_lr_params)))")
    with tempfile.TemporaryDirectory() as folder:
        waves = [Path(folder, f"{i}.wav") for i in range(len(texts))]
        calls = [f"(gradalign_speak {_quoted(t)} {_quoted(str(w))})" for t, w in zip(texts, waves, strict=True)]
        printed = run("\n".join([*setup, *calls])).split("U\n")[1:]
        if len(printed) != len(texts):
            raise GradalignError(f"festival spoke {len(printed)} of {len(texts)} texts with the voice {name}")
        for wave, lines in zip(waves, printed, strict=True):
            samples, rate = soundfile.read(wave, dtype="float32")
            yield samples, rate, list(_joined(_segments(lines)))


@lru_cache(maxsize=1)
def _voices() -> frozenset[str]:
    try:
        listed = run('(mapcar (lambda (voice) (format t "%s\\n" voice)) (voice.list))')
    except FileNotFoundError:
        return frozenset()
    return frozenset(listed.split())


def run(program: str) -> str:
    """What Festival prints for a Scheme program.

    Args:
        program: Its text.

    Raises:
        GradalignError: If it fails.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".scm", encoding="utf-8") as file:
        file.write(program)
        file.flush()
        command = ["festival", "--batch", file.name]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        raise GradalignError(f"festival failed with status {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout


def _quoted(text: str) -> str:
    """``text`` as a Scheme string."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _segments(lines: str) -> Iterator[Segment]:
    start = 0.0
    for line in lines.splitlines():
        _, phone, end, token, word = line.split("\t")
        yield Segment(of_festival(phone, start), start, float(end), int(token, 16), word)
        start = float(end)


def _joined(segments: Iterable[Segment]) -> list[Segment]:
    """``segments`` with an "er" made whole that Festival's ked voice splits into "er" and an "r" of no word."""
    joined: list[Segment] = []
    for segment in segments:
        if joined and joined[-1].phone == "ER" and segment.phone == "R" and not segment.token:
            joined[-1] = joined[-1]._replace(end=segment.end)
        else:
            joined.append(segment)
    return joined
