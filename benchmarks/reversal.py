"""Do small encoders without CTC reverse time, which remedy prevents it, and what does it cost the alignment?

    python benchmarks/reversal.py --probe --json probe.json               # does it happen by itself? 40 minutes
    python benchmarks/reversal.py --json reversal.json --figures pages/   # the study: an hour and a half on one core

Each run trains a Conformer attention encoder-decoder on the task of `reversal_task`, by the updates of
`gradalign train`, and is then inspected and scored on utterances it never saw: label error rate of greedy decoding, and
the time stamp error (TSE) of alignments by gradients at the features and at the encoder's output, by cross-attention,
and by CTC where it was trained. While it trains, the direction of cross-attention, the flip index of each block and
the norm of its self-attention are noted.

`--probe` makes many kinds of short runs, to see in which direction cross-attention settles. None reversed time, so the
study provokes it: in the first updates the network is taught times (`loss.guided_steps`) as if time ran backwards: they
say where cross-attention looks and what the encoder has there; then no times are taught any more. No parameter is
written: the encoder has to learn to carry what it hears to the mirrored place, and whether it stays so is up to it. The
same schedule with true times makes straight models to compare with.

A run whose results are in the JSON file already is not made again, so that a study that was stopped goes on with the
same command.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from reversal_scores import CALIBRATED, METHODS, SHIFTED, alignment_errors, label_error_rate
from reversal_task import Example, Task, batch, example, mirrored

from gradalign.bundle import Bundle, save
from gradalign.inspection.health import Health, examine, health
from gradalign.inspection.page import draw
from gradalign.nn.aed import AED
from gradalign.nn.config import AEDConfig
from gradalign.training.checkpoint import TrainState
from gradalign.training.config import AugmentConfig, LossConfig, OptimizerConfig, RemedyConfig, TrainConfig
from gradalign.training.loop import settings_of, shares_at, update
from gradalign.training.optimizer import optimizer

REMEDIES = ("none", "ctc", "inner-ctc", "late-self-attention", "centre-attention", "diagonal-bias")
TAUGHT = ("nothing", "true times", "mirrored times")
"""What times the network is taught in the first updates."""

STUDY = {
    "nothing": ("none",),
    "true times": ("none",),
    "mirrored times": ("none", "ctc", "inner-ctc", "late-self-attention", "centre-attention", "diagonal-bias"),
}
"""Remedies tried by default."""

BARS = {"gradient": ("<=", 1.2), SHIFTED: ("<=", 1.2), CALIBRATED: ("<=", 1.2), "attention": (">=", 5.0)}
"""For the time stamp error of reversed models over that of straight ones, by method."""

PROBES: dict[str, dict[str, Any]] = {
    "as in the study": {},
    "decoder without marks": {"memory_positions": False},
    "the same, relative positions": {"memory_positions": False, "positions": "relative"},
    "the same, learning rate 4e-3": {"memory_positions": False, "peak": 4e-3},
    "the same, silence of 16 to 40 frames": {"memory_positions": False, "silence": (16, 40)},
    "the same, bias of -4 on the diagonal": {"memory_positions": False, "bias": -4.0, "remedy": "diagonal-bias"},
    "the same, absolute positions": {"memory_positions": False, "positions": "absolute"},
    "the same, 12 blocks": {"memory_positions": False, "layers": 12},
    "relative positions, with marks": {"positions": "relative"},
    "no positions, with marks": {"positions": "none"},
}
"""Short runs, and how each differs from those of the study; "the same" but for one thing without the decoder's marks,
which say where a frame is (`AEDConfig.memory_positions`)."""


def config_of(args: argparse.Namespace, task: Task, remedy: str, seed: int, taught: str) -> TrainConfig:
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
        memory_positions=args.memory_positions,
    )
    middle = tuple(sorted({max(1, args.layers // 3), max(1, 2 * args.layers // 3)} - {args.layers}))
    loss = LossConfig(
        ctc=0.0,
        label_smoothing=args.smoothing,
        guided_steps=0 if taught == "nothing" else args.taught_steps,
    )
    losses = {
        "ctc": dataclasses.replace(loss, ctc=0.3),
        "inner-ctc": dataclasses.replace(loss, ctc=0.3, ctc_blocks=middle, ctc_blocks_share=0.5),
    }
    # While there is anything to provoke it, or for the first tenth.
    early = 2 * args.taught_steps if taught != "nothing" else args.steps // 10
    remedies = {
        "late-self-attention": RemedyConfig(self_attention_from=early),
        "centre-attention": RemedyConfig(centre_attention_until=early, centre_attention_fade=early // 2),
    }
    return TrainConfig(
        name=f"{taught}-{remedy}-{seed}".replace(" times", ""),
        steps=args.steps,
        seed=seed,
        network=network,
        features=task.features,
        augment=AugmentConfig(share=0.0),
        loss=losses.get(remedy, loss),
        remedies=remedies.get(remedy, RemedyConfig()),
        optimizer=OptimizerConfig(peak=args.peak, warmup=min(args.warmup, args.steps // 2), average=0.99),
    )


_optimizer = lru_cache(optimizer)
"""So that all runs of one length share their compiled program."""


def run(args: argparse.Namespace, remedy: str, seed: int, taught: str, *, scored: bool = True) -> dict[str, Any]:
    """Train one network and say what became of it."""
    task = task_of(args)
    config = config_of(args, task, remedy, seed, taught)
    bundle = Bundle(config.name, AED(config.network, rngs=nnx.Rngs(seed)), config.features, task.labels)
    graph, params = nnx.split(bundle.network)
    tx = _optimizer(config.optimizer, config.steps)
    state = TrainState(params, jax.tree.map(jnp.copy, params), tx.init(params))
    probe = [example(task, np.random.default_rng([10**6, i])) for i in range(args.probes)]
    key, began, history = jax.random.key(seed), time.monotonic(), []
    for step in range(1, (args.stop or config.steps) + 1):
        examples = batch(task, args.batch, seed, step)
        state, metrics = update(
            state,
            mirrored(examples) if taught == "mirrored times" else examples,
            jax.random.fold_in(key, step),
            shares_at(config, step),
            graph=graph,
            tx=tx,
            settings=settings_of(config, salient=False),
        )
        if step % args.watch == 0:
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
    result = {"taught": taught, "remedy": remedy, "seed": seed, "minutes": round(minutes, 2)}
    if scored:  # of a run that was stopped early, the running mean is not there yet
        nnx.update(bundle.network, jax.tree.map(jnp.copy, state.averaged))
    test = [example(task, np.random.default_rng([10**6 + 1, i])) for i in range(args.tests)]
    report = inspected(bundle, task, test[: args.probes])
    order = {"order": report.order.order, "block": report.order.block, "verdict": str(report.order)}
    result |= order | {"measures": report.to_dict()["measures"], "history": history}
    if scored:
        result["label_error_rate"] = label_error_rate(bundle, test)
        result["tse_ms"] = alignment_errors(bundle, task, test, with_ctc=config.loss.ctc > 0)
    if args.figures is not None:
        args.figures.mkdir(parents=True, exist_ok=True)
        draw(report, path=args.figures / f"{config.name}.png")
        draw_history(history, args.figures / f"{config.name}-training.png")
    if args.models is not None:
        save(bundle, args.models / config.name)
    return result


def inspected(bundle: Bundle, task: Task, utterances: list[Example]) -> Health:
    """The health report on some utterances of the task."""
    return health(bundle, [examine(bundle, e.features, e.transcript(task).labels, name="task") for e in utterances])


def draw_history(history: list[dict[str, Any]], path: Path) -> None:
    """What happened while a run trained: the figure of the flip, as in section 4 of the paper."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    steps = [h["step"] for h in history]
    figure = Figure(figsize=(8, 7), layout="constrained")
    top, blocks, norms = figure.subplots(3, sharex=True)
    top.plot(steps, [h["cross_direction"] for h in history], label="direction of cross-attention")
    top.plot(steps, [h["accuracy"] for h in history], label="accuracy of the decoder")
    depths = ("features", "stem", *(f"block {k + 1}" for k in range(len(history[0]["self_attention_norm"]))))
    colours = colormaps["viridis"](np.linspace(0, 0.9, len(depths)))
    for depth, colour, flips in zip(
        depths, colours, zip(*(h["label_flip"] for h in history), strict=True), strict=True
    ):
        blocks.plot(steps, flips, label=depth, color=colour)
    own = zip(*(h["self_attention_norm"] for h in history), strict=True)
    for depth, colour, values in zip(depths[2:], colours[2:], own, strict=True):
        norms.plot(steps, values, label=depth, color=colour)
    top.set_ylabel("Spearman; share")
    blocks.set_ylabel("flip index of saliency")
    norms.set_ylabel("norm of self-attention / stream")
    norms.set_xlabel("update")
    for axes in (top, blocks, norms):
        axes.axhline(0, color="black", linewidth=0.5)
        axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def mean(rows: list[dict[str, Any]], of: Callable[[dict[str, Any]], float | None]) -> str:
    """Of what there is, for a cell."""
    values = [v for v in map(of, rows) if v is not None]
    return f"{np.mean(values):.1f}" if values else "-"


