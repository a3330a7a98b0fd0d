"""A synthetic corpus with exact times: which text is read by which voice, and the folder that it is written to."""

import json
import math
import random
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile

from gradalign.alignment import Alignment, Tier
from gradalign.errors import FormatError, GradalignError
from gradalign.io import textgrid
from gradalign.io._files import read_text, write_text
from gradalign.synth import FIXED_PITCH, TimedSpeech, can_be_read, synthesise_all
from gradalign.synth.augment import augment

VOICES = ("flite-awb", "flite-slt", "festival-ked_diphone", "festival-cmu_us_slt_arctic_hts")
"""The voices of training. Not among them: flite-rms and festival-kal_diphone, which the benchmark holds out, and
flite-kal and flite-kal16, which are made from recordings of the same speaker as the latter."""

CALIBRATION_VOICES = (*VOICES, "espeak-en-us", "espeak-en-gb-scotland", "espeak-en-us-nyc+f2", "espeak-en-gb-x-rp+m3")
"""Voices that models are calibrated on unless others are asked for; none of those that `VOICES` leaves out."""

SENTENCES = Path(__file__).with_name("sentences.txt")
"""The texts that come with the package: written for this project, public domain (CC0)."""

STRETCHES = (0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15, 1.2, 1.25)
PITCHES = (0.85, 0.92, 1.0, 1.08, 1.16)
BATCH = 25
"""Sentences that share a rate and a pitch: Festival is started once for them."""

_LONGEST = 20  # words
_PIECE = 16
_MANIFEST, _SETTINGS = "manifest.jsonl", "synth.json"
# After . ? or !, and quotes that end there, but not after an abbreviation or an initial.
_SENTENCE_END = re.compile(
    r"(?<=[.!?])(?<!\bMr\.)(?<!\bMrs\.)(?<!\bMs\.)(?<!\bDr\.)(?<!\bSt\.)(?<!\b[A-Z]\.)[\"'”’)]*\s+"
)


@dataclass(frozen=True)
class Settings:
    """What decides on the contents of a corpus, but for its length.

    Attributes:
        voices: Names of installed voices.
        seed: Of every choice.
        each: Whether each voice reads each text; else each text is read by two of the voices.
        augment: Augmentations and their ranges, from `gradalign.synth.augment.parse`.
        textgrids: Whether a TextGrid is written for each recording too.
    """

    voices: tuple[str, ...] = VOICES
    seed: int = 0
    each: bool = False
    augment: dict[str, tuple[float, float]] = field(default_factory=dict)
    textgrids: bool = False


class Batch(NamedTuple):
    """Sentences that one voice reads in one manner."""

    number: int
    voice: str
    texts: tuple[str, ...]
    stretch: float
    pitch: float


class Progress(NamedTuple):
    """How far a corpus has come.

    Attributes:
        utterances: Recordings written, with those of an earlier run.
        hours: Their length.
        kept: How many of them are of an earlier run.
        failures: Messages of what could not be spoken since the last report.
    """

    utterances: int
    hours: float
    kept: int
    failures: tuple[str, ...]


def read_texts(paths: Sequence[Path], *, sets: Sequence[str] = ()) -> tuple[list[str], int]:
    """The distinct sentences in text files and manifests, in order, and how many were left out.

    Of a manifest (``.jsonl`` or ``.json``) the ``text`` of each line is taken, as lower-case words; texts with digits
    are left out. A file in which no line ends in ``.``, ``?`` or ``!`` has one sentence a line; any other holds prose,
    which is cut after these. Lines that begin with ``#`` are comments. Sentences of more than 20 words are cut into
    even pieces of up to 16. What the voices cannot read, such as another alphabet, is left out.

    Args:
        paths: Files in UTF-8.
        sets: Take only these sets of the manifests; by default all.

    Raises:
        FormatError: If a file cannot be read, is not a manifest though called one, or there is no sentence at all.
    """
    found: dict[str, None] = {}
    left_out = 0
    for path in paths:
        text = read_text(path)
        sentences = _of_manifest(path, text, sets) if is_manifest(path) else _of_text(text)
        for sentence in sentences:
            if can_be_read(sentence):
                found |= dict.fromkeys(_pieces(sentence.split()))
            else:
                left_out += 1
    if not found:
        listed = ", ".join(map(str, paths))
        of_sets = f" of the sets {', '.join(sets)}" if sets else ""
        raise FormatError(f"{listed}: no sentence{of_sets} that the voices can read; they read English in ASCII")
    return list(found), left_out


def is_manifest(path: Path) -> bool:
    """Whether a file is called a manifest; else it holds sentences."""
    return path.suffix.lower() in (".jsonl", ".json")


