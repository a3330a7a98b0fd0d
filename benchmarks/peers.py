"""Other aligners on the same recordings: PocketSphinx (HMM) and aeneas (a synthetic voice and dynamic time warping)."""

import json
import shutil
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile
from sources import Recording

from gradalign import audio
from gradalign.alignment import Alignment, Interval, Tier
from gradalign.errors import AlignmentError
from gradalign.text import words

RATE = 16_000
AENEAS = (
    "tts=espeak-ng|ffmpeg_sample_rate=22050|mfcc_mask_nonspeech=True|mfcc_window_length=0.020|mfcc_window_shift=0.005"
)
"""The windows of its preset for words, and pauses skipped, which between words said one by one are many.

Without the sample rate of the voice it takes the voice's words for 22050/16000 as long as they are (version 1.7.3).
"""


def pocketsphinx_align(recording: Recording) -> Alignment:
    """PocketSphinx's word alignment; its text may hold only words of its dictionary.

    Raises:
        AlignmentError: If it knows a word not, or finds no path even with a wide beam.
    """
    import pocketsphinx  # pyright: ignore[reportMissingImports]  (only with the extra "bench")

    samples = _samples(recording)
    pcm = (np.clip(samples, -1, 1) * 32767).astype(np.int16).tobytes()
    text = " ".join(part for word in words(recording.text) for part in word.spoken)
    for beams in ({}, {"beam": 1e-90, "pbeam": 1e-90, "wbeam": 1e-70}):
        decoder = pocketsphinx.Decoder(lm=None, loglevel="FATAL", cmn="batch", bestpath=False, **beams)
        try:
            decoder.set_align_text(text)
            decoder.start_utt()
            decoder.process_raw(pcm, full_utt=True)
            decoder.end_utt()
        except RuntimeError as error:
            raise AlignmentError(f"PocketSphinx: {error}") from error
        segments = decoder.seg()
        if segments is not None:
            break
    else:
        raise AlignmentError("PocketSphinx found no path")
    spans = [(s.start_frame / 100, (s.end_frame + 1) / 100, s.word.split("(")[0]) for s in segments]
    found = tuple(Interval(a, b, word) for a, b, word in spans if not word.startswith("<") and word != "(NULL)")
    return Alignment(max(len(samples) / RATE, found[-1].end), (Tier("words", found),), method="pocketsphinx")


def aeneas_align(recording: Recording) -> Alignment:
    """The words by aeneas's command, with eSpeak NG's voice, one fragment a word.

    Words to which it gives no duration get a millisecond.

    Raises:
        AlignmentError: If it fails or leaves words out.
    """
    samples = _samples(recording)
    labels = [word.text for word in words(recording.text) if word.spoken]
    with TemporaryDirectory() as name:
        folder = Path(name)
        soundfile.write(folder / "audio.wav", samples, RATE)
        (folder / "words.txt").write_text("\n".join(labels) + "\n", "utf-8")
        task = "task_language=eng|is_text_type=plain|os_task_file_format=json"
        files = [str(folder / "audio.wav"), str(folder / "words.txt"), task, str(folder / "out.json")]
        command = ["aeneas_execute_task", *files, f"-r={AENEAS}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not (folder / "out.json").exists():
            said = (done.stdout + done.stderr).strip()
            raise AlignmentError(f"aeneas: {said.splitlines()[-1] if said else done.returncode}")
        fragments = json.loads((folder / "out.json").read_text("utf-8"))["fragments"]
    if len(fragments) != len(labels):
        raise AlignmentError(f"aeneas: {len(fragments)} fragments of {len(labels)} words")
    found, last = [], 0.0
    for label, fragment in zip(labels, fragments, strict=True):
        start = max(float(fragment["begin"]), last)
        last = max(float(fragment["end"]), start + 1e-3)
        found.append(Interval(start, last, label))
    return Alignment(max(len(samples) / RATE, last), (Tier("words", tuple(found)),), method="aeneas")


ALIGNERS: dict[str, Callable[[Recording], Alignment]] = {"pocketsphinx": pocketsphinx_align, "aeneas": aeneas_align}
"""By name; they place words only."""


def installed() -> list[str]:
    """Those that are at hand."""
    here = {"pocketsphinx": find_spec("pocketsphinx"), "aeneas": shutil.which("aeneas_execute_task")}
    return [name for name in ALIGNERS if here[name] is not None]


def _samples(recording: Recording) -> np.ndarray:
    return recording.audio if isinstance(recording.audio, np.ndarray) else audio.read(recording.audio)
