"""A synthetic training corpus with exact phone times: ``python -m gradalign.training.synthetic --help``.

Texts come from the transcripts of a manifest, cut to sentence length, each read by two of the voices at a rate and
pitch of their own. Not among the voices: those that the benchmark holds out, and flite-kal16, which is made from the
recordings of one of them.
"""

import argparse
import json
import math
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import soundfile

from gradalign.synth import synthesise_all

VOICES = ("flite-awb", "flite-slt", "festival-ked_diphone", "festival-cmu_us_slt_arctic_hts")
STRETCHES = (0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15, 1.2, 1.25)
PITCHES = (0.85, 0.92, 1.0, 1.08, 1.16)
BATCH = 25
"""Sentences that share a rate and a pitch: Festival is started once for them."""


def sentences(manifest: Path, sets: list[str], *, longest: int = 20) -> list[str]:
    """The distinct texts of a manifest in lower-case words; long ones cut into even pieces of up to 16 words."""
    found: dict[str, None] = {}
    for line in manifest.read_text("utf-8").splitlines():
        entry = json.loads(line)
        if entry["set"] not in sets or re.search(r"\d", entry["text"]):
            continue
        text = re.sub(r"[^a-z']+", " ", entry["text"].lower().replace("’", "'"))
        words = [word for word in (part.strip("'") for part in text.split()) if word]
        n = math.ceil(len(words) / 16) if len(words) > longest else 1
        for i in range(n):
            found[" ".join(words[len(words) * i // n : len(words) * (i + 1) // n])] = None
    return [text for text in found if text]


def corpus(texts: list[str], out: Path, *, hours: float, seed: int) -> Iterator[dict[str, Any]]:
    """Speak the texts until ``hours`` are full; writes FLAC files and yields manifest lines."""
    rng = random.Random(seed)
    texts = rng.sample(texts, len(texts))
    readers = [rng.sample(VOICES, 2) for _ in texts]
    # All first readings come before all second ones: a cut by hours drops only repetitions.
    plan = {v: [t for k in (0, 1) for t, r in zip(texts, readers, strict=True) if r[k] == v] for v in VOICES}
    seconds = 0.0
    (out / "train").mkdir(parents=True, exist_ok=True)
    for first in range(0, max(map(len, plan.values())), BATCH):
        for voice in VOICES:
            batch = plan[voice][first : first + BATCH]
            stretch, pitch = rng.choice(STRETCHES), 1.0 if voice.endswith("_hts") else rng.choice(PITCHES)
            for number, speech in enumerate(synthesise_all(batch, voice, stretch=stretch, pitch=pitch)):
                name = f"{voice}-{first + number:05d}"
                soundfile.write(out / "train" / f"{name}.flac", speech.samples, speech.sample_rate, subtype="PCM_16")
                seconds += speech.duration
                yield {
                    "audio_filepath": f"train/{name}.flac",
                    "duration": round(speech.duration, 5),
                    "text": speech.text,
                    "speaker": voice,
                    "set": "synth",
                    "id": name,
                    "phones": [[round(p.start, 4), round(p.end, 4), p.label] for p in speech.phones],
                    "words": [[round(w.start, 4), round(w.end, 4), w.label] for w in speech.words],
                }
            if seconds > 3600 * hours:
                return


def main() -> None:
    """Parse the command line and make the corpus."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, required=True, help="manifest whose transcripts are read out")
    parser.add_argument("--sets", nargs="+", default=["librispeech", "ljspeech", "speechocean762"])
    parser.add_argument("--out", type=Path, required=True, help="folder for train.jsonl and train/*.flac")
    parser.add_argument("--hours", type=float, default=7.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    hours = 0.0
    with (args.out / "train.jsonl").open("w", encoding="utf-8") as file:
        lines = corpus(sentences(args.texts, args.sets), args.out, hours=args.hours, seed=args.seed)
        for number, line in enumerate(lines, start=1):
            file.write(json.dumps(line) + "\n")
            hours += line["duration"] / 3600
            if number % 500 == 0:
                print(f"{number} sentences, {hours:.2f} of {args.hours} h", flush=True)
    print(f"{args.out / 'train.jsonl'}: {hours:.2f} h")


if __name__ == "__main__":
    main()