def plan(texts: Sequence[str], settings: Settings, *, endless: bool) -> Iterator[Batch]:
    """Which voice reads what, and how.

    All first readings come before all second ones, and the voices take turns: a cut drops only repetitions.

    Args:
        texts: Distinct sentences.
        settings: Whose voices and seed.
        endless: Begin again, with other readers and manners, whenever all texts were read.
    """
    rng = random.Random(settings.seed)
    number = 0
    while True:
        order = list(texts)
        rng.shuffle(order)
        n_readers = len(settings.voices) if settings.each else min(2, len(settings.voices))
        # With every voice a reader of every text, nothing is to be drawn.
        readers = [settings.voices if settings.each else rng.sample(settings.voices, n_readers) for _ in order]
        share = {
            voice: [t for k in range(n_readers) for t, r in zip(order, readers, strict=True) if r[k] == voice]
            for voice in settings.voices
        }
        for first in range(0, max(map(len, share.values())), BATCH):
            for voice in settings.voices:
                if batch := tuple(share[voice][first : first + BATCH]):
                    pitch = 1.0 if voice in FIXED_PITCH else rng.choice(PITCHES)
                    yield Batch(number, voice, batch, rng.choice(STRETCHES), pitch)
                    number += 1
        if not endless:
            return


def write(
    texts: Sequence[str], out: Path, settings: Settings, *, hours: float | None = None, overwrite: bool = False
) -> Iterator[Progress]:
    """Speak the texts into a folder: ``manifest.jsonl``, ``audio/*.flac`` and, if asked for, ``textgrid/*.TextGrid``.

    A folder in which a run with the same texts and settings was stopped, or ended, is gone on with; its whole batches
    are kept. The same texts, settings and hours give the same files.

    Args:
        texts: Distinct sentences.
        out: The folder; it is made if need be.
        settings: What to do.
        hours: Stop after the batch with which this much is full, and begin again with the texts until then; None for
            all texts once through.
        overwrite: Drop a corpus of other settings that is there; only one that was made here.

    Yields:
        How far it has come, after each batch and once at the start.

    Raises:
        FormatError: If the folder holds a corpus of other settings and ``overwrite`` is not set, or a manifest
            that was not made here.
        GradalignError: If a voice is not installed, or nothing can be spoken at all.
    """
    lines = _begin(texts, out, settings, overwrite=overwrite)
    seconds = sum(line["duration"] for line in lines)
    kept, n_lines, of_cycle = len(lines), len(lines), 0
    n_kept_batches = 1 + max((_batch_of(line) for line in lines), default=-1)
    yield Progress(n_lines, seconds / 3600, kept, ())
    for batch in plan(texts, settings, endless=hours is not None):
        if hours is not None and seconds > 3600 * hours:
            return
        if batch.number < n_kept_batches:
            continue
        made, failures = _make(batch, out, settings)
        with (out / _MANIFEST).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in made)
        of_cycle = 0 if made else of_cycle + len(batch.texts)
        if of_cycle >= 2 * len(texts):
            raise GradalignError(f"none of the texts can be spoken; the last reason: {failures[-1]}")
        seconds += sum(line["duration"] for line in made)
        n_lines += len(made)
        yield Progress(n_lines, seconds / 3600, kept, tuple(failures))


def _begin(texts: Sequence[str], out: Path, settings: Settings, *, overwrite: bool) -> list[dict[str, Any]]:
    """Make the folder ready; the lines that an earlier run left, of whole batches."""
    described = {
        "texts": sha256("\n".join(texts).encode()).hexdigest(),
        "voices": list(settings.voices),
        "seed": settings.seed,
        "each": settings.each,
        "augment": {name: list(values) for name, values in settings.augment.items()},
        "textgrids": settings.textgrids,
    }
    manifest, stated = out / _MANIFEST, out / _SETTINGS
    before = _read_settings(stated)
    if manifest.exists() and not stated.exists():  # somebody's own recordings: never to be dropped
        raise FormatError(f"{manifest}: was not made by gradalign synth and was kept; choose another folder")
    if manifest.exists() and before != described:
        if not overwrite:
            differ = [key for key in described if before.get(key) != described[key]]
            raise FormatError(
                f"{manifest}: exists already and was kept; it was made with other {', '.join(differ)}. "
                f"Choose another folder, or pass --overwrite to replace it"
            )
        for line in _read_lines(manifest):
            name = Path(line["id"]).name  # in these two folders, whatever somebody put into the manifest
            (out / "audio" / f"{name}.flac").unlink(missing_ok=True)
            (out / "textgrid" / f"{name}.TextGrid").unlink(missing_ok=True)
        manifest.unlink()
    for folder in ("audio", "textgrid")[: 1 + settings.textgrids]:
        (out / folder).mkdir(parents=True, exist_ok=True)
    write_text(stated, json.dumps(described, indent=1) + "\n", overwrite=True)
    lines = _read_lines(manifest) if manifest.exists() else []
    # The last batch is only known to be whole if it has all its lines; else it is made again.
    if lines and sum(_batch_of(line) == _batch_of(lines[-1]) for line in lines) < BATCH:
        lines = [line for line in lines if _batch_of(line) != _batch_of(lines[-1])]
    write_text(manifest, "".join(json.dumps(line) + "\n" for line in lines), overwrite=True)
    return lines


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text("utf-8")) if path.exists() else {}
    except ValueError:
        return {}


