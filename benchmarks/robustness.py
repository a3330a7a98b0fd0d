"""How boundaries hold up when the same speech gets harder: noise, a room, another speed, silence around and inside.

    python benchmarks/robustness.py                                          # synthetic speech, made here
    python benchmarks/robustness.py --manifest ../shared/data/dev.jsonl --sets librispeech --limit 30

Every change keeps the true times exactly (speed scales them, silence shifts them). Word TSE in ms by method.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from accuracy import run
from sources import about, add_sources, gathered

from gradalign import audio
from gradalign.alignment import Interval, Tier
from gradalign.bundle import load
from gradalign.synth import augment

RATE = 16_000
Change = Callable[[np.ndarray, tuple[Tier, ...], np.random.Generator], tuple[np.ndarray, tuple[Tier, ...]]]


def _moved(tiers: tuple[Tier, ...], move: Callable[[float], float]) -> tuple[Tier, ...]:
    return tuple(Tier(t.name, tuple(Interval(move(i.start), move(i.end), i.label) for i in t)) for t in tiers)


def _noise(snr_db: float) -> Change:
    return lambda x, tiers, rng: (augment.noise(x, snr_db, "pink", rng), tiers)


def _room(seconds: float) -> Change:
    return lambda x, tiers, rng: (augment.room(x, seconds, rng, sample_rate=RATE), tiers)


def _speed(factor: float) -> Change:
    def change(x: np.ndarray, tiers: tuple[Tier, ...], rng: np.random.Generator):
        faster, scale = augment.speed(x, factor)
        return faster, _moved(tiers, lambda t: t * scale)

    return change


def _hush(seconds: float, rng: np.random.Generator) -> np.ndarray:
    return (1e-4 * rng.standard_normal(round(seconds * RATE))).astype(np.float32)


def _leading(x: np.ndarray, tiers: tuple[Tier, ...], rng: np.random.Generator):
    return np.concatenate([_hush(2.0, rng), x]), _moved(tiers, lambda t: t + 2.0)


def _inner(x: np.ndarray, tiers: tuple[Tier, ...], rng: np.random.Generator):
    """A second of silence between the two words in the middle."""
    words = next(tier for tier in tiers if tier.name == "words")
    at = words[len(words) // 2].start
    cut = round(at * RATE)
    # A phone may begin before its word by a rounding; the middle decides on which side of the cut it lies.
    longer = np.concatenate([x[:cut], _hush(1.0, rng), x[cut:]])
    shifted = []
    for tier in tiers:
        late = [(i.start + i.end) / 2 >= at for i in tier]
        shifted.append(
            Tier(
                tier.name,
                tuple(
                    Interval(i.start + 1.0, i.end + 1.0, i.label)
                    if after
                    else Interval(i.start, min(i.end, at), i.label)
                    for i, after in zip(tier, late, strict=True)
                ),
            )
        )
    return longer, tuple(shifted)


CHANGES: dict[str, Change] = {
    "as it is": lambda x, tiers, rng: (x, tiers),
    "noise 20 dB": _noise(20.0),
    "noise 10 dB": _noise(10.0),
    "noise 0 dB": _noise(0.0),
    "room 0.5 s": _room(0.5),
    "speed x0.8": _speed(0.8),
    "speed x1.25": _speed(1.25),
    "2 s of silence first": _leading,
    "1 s of silence inside": _inner,
}


def main() -> None:
    """Parse the command line, run, print tables and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sources(parser, limit=20)
    parser.add_argument("--methods", nargs="+", default=["calibrated", "calibrated-ctc", "gradient", "ctc"])
    parser.add_argument("--seed", type=int, default=0, help="of noise and rooms")
    args = parser.parse_args()
    recordings = gathered(args, parser)
    bundle = load(args.model, precision=args.precision)
    table: dict[str, dict[str, dict[str, float]]] = {}
    for name, change in CHANGES.items():
        rng = np.random.default_rng(args.seed)
        harder = []
        for recording in recordings:
            samples = recording.audio if isinstance(recording.audio, np.ndarray) else audio.read(recording.audio)
            changed, tiers = change(samples, recording.reference, rng)
            harder.append(replace(recording, audio=changed, reference=tiers))
        for group, by_method in run(harder, args.methods, bundle, None)["pooled"].items():
            for method, tiers in by_method.items():
                table.setdefault(group, {}).setdefault(name, {})[method] = 1e3 * tiers["words"].tse_s
    print(f"Model {bundle.name}; calibrated on: {bundle.calibrated_on or 'nothing'}. Word TSE in ms.")
    for group, rows in table.items():
        print(
            f"\n### {group}\n\n| speech | " + " | ".join(args.methods) + " |\n" + "|---" * (1 + len(args.methods)) + "|"
        )
        for name, row in rows.items():
            print(f"| {name} | " + " | ".join(f"{row[method]:.1f}" for method in args.methods) + " |")
    if args.json:
        args.json.write_text(json.dumps(about(bundle) | {"groups": table}, indent=1))


if __name__ == "__main__":
    main()
