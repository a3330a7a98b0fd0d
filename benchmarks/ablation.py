"""What each kind of evidence is worth: calibrations that weigh only some of it, learnt and tried on the same speech.

    gradalign synth -o speech/ --hours 0.3 --augment room band pitch
    python benchmarks/ablation.py speech/manifest.jsonl --manifest ../shared/data/dev.jsonl

Gradients are followed through the whole recording wherever the CTC head is not asked. The classifier of frames is that
of the model. Word TSE in ms; nothing is tuned on what is measured.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from accuracy import run
from sources import about, add_sources, gathered

from gradalign import manifest
from gradalign.bundle import Bundle, load
from gradalign.cache import prepare_jax
from gradalign.calibrate import calibrate
from gradalign.errors import GradalignError
from gradalign.signals import BANDS
from gradalign.timed_speech import among_people, read


def evidence(n_blocks: int) -> dict[str, tuple[str, ...]]:
    """Signals by what a row of the table is called."""
    bands = tuple(f"gradient@features/{band + 1}" for band in range(BANDS))
    leaves = ("gradient@features", "gradient@stem", *(f"gradient@block-{k + 1}" for k in range(n_blocks)))
    return {
        "gradient: features": leaves[:1],
        "gradient: features in bands": bands,
        "gradient: output of the stem": leaves[1:2],
        "gradient: output of the encoder": leaves[-1:],
        "gradient: features and output of the encoder": (leaves[0], leaves[-1]),
        "gradient: all leaves": leaves,
        "gradient: all leaves, and bands": (*leaves, *bands),
        "attention": ("attention",),
        "CTC": ("ctc",),
        "CTC and gradients": ("ctc", "gradient"),
        "CTC and classifier of frames": ("ctc", "classifier"),
        "all but gradients": ("attention", "ctc", "classifier"),
        "all but attention": ("gradient", "ctc", "classifier"),
        "all but the classifier": ("gradient", "attention", "ctc"),
        "all": ("gradient", "attention", "ctc", "classifier"),
    }


def learnt(bundle: Bundle, speech: Path, n_utterances: int, seed: int) -> Bundle:
    """The model with one calibration a row of the table."""
    rng = np.random.default_rng(seed)
    timed = [utterance for utterance in manifest.read(speech) if utterance.phones and utterance.words]
    if not timed:
        raise GradalignError(f"{speech}: no utterance has times of both phones and words; make some by gradalign synth")
    chosen = [timed[i] for i in rng.permutation(len(timed))[:n_utterances]]
    rate = bundle.features.sample_rate
    utterances = [among_people(read(utterance, bundle), rng, sample_rate=rate) for utterance in chosen]
    return calibrate(
        bundle,
        utterances,
        about=f"{len(utterances)} utterances",
        methods=evidence(bundle.network.config.encoder_layers),
        confidences=False,
        report=lambda line: print(line, file=sys.stderr),
    )


def main() -> int:
    """Parse the command line, learn, run, print the table and write JSON; 1 if something is wrong with the speech."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path, help="speech with times to learn from: a corpus")
    add_sources(parser, limit=10)
    parser.add_argument("--utterances", type=int, default=96, help="to learn from (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of their choice and manner")
    args = parser.parse_args()
    prepare_jax()
    try:
        recordings = gathered(args, parser)
        bundle = learnt(
            load(args.model, precision=args.precision or "float32"), args.speech, args.utterances, args.seed
        )
    except GradalignError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    found = run(recordings, list(bundle.calibrations), bundle, None)
    groups = found["pooled"]
    print("| evidence | " + " | ".join(groups) + " |")
    print("|---" * (len(groups) + 1) + "|")
    tse = {row: {group: 1e3 * groups[group][row]["words"].tse_s for group in groups} for row in bundle.calibrations}
    for row, by_group in tse.items():
        print(f"| {row} | " + " | ".join(f"{value:.1f}" for value in by_group.values()) + " |")
    for where, problems in found["failures"].items():
        print(f"\n{where}: {len(problems)} failed, for example {problems[0]}")
    if args.json:
        args.json.write_text(json.dumps(about(bundle) | {"word_tse_ms": tse}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