def _read_lines(manifest: Path) -> list[dict[str, Any]]:
    """The lines of a manifest up to one that was cut short."""
    lines = []
    for line in read_text(manifest).splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


def _batch_of(line: dict[str, Any]) -> int:
    return int(line["id"].split("-")[-2])


def _make(batch: Batch, out: Path, settings: Settings) -> tuple[list[dict[str, Any]], list[str]]:
    """Speak and write one batch; its manifest lines, and what went wrong."""
    spoken, failures = _speak(batch)
    lines = []
    for i, speech in spoken:
        name = f"{batch.voice}-{batch.number:04d}-{i:02d}"
        done: dict[str, object] = {}
        if settings.augment:
            rng = np.random.default_rng([settings.seed, zlib.crc32(name.encode())])
            others = [other.samples for k, other in spoken if k != i]
            speech, done = augment(speech, settings.augment, rng, others=others)
        soundfile.write(out / "audio" / f"{name}.flac", speech.samples, speech.sample_rate, subtype="PCM_16")
        if settings.textgrids:
            tiers = Tier("words", speech.words), Tier("phones", speech.phones)
            textgrid.write(Alignment(speech.duration, tiers), out / "textgrid" / f"{name}.TextGrid", overwrite=True)
        line = {
            "audio_filepath": f"audio/{name}.flac",
            "duration": round(speech.duration, 5),
            "text": speech.text,
            "speaker": batch.voice,
            "set": "synth",
            "id": name,
            "phones": [[round(p.start, 4), round(p.end, 4), p.label] for p in speech.phones],
            "words": [[round(w.start, 4), round(w.end, 4), w.label] for w in speech.words],
            "stretch": batch.stretch,
            "pitch": batch.pitch,
        }
        lines.append(line | ({"augment": done} if settings.augment else {}))
    return lines, failures


def _speak(batch: Batch) -> tuple[list[tuple[int, TimedSpeech]], list[str]]:
    """What was spoken, with its place in the batch; if something fails, one by one, to find out what."""
    manner = {"stretch": batch.stretch, "pitch": batch.pitch}
    try:
        return list(enumerate(synthesise_all(batch.texts, batch.voice, **manner))), []
    except GradalignError:
        spoken, failures = [], []
        for i, text in enumerate(batch.texts):
            try:
                spoken.append((i, synthesise_all([text], batch.voice, **manner)[0]))
            except GradalignError as error:
                failures.append(f"{text!r}: {error}")
        return spoken, failures


def _of_manifest(path: Path, text: str, sets: Sequence[str]) -> Iterator[str]:
    # Not `splitlines`: JSON strings may hold characters that it takes for line breaks.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        said = entry.get("text") if isinstance(entry, dict) else None
        if not isinstance(entry, dict) or not isinstance(said, str):
            raise FormatError(
                f'{path}: line {number} is not a JSON object with a "text"; expected a manifest, one object a line'
            )
        if (sets and entry.get("set") not in sets) or re.search(r"\d", said):
            continue
        plain = re.sub(r"[^a-z']+", " ", said.lower().replace("’", "'"))
        words = [word for word in (part.strip("'") for part in plain.split()) if word]
        if words:
            yield " ".join(words)


def _of_text(text: str) -> Iterator[str]:
    lines = [line.strip() for line in text.splitlines() if not line.startswith("#")]
    if not any(re.search(r"[.!?][\"'”’)]*$", line) for line in lines):
        yield from filter(None, lines)
        return
    for paragraph in re.split(r"\n\s*\n", "\n".join(lines)):
        yield from filter(None, _SENTENCE_END.split(" ".join(paragraph.split())))


def _pieces(words: Sequence[str]) -> list[str]:
    n = math.ceil(len(words) / _PIECE) if len(words) > _LONGEST else 1
    return [" ".join(words[len(words) * i // n : len(words) * (i + 1) // n]) for i in range(n)]
