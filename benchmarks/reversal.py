"""Do small encoders without CTC reverse time, which remedy prevents it, and what does it cost the alignment?

    python benchmarks/reversal.py --json reversal.json                   # every remedy, 5 seeds: hours on 2 cores
    python benchmarks/reversal.py --remedies none --seeds 0 1 2          # can it be provoked at all?
    python benchmarks/reversal.py --remedies none --layers 12 --peak 4e-3 --figures pages/

Each run trains a Conformer attention encoder-decoder on the task of `reversal_task`, by the updates of
`gradalign train`, and is then inspected and scored on utterances it never saw: label error rate of greedy decoding, and
the time stamp error (TSE) of alignments by gradients at the features and at the encoder's output, by cross-attention,
and by CTC where it was trained. While it trains, the direction of cross-attention, the flip index of each block and
the norm of its self-attention are noted. A run whose results are in the JSON file already is not made again, so that
a study that was stopped goes on with the same command.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from reversal_task import Example, Task, batch, example

from gradalign.bundle import Bundle, save
from gradalign.error_rate import PhoneErrors, edit_distance
from gradalign.errors import AlignmentError
from gradalign.evidence import attention_scores, ctc_scores, log_saliency, normalise, silence_score, upsample
from gradalign.inspection.health import Health, examine, health
from gradalign.inspection.page import draw
from gradalign.lattice import Topology
from gradalign.metrics import Comparison, compare
from gradalign.nn.aed import AED, FEATURES_LEAF
from gradalign.nn.config import AEDConfig
from gradalign.placement import place
from gradalign.readout import gradient_saliency, leaf_depth
from gradalign.training.checkpoint import TrainState
from gradalign.training.config import AugmentConfig, LossConfig, OptimizerConfig, RemedyConfig, TrainConfig
from gradalign.training.loop import settings_of, shares_at, update
from gradalign.training.optimizer import optimizer

REMEDIES = ("none", "ctc", "inner-ctc", "late-self-attention", "centre-attention", "diagonal-bias")
METHODS = ("gradient", "gradient at encoder", "attention", "ctc")


def config_of(args: argparse.Namespace, task: Task, remedy: str, seed: int) -> TrainConfig:
    """The run of a remedy: what `gradalign train` would be told in a TOML file."""
    network = AEDConfig(
        n_mels=task.n_mels,
        vocabulary=task.n_labels + 1,
        dim=args.dim,
        heads=4,
        encoder_layers=args.layers,
        decoder_layers=args.decoder_layers,
        feed_forward_dim=4 * args.dim,
        conv_kernel=args.kernel,
        stem_channels=8,
        dropout=args.dropout,
        positions=args.positions,
        diagonal_bias=args.bias if remedy == "diagonal-bias" else 0.0,
    )
    middle = tuple(sorted({max(1, args.layers // 3), max(1, 2 * args.layers // 3)} - {args.layers}))
    losses = {
        "ctc": LossConfig(ctc=0.3, label_smoothing=args.smoothing),
        "inner-ctc": LossConfig(ctc=0.3, ctc_blocks=middle, ctc_blocks_share=0.5, label_smoothing=args.smoothing),
    }
    early = args.steps // 10
    remedies = {
        "late-self-attention": RemedyConfig(self_attention_from=early),
        "centre-attention": RemedyConfig(centre_attention_until=early, centre_attention_fade=early // 2),
    }
    return TrainConfig(
        name=f"{remedy}-{seed}",
        steps=args.steps,
        seed=seed,
        network=network,
        features=task.features,
        augment=AugmentConfig(share=0.0),
        loss=losses.get(remedy, LossConfig(ctc=0.0, label_smoothing=args.smoothing)),
        remedies=remedies.get(remedy, RemedyConfig()),
        optimizer=OptimizerConfig(peak=args.peak, warmup=min(args.warmup, args.steps // 2), average=0.99),
    )


def run(args: argparse.Namespace, task: Task, remedy: str, seed: int) -> dict[str, Any]:
    """Train one network and say what became of it."""
    config = config_of(args, task, remedy, seed)
    bundle = Bundle(config.name, AED(config.network, rngs=nnx.Rngs(seed)), config.features, task.labels)
    graph, params = nnx.split(bundle.network)
    tx = optimizer(config.optimizer, config.steps)
    state = TrainState(params, jax.tree.map(jnp.copy, params), tx.init(params))
    probe = [example(task, np.random.default_rng([10**6, i])) for i in range(args.probes)]
    key, began, history = jax.random.key(seed), time.monotonic(), []
    for step in range(1, config.steps + 1):
        state, metrics = update(
            state,
            batch(task, args.batch, seed, step),
            jax.random.fold_in(key, step),
            shares_at(config, step),
            graph=graph,
            tx=tx,
            settings=settings_of(config, salient=False),
        )
        if step % args.watch == 0 or step == config.steps:
            nnx.update(bundle.network, jax.tree.map(jnp.copy, state.params))
            seen = inspected(bundle, task, probe).measures
            history.append(
                {
                    "step": step,
                    "loss": float(metrics["loss"]),
                    "accuracy": float(metrics["accuracy"]),
                    "cross_direction": float(seen.cross_direction[-1]),
                    "cross_flip": float(seen.cross_flip[-1]),
                    "label_flip": np.round(seen.label_flip, 4).tolist(),
                    "frame_flip": np.round(seen.frame_flip, 4).tolist(),
                    "self_attention_norm": np.round(seen.dominance[:, 1], 4).tolist(),
                }
            )
            say(f"{config.name} {step}/{config.steps}: accuracy {history[-1]['accuracy']:.2f}, cross-attention "
                f"{history[-1]['cross_direction']:+.2f}, {time.monotonic() - began:.0f} s")  # fmt: skip
    minutes = (time.monotonic() - began) / 60
    nnx.update(bundle.network, jax.tree.map(jnp.copy, state.averaged))
    test = [example(task, np.random.default_rng([10**6 + 1, i])) for i in range(args.tests)]
    report = inspected(bundle, task, test[: args.probes])
    if args.figures is not None:
        args.figures.mkdir(parents=True, exist_ok=True)
        draw(report, path=args.figures / f"{config.name}.png")
        draw_history(history, config.name, args.figures / f"{config.name}-training.png")
    if args.models is not None:
        save(bundle, args.models / config.name)
    return {
        "remedy": remedy,
        "seed": seed,
        "order": report.order.order,
        "block": report.order.block,
        "verdict": str(report.order),
        "minutes": round(minutes, 2),
        "label_error_rate": label_error_rate(bundle, test),
        "tse_ms": alignment_errors(bundle, task, test, with_ctc=config.loss.ctc > 0),
        "measures": report.to_dict()["measures"],
        "history": history,
    }


def inspected(bundle: Bundle, task: Task, utterances: list[Example]) -> Health:
    """The health report on some utterances of the task."""
    return health(bundle, [examine(bundle, e.features, e.transcript(task).labels, name="task") for e in utterances])


def label_error_rate(bundle: Bundle, test: list[Example]) -> float:
    """Of greedy decoding by the attention decoder alone."""
    from gradalign.recognition import greedy

    heard = greedy(bundle.network, [e.features for e in test])
    errors = [
        edit_distance(e.labels.tolist(), list(found.attention)) for e, found in zip(test, heard, strict=True)
    ]  # fmt: skip
    return PhoneErrors.pooled(errors).rate


def alignment_errors(bundle: Bundle, task: Task, test: list[Example], *, with_ctc: bool) -> dict[str, float | None]:
    """Time stamp error of each method in milliseconds, plain methods, nothing tuned; None where it does not apply."""
    found: dict[str, float | None] = dict.fromkeys(METHODS)
    for method in METHODS[: 4 if with_ctc else 3]:
        parts = []
        for e in test:
            try:
                parts.append(compare(e.reference(task), aligned(bundle, task, e, method), tier="phones"))
            except AlignmentError as error:
                say(f"{method}: {error}")
        found[method] = round(1000 * Comparison.pooled(parts).tse_s, 2) if parts else None
    return found


def aligned(bundle: Bundle, task: Task, e: Example, method: str):
    """One utterance aligned; the steps of docs/method.md, from features that are there already."""
    transcript = e.transcript(task)
    topology, grid = Topology.words(transcript.unit_of_label), bundle.grid
    n_encoder = -(-len(e.features) // bundle.network.config.subsampling)
    if method.startswith("gradient"):
        leaf = "encoder" if method.endswith("encoder") else "features"
        scores = log_saliency(jnp.asarray(gradient_saliency(bundle, e.features, e.labels, leaf=leaf)))
        if leaf_depth(leaf, bundle.network.config.encoder_layers) != FEATURES_LEAF:
            scores = upsample(scores, bundle.network.config.subsampling, len(e.features))
        scores, silence = normalise(scores, silence_score(scores))
    else:
        padded = np.pad(e.features, ((0, task.frames - len(e.features)), (0, 0)))
        labels = np.pad(e.labels, (0, task.length[1] - len(e.labels)))
        cross, ctc = _heard(*nnx.split(bundle.network), padded, labels, len(e.features))
        grid = bundle.encoder_grid
        if method == "ctc":
            topology = Topology.ctc(e.labels.tolist())
            scores, silence = ctc_scores(jnp.asarray(ctc)[:n_encoder], jnp.asarray(e.labels))
        else:
            topology = Topology.no_silence(len(e.labels))
            scores = attention_scores(jnp.asarray(cross)[: len(e.labels), :n_encoder])
            silence = jnp.full(n_encoder, -1e3)
    return place(transcript, scores, silence, grid=grid, duration=e.duration_s(task), topology=topology)


@partial(jax.jit, static_argnames="graph")
def _heard(graph, state, features, labels, n_frames):
    """Cross-attention of the last decoder layer, mean over heads, and posteriors of the CTC head."""
    seen = nnx.merge(graph, state).intermediates(features, labels, n_frames)
    return seen.cross_attention[-1].mean(axis=0), seen.ctc_log_probs


def draw_history(history: list[dict[str, Any]], name: str, path: Path) -> None:
    """What happened while a run trained: the figure of the flip, as in section 4 of the paper."""
    from matplotlib.figure import Figure

    steps = [h["step"] for h in history]
    figure = Figure(figsize=(11, 7), layout="constrained")
    top, blocks, norms = figure.subplots(3, sharex=True)
    top.plot(steps, [h["cross_direction"] for h in history], label="direction of cross-attention")
    top.plot(steps, [h["accuracy"] for h in history], label="accuracy of the decoder")
    for k, flips in enumerate(zip(*(h["label_flip"][1:] for h in history), strict=True)):
        blocks.plot(steps, flips, label="stem" if k == 0 else f"block {k}")
    for k, values in enumerate(zip(*(h["self_attention_norm"] for h in history), strict=True), start=1):
        norms.plot(steps, values, label=f"block {k}")
    top.set_title(name, loc="left", fontsize=10)
    blocks.set_ylabel("flip index of saliency")
    norms.set_ylabel("self-attention / stream")
    norms.set_xlabel("update")
    for axes in (top, blocks, norms):
        axes.axhline(0, color="black", linewidth=0.5)
        axes.legend(fontsize=6, ncols=2, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def table(results: list[dict[str, Any]]) -> str:
    """One line a remedy, then one line a run."""

    def mean(rows: list[dict[str, Any]], of: Callable[[dict[str, Any]], float | None]) -> str:
        values = [v for v in map(of, rows) if v is not None]
        return f"{np.mean(values):.1f}" if values else "-"

    head = ["remedy", "runs", "reversed", "mixed", "LER %", *(f"{m}, TSE ms" for m in METHODS), "minutes"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    groups = [(remedy, [r for r in results if r["remedy"] == remedy]) for remedy in REMEDIES]
    groups += [(f"all {order}", [r for r in results if r["order"] == order]) for order in ("kept", "reversed", "mixed")]
    for name, rows in groups:
        if rows:
            counts = [sum(r["order"] == order for r in rows) for order in ("reversed", "mixed")]
            cells = [name, str(len(rows)), *map(str, counts), mean(rows, lambda r: 100 * r["label_error_rate"])]
            cells += [mean(rows, lambda r, m=m: r["tse_ms"][m]) for m in METHODS]
            lines.append("| " + " | ".join([*cells, mean(rows, lambda r: r["minutes"])]) + " |")
    lines.append("")
    for r in results:
        errors = ", ".join(f"{m} {v:.0f} ms" for m, v in r["tse_ms"].items() if v is not None)
        lines.append(
            f"{r['remedy']}, seed {r['seed']}: {r['verdict']}; LER {100 * r['label_error_rate']:.1f} %, TSE {errors}"
        )
    return "\n".join(lines)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    task = Task()
    parser.add_argument("--remedies", nargs="+", choices=REMEDIES, default=list(REMEDIES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=2000, help="updates of a run")
    parser.add_argument("--batch", type=int, default=24, help="utterances of an update")
    parser.add_argument("--layers", type=int, default=6, help="Conformer blocks")
    parser.add_argument("--decoder-layers", type=int, default=1)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--kernel", type=int, default=7, help="taps of the depthwise convolution")
    parser.add_argument("--positions", choices=("relative", "absolute", "both", "none"), default="relative")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--smoothing", type=float, default=0.1, help="of labels")
    parser.add_argument("--peak", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--warmup", type=int, default=200, help="updates")
    parser.add_argument("--bias", type=float, default=4.0, help="on the diagonal, for the remedy diagonal-bias")
    parser.add_argument("--length", type=int, nargs=2, default=task.length, help="labels of an utterance")
    parser.add_argument("--segment", type=int, nargs=2, default=task.segment, help="frames of a label")
    parser.add_argument("--silence", type=int, nargs=2, default=task.silence, help="frames of silence at each end")
    parser.add_argument("--noise", type=float, default=task.noise)
    parser.add_argument("--watch", type=int, default=100, help="updates between measurements")
    parser.add_argument("--probes", type=int, default=4, help="utterances that a network is inspected on")
    parser.add_argument("--tests", type=int, default=40, help="utterances that it is scored on")
    parser.add_argument("--json", type=Path, help="results; runs that are there already are not made again")
    parser.add_argument("--figures", type=Path, help="folder for a page a run, and a figure of its training")
    parser.add_argument("--models", type=Path, help="folder for the trained models")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    task = Task(
        length=tuple(args.length), segment=tuple(args.segment), silence=tuple(args.silence), noise=args.noise
    )  # fmt: skip
    unimportant = ("remedies", "seeds", "json", "figures", "models")
    settings = {k: v for k, v in vars(args).items() if k not in unimportant}
    settings = json.loads(json.dumps({**settings, **dataclasses.asdict(task)}))
    results: list[dict[str, Any]] = []
    if args.json is not None and args.json.exists():
        before = json.loads(args.json.read_text("utf-8"))
        if before["settings"] != settings:
            sys.exit(f"{args.json} holds a study with other settings; choose another file")
        results = before["results"]
    for remedy in args.remedies:
        for seed in args.seeds:
            if any((r["remedy"], r["seed"]) == (remedy, seed) for r in results):
                continue
            results.append(run(args, task, remedy, seed))
            say(table(results[-1:]).splitlines()[-1])
            if args.json is not None:
                args.json.write_text(json.dumps({"settings": settings, "results": results}, indent=1) + "\n", "utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
