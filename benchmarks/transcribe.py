"""Transcripts of recordings that have none, to train on: PocketSphinx proposes, a model chooses.

    python benchmarks/transcribe.py recordings/unlabelled/* --model run/models/step-12000 -o transcribed.jsonl

PocketSphinx (`pip install ".[bench]"`, BSD) brings a language model, which makes words of what both hear; of its
proposals the one to which the CTC head of the model gives most is kept, if its phones are not too far from those
that the model hears by itself. Recordings are read one after the other by one decoder, so their order matters a little.
The speaker is what a file's name has before its first hyphen, as in LibriSpeech.
"""

import argparse
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from gradalign import audio, output
from gradalign.bundle import Bundle, load
from gradalign.error_rate import edit_distance
from gradalign.errors import AlignmentError, GradalignError
from gradalign.label_search import ctc_greedy, ctc_log_prob
from gradalign.manifest import Utterance, write
from gradalign.readout import ctc_log_probs
from gradalign.recognition import features_of
from gradalign.transcript import Transcript

PROPOSALS = 60
"""How many of PocketSphinx's readings the model chooses among."""

LOUDEST = 0.7
"""What the largest sample is scaled to, of 1: far from clipping, and alike in all recordings."""


def proposals(decoder: Any, waveform: np.ndarray) -> Iterator[str]:
    """What PocketSphinx may have heard, best first.

    Raises:
        AlignmentError: If it gives up.
    """
    scaled = waveform * (LOUDEST / max(float(np.abs(waveform).max(initial=0)), 1e-6))
    try:
        decoder.start_utt()
        decoder.process_raw((scaled * 32767).astype(np.int16).tobytes(), full_utt=True)
        decoder.end_utt()
        best = decoder.hyp()
        if best is not None:
            yield best.hypstr
            yield from (one.hypstr for one in islice(decoder.nbest(), PROPOSALS) if one is not None)
    except RuntimeError as error:
        raise AlignmentError(f"PocketSphinx: {error}") from error


def choose(bundle: Bundle, waveform: np.ndarray, texts: list[str]) -> tuple[str, float] | None:
    """The text that the CTC head gives most, and by how many phones a phone it differs from what that head hears."""
    emissions = ctc_log_probs(bundle, features_of(waveform, bundle))
    scored = []
    for text in dict.fromkeys(texts):
        try:
            labels = tuple(bundle.ids(Transcript.from_text(text).labels).tolist())
        except GradalignError:
            continue  # no word, or none that can be pronounced
        if labels:
            scored.append((ctc_log_prob(emissions, labels), text, labels))
    heard = ctc_greedy(emissions)
    if not scored or not heard:
        return None
    _, text, labels = max(scored)
    return text, edit_distance(labels, heard).errors / len(heard)


def transcribed(bundle: Bundle, decoder: Any, path: Path, farthest: float) -> Utterance | None:
    """The recording with a transcript, if one is good enough."""
    waveform = audio.read(path)
    chosen = choose(bundle, waveform, list(proposals(decoder, waveform)))
    if chosen is None or chosen[1] >= farthest:
        return None
    speaker = path.stem.split("-")[0]
    return Utterance(path, chosen[0], path.stem, speaker, "transcribed", round(len(waveform) / audio.SAMPLE_RATE, 3))


def main() -> int:
    """Write the manifest; 1 if a recording could not be read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", nargs="+", type=Path, help="audio files of at most 60 s")
    parser.add_argument("--model", default="en-us", help="name or folder of the model (default: %(default)s)")
    parser.add_argument(
        "--farthest", type=float, default=0.45, help="most errors a phone between the two (default: %(default)s)"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="the manifest, JSON lines")
    parser.add_argument("--overwrite", action="store_true", help="replace the manifest")
    args = parser.parse_args()
    if find_spec("pocketsphinx") is None:
        parser.error('this needs PocketSphinx: pip install ".[bench]"')
    import pocketsphinx  # pyright: ignore[reportMissingImports]  (only with the extra "bench")

    try:
        # Known to be free before anything slow begins.
        target = output.target(str(args.output), Path("transcribed"), ".jsonl", overwrite=args.overwrite)
        bundle = load(args.model, calibrated=False)
        decoder = pocketsphinx.Decoder(loglevel="FATAL", maxhmmpf=10_000)
        found, failed = [], 0
        for number, path in enumerate(sorted(args.recordings), 1):
            try:
                found.append(transcribed(bundle, decoder, path, args.farthest))
            except GradalignError as error:
                failed += 1
                print(f"{path} left out: {error}", file=sys.stderr)
            if number % 25 == 0 or number == len(args.recordings):
                n_kept = sum(one is not None for one in found)
                print(f"{number}/{len(args.recordings)} recordings, {n_kept} kept", file=sys.stderr)
        kept = [one for one in found if one is not None]
        if not kept:
            raise GradalignError(f"no transcript came near enough to what {args.model} hears; try a larger --farthest")
        write(kept, target, overwrite=args.overwrite)
    except GradalignError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