def markdown(rows: list[list[str]]) -> str:
    """A table whose first row is the head."""
    lines = ["| " + " | ".join(cells) + " |" for cells in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def falls(r: dict[str, Any]) -> bool:
    """Whether cross-attention clearly falls, whatever the verdict on the encoder."""
    return r["measures"]["cross_direction"][-1] < -0.5


def table(results: list[dict[str, Any]]) -> str:
    """Remedies by what was taught; what reversal costs; the bars; then one line a run."""
    errors = [*(f"{m}, TSE ms" for m in METHODS)]
    rows = [["taught at first", "remedy", "runs", "reversed", "mixed", "falling attention", "LER %", *errors]]
    for taught, remedy in product(TAUGHT, REMEDIES):
        if some := chosen(results, taught, remedy):
            counts = [len(chosen(some, taught, remedy, order)) for order in ("reversed", "mixed")]
            rows.append([taught, remedy, *map(str, (len(some), *counts, sum(map(falls, some)))), *_costs(some)])
    parts = [markdown(rows)]
    straight = chosen(results, "true times", "none", "kept")
    turned = chosen(results, "mirrored times", "none", "reversed")
    if straight and turned:
        rows = [["encoder", "runs", "LER %", *errors[:-1]]]
        rows += [[n, str(len(some)), *_costs(some)[:-1]] for n, some in (("straight", straight), ("reversed", turned))]
        parts += [markdown(rows), markdown(bars(results, straight, turned))]
    return "\n\n".join([*parts, "\n".join(map(line, results))])


def chosen(results: list[dict[str, Any]], taught: str, remedy: str, order: str | None = None) -> list[dict[str, Any]]:
    """Runs of one kind, and with one verdict if it is named."""
    some = [r for r in results if (r["taught"], r["remedy"]) == (taught, remedy)]
    return [r for r in some if order in (None, r["order"])]


def bars(
    results: list[dict[str, Any]], straight: list[dict[str, Any]], turned: list[dict[str, Any]]
) -> list[list[str]]:
    """What is to be reached, and whether it is."""
    rows = [["what", "measured", "bar", ""]]
    enough = min(len(straight), len(turned)) >= 3
    for method, (sign, bar) in BARS.items():
        above, below = (np.mean([r["tse_ms"][method] for r in some]) for some in (turned, straight))
        good = above <= bar * below if sign == "<=" else above >= bar * below
        name = f"TSE of reversed / straight, {method}"
        rows.append([name, f"{above / below:.2f}", f"{sign} {bar:g}", "met" if good and enough else "MISSED"])
    for remedy in REMEDIES[1:]:
        if some := chosen(results, "mirrored times", remedy):
            # A remedy that only blurs the verdict is none.
            n, kept = (len(chosen(some, "mirrored times", remedy, order)) for order in ("reversed", "kept"))
            good = kept == len(some) >= 5
            measured = f"{n} reversed, {len(some) - n - kept} mixed of {len(some)}"
            rows.append([f"with {remedy}", measured, "0 of >= 5", "met" if good else "MISSED"])
    return rows


def line(r: dict[str, Any]) -> str:
    """One run."""
    errors = ", ".join(f"{m} {v:.0f} ms" for m, v in r["tse_ms"].items() if v is not None)
    head = f"{r['taught']}, {r['remedy']}, seed {r['seed']}: {r['verdict']}"
    cross = f"cross-attention {r['measures']['cross_direction'][-1]:+.2f}"
    rate = f"LER {100 * r['label_error_rate']:.1f} %"
    return f"{head}; {cross}; {rate}; TSE {errors}; {r['minutes']:.1f} minutes"


def _costs(rows: list[dict[str, Any]]) -> list[str]:
    """Label error rate and time stamp errors."""
    return [
        mean(rows, lambda r: 100 * r["label_error_rate"]),
        *(mean(rows, lambda r, m=m: r["tse_ms"][m]) for m in METHODS),
    ]


def probe_table(results: list[dict[str, Any]]) -> str:
    """What became of short runs, a line for each kind."""
    rows = [["setting", "runs", "direction of cross-attention", "flip index of frames", "accuracy", "reversed"]]
    for kind in PROBES:
        if some := [r for r in results if r["kind"] == kind]:
            directions = ", ".join(f"{r['measures']['cross_direction'][-1]:+.2f}" for r in some)
            flips = ", ".join(f"{r['measures']['frame_flip'][0]:+.2f}" for r in some)
            accuracy = ", ".join(f"{r['history'][-1]['accuracy']:.2f}" for r in some)
            rows.append(
                [kind, str(len(some)), directions, flips, accuracy, str(sum(r["order"] == "reversed" for r in some))]
            )
    return markdown(rows)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Kept:
    """Results so far, in a file if there is one."""

    def __init__(self, path: Path | None, settings: dict[str, Any]):
        self.path, self.settings, self.results = path, settings, list[dict[str, Any]]()
        if path is not None and path.exists():
            before = json.loads(path.read_text("utf-8"))
            if before["settings"] != settings:
                sys.exit(f"{path} holds a study with other settings; choose another file")
            self.results = before["results"]

    def make(self, key: dict[str, Any], how: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """Make the run of this description unless it is there already."""
        if any(all(r[name] == value for name, value in key.items()) for r in self.results):
            return
        made = how(key) | key
        self.results.append(made)
        say(f"{key}: {made['verdict']}")
        if self.path is not None:
            written = {"settings": self.settings, "results": self.results}
            self.path.write_text(json.dumps(written, indent=1) + "\n", "utf-8")


def task_of(args: argparse.Namespace) -> Task:
    """The task that the options describe."""
    return Task(length=tuple(args.length), segment=tuple(args.segment), silence=tuple(args.silence), noise=args.noise)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    task = Task()
    parser.add_argument(
        "--probe", action="store_true", help="short runs of many kinds, not scored, in place of the study"
    )
    parser.add_argument("--taught", nargs="+", choices=TAUGHT, default=list(TAUGHT), help="at first")
    parser.add_argument("--remedies", nargs="+", choices=REMEDIES, help="default: those of the study")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--taught-steps", type=int, default=150, help="updates; as many again fade it out")
    parser.add_argument("--steps", type=int, default=800, help="updates of a run")
    parser.add_argument("--stop", type=int, default=0, help="update to stop at before that; 0 for none")
    parser.add_argument("--batch", type=int, default=16, help="utterances of an update")
    parser.add_argument("--layers", type=int, default=4, help="Conformer blocks")
    parser.add_argument("--decoder-layers", type=int, default=1)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--kernel", type=int, default=7, help="taps of the depthwise convolution")
    parser.add_argument("--positions", choices=("relative", "absolute", "both", "none"), default="both")
    parser.add_argument(
        "--memory-positions", action=argparse.BooleanOptionalAction, default=True, help="in the decoder"
    )
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--smoothing", type=float, default=0.1, help="of labels")
    parser.add_argument("--peak", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--warmup", type=int, default=200, help="updates")
    parser.add_argument("--bias", type=float, default=4.0, help="on the diagonal, for the remedy diagonal-bias")
    parser.add_argument("--length", type=int, nargs=2, default=task.length, help="labels of an utterance")
    parser.add_argument("--segment", type=int, nargs=2, default=task.segment, help="frames of a label")
    parser.add_argument("--silence", type=int, nargs=2, default=task.silence, help="frames of silence at each end")
    parser.add_argument("--noise", type=float, default=task.noise)
    parser.add_argument("--watch", type=int, default=50, help="updates between measurements")
    parser.add_argument("--probes", type=int, default=4, help="utterances that a network is inspected on")
    parser.add_argument("--tests", type=int, default=40, help="utterances that it is scored on")
    parser.add_argument("--json", type=Path, help="results; runs that are there already are not made again")
    parser.add_argument("--figures", type=Path, help="folder for a page a run, and a figure of its training")
    parser.add_argument("--models", type=Path, help="folder for the trained models")
    return parser.parse_args()


def study(args: argparse.Namespace, kept: Kept) -> None:
    """Every remedy that was asked for, with what is taught at first."""
    for taught in args.taught:
        for remedy, seed in product(args.remedies or STUDY[taught], args.seeds):
            kept.make({"taught": taught, "remedy": remedy, "seed": seed}, lambda key: run(args, **key))
    print(table(kept.results))


def probe(args: argparse.Namespace, kept: Kept) -> None:
    """Short runs of all kinds."""
    for kind, seed in product(PROBES, args.seeds):
        short = {"stop": args.stop or 350, "length": (4, 8)}
        changed = argparse.Namespace(**{**vars(args), **short, **PROBES[kind]})
        remedy = PROBES[kind].get("remedy", "none")
        kept.make(
            {"kind": kind, "seed": seed},
            lambda key, a=changed, r=remedy: run(a, r, key["seed"], "nothing", scored=False),
        )
    print(probe_table(kept.results))


def main() -> None:
    args = arguments()
    unimportant = ("probe", "taught", "remedies", "seeds", "json", "figures", "models")
    settings = {k: v for k, v in vars(args).items() if k not in unimportant}
    kept = Kept(args.json, json.loads(json.dumps({**settings, **dataclasses.asdict(task_of(args))})))
    (probe if args.probe else study)(args, kept)


if __name__ == "__main__":
    main()
