"""Train a Conformer AED + CTC on manifests: ``python -m gradalign.training.train --help``.

Kept plain on purpose: one process, one file of metrics, a checkpoint every few hundred steps.
"""

import argparse
import json
import logging
import queue
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from gradalign.bundle import Bundle, load, save
from gradalign.features import LogMel
from gradalign.gradients import saliency
from gradalign.lexicon import PHONES
from gradalign.nn.aed import AED
from gradalign.nn.config import AEDConfig
from gradalign.training.augment import augment
from gradalign.training.data import Batch, batches, read_corpora

CTC_WEIGHT = 0.3
LABEL_SMOOTHING = 0.1
AUGMENTED = 0.6
SALIENCY_EXAMPLES = 10
SALIENCY_LABELS = 4


def losses(
    network: AED, batch: Batch, key: jax.Array, strength: jax.Array, guide: jax.Array, saliency_weight: float = 0.0
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss a label: smoothed cross-entropy of the decoder and CTC, and the decoder's accuracy."""
    n = batch.features.shape[0]
    keys = jax.random.split(key, (n, 3))
    features, n_frames = jnp.asarray(batch.features), jnp.asarray(batch.n_frames)
    features, n_frames, rates = jax.vmap(augment, (0, 0, None, 0))(features, n_frames, strength, keys[:, 0])
    # Half of the examples start at position 0, as all do later; the others at positions that only long
    # recordings reach.
    position = jnp.floor(jnp.maximum(jax.vmap(jax.random.uniform)(keys[:, 1]) * 600.0 - 300.0, 0.0)) * (strength > 0)

    def one(x, t, y, p, k):
        return network.training_log_probs(x, t, y, p, k)

    log_probs, ctc_log_probs, attention = jax.vmap(one)(features, n_frames, batch.labels, position, keys[:, 2])
    n_positions = batch.labels.shape[1] + 1
    at = jnp.arange(n_positions)[None, :]
    counted = at <= batch.n_labels[:, None]
    target = jnp.where(at < batch.n_labels[:, None], jnp.pad(batch.labels, ((0, 0), (0, 1))), 0)
    chosen = jnp.take_along_axis(log_probs, target[:, :, None], axis=2)[:, :, 0]
    smoothed = (1 - LABEL_SMOOTHING) * chosen + LABEL_SMOOTHING * log_probs.mean(-1)
    total = batch.n_labels.sum()
    attention_loss = -(smoothed * counted).sum() / total
    frame_pad = jnp.arange(ctc_log_probs.shape[1])[None, :] >= -(-n_frames // 4)[:, None]
    label_pad = jnp.arange(batch.labels.shape[1])[None, :] >= batch.n_labels[:, None]
    ctc = optax.ctc_loss(ctc_log_probs, frame_pad.astype(jnp.float32), batch.labels, label_pad.astype(jnp.float32))
    ctc_loss = jnp.minimum(ctc, 20.0 * batch.n_labels).sum() / total
    right = ((log_probs.argmax(-1) == target) & counted).sum() / counted.sum()
    loss = (1 - CTC_WEIGHT) * attention_loss + CTC_WEIGHT * ctc_loss
    frame_loss, guide_loss = timing_losses(batch, rates, ctc_log_probs, attention)
    loss = loss + guide * (frame_loss + guide_loss)
    salient = jnp.zeros(())
    if saliency_weight > 0:
        salient = saliency_loss(network, batch, features, n_frames, rates, jax.random.fold_in(key, 1))
        loss = loss + saliency_weight * salient
    return loss, {
        "loss": loss,
        "frame": frame_loss,
        "guide": guide_loss,
        "saliency": salient,
        "attention": attention_loss,
        "ctc": ctc_loss,
        "accuracy": right,
    }


def timing_losses(
    batch: Batch, rates: jax.Array, ctc_log_probs: jax.Array, attention: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """What exact times teach a network that does not know speech yet; both are a mean over labels.

    Without them the CTC head predicts blank for its first thousand steps, and attention wanders for
    thousands more. The trainer takes them away early on.

    Returns:
        The cross-entropy of the CTC head inside labels, and minus the log of the attention mass that
        falls on the label or at most two encoder frames beside it.
    """
    spans = batch.spans / rates[:, None, None]
    known = (batch.spans[:, :, 0] >= 0)[:, :, None]
    centre = 4.0 * jnp.arange(ctc_log_probs.shape[1])[None, None, :]
    inside = known & (spans[:, :, :1] <= centre) & (centre < spans[:, :, 1:])
    spoken = jnp.take_along_axis(ctc_log_probs, batch.labels[:, None, :], axis=2).transpose(0, 2, 1)
    frame_loss = -(spoken * inside).sum() / jnp.maximum(inside.sum(), 1)
    near = known & (spans[:, :, :1] - 8.0 <= centre) & (centre < spans[:, :, 1:] + 8.0)
    mass = (attention[:, :-1] * near).sum(-1)
    guide_loss = -(jnp.log(mass + 0.01) * known[:, :, 0]).sum() / jnp.maximum(known.sum(), 1)
    return frame_loss, guide_loss


def saliency_loss(network: AED, batch: Batch, features: Any, n_frames: Any, rates: Any, key: jax.Array) -> jax.Array:
    """How far the saliency of labels strays from their true intervals.

    For a few random labels of each example with known times: the cross-entropy between the share of the
    label's saliency (L2 norm at the log-mel frames) at each frame and the uniform distribution over the
    frames of its interval. The saliency is a gradient, so this is differentiated twice.
    """
    spans = batch.spans / rates[:, None, None]
    known = batch.spans[:, :, 0] >= 0
    frame = jnp.arange(features.shape[1])[None, :]

    def one(x, n, labels, known, spans, key):
        # Random labels with known times first.
        order = jax.random.uniform(key, known.shape) - known
        chosen = jnp.argsort(order)[:SALIENCY_LABELS]
        found = saliency(lambda y: network.label_log_probs(y, labels, n)[chosen], x, chunk=SALIENCY_LABELS)
        share = found / (found.sum(1, keepdims=True) + 1e-20) + 1e-8
        first, last = spans[chosen, 0][:, None], spans[chosen, 1][:, None]
        inside = (frame >= first) & (frame < last) & (frame < n)
        target = inside / jnp.maximum(inside.sum(1, keepdims=True), 1)
        return -(target * jnp.log(share)).sum(1) * known[chosen], known[chosen]

    m = min(SALIENCY_EXAMPLES, features.shape[0])
    keys = jax.random.split(key, m)
    loss, counted = jax.vmap(one)(features[:m], n_frames[:m], batch.labels[:m], known[:m], spans[:m], keys)
    return loss.sum() / jnp.maximum(counted.sum(), 1)


def optimizer(peak: float, warmup: int, steps: int) -> optax.GradientTransformation:
    """AdamW with clipping, linear warm-up and a cosine to a fiftieth of the peak."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, peak, warmup, steps, peak / 50)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98, weight_decay=1e-2))


@partial(
    jax.jit,
    static_argnames=("graph", "tx", "saliency_weight", "ema"),
    donate_argnames=("params", "averaged", "moments"),
)
def train_step(
    graph: Any,
    tx: Any,
    params: Any,
    averaged: Any,
    moments: Any,
    batch: Any,
    key: jax.Array,
    strength: jax.Array,
    guide: jax.Array,
    saliency_weight: float,
    ema: float,
):
    """One update; returns new parameters, their running mean, optimizer state and metrics."""

    def loss_of(params):
        return losses(nnx.merge(graph, params), Batch(*batch), key, strength, guide, saliency_weight)

    grads, metrics = jax.grad(loss_of, has_aux=True)(params)
    metrics["grad_norm"] = optax.global_norm(grads)
    updates, moments = tx.update(grads, moments, params)
    params = optax.apply_updates(params, updates)
    averaged = jax.tree.map(lambda a, p: ema * a + (1 - ema) * p, averaged, params)
    return params, averaged, moments, metrics


def prefetched(source, depth: int = 4):
    """The same items, prepared by a thread while the step runs."""
    ready: queue.Queue = queue.Queue(depth)

    def work():
        try:
            for item in source:
                ready.put(item)
        except BaseException as error:  # goes to the one who waits, who would wait for ever
            ready.put(error)

    threading.Thread(target=work, daemon=True).start()
    while True:
        item = ready.get()
        if isinstance(item, BaseException):
            raise item
        yield item


def train(args: argparse.Namespace) -> None:
    """Run the whole training and leave a model folder at every checkpoint."""
    config = AEDConfig()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    network = AED(config, rngs=nnx.Rngs(args.seed))
    bundle = Bundle(args.name, network, LogMel(), PHONES)
    corpora = []
    for spec in args.data:
        path, _, weights = spec.partition(":")
        parsed = {k: float(v) for k, v in (pair.split("=") for pair in weights.split(","))}
        corpora += read_corpora(Path(path), parsed, bundle, Path(args.cache))
    graph, params = nnx.split(network)
    if args.init:
        graph, params = nnx.split(load(args.init).network)
    averaged = jax.tree.map(jnp.copy, params)
    tx = optimizer(args.peak, args.warmup, args.steps)
    moments = tx.init(params)
    key, stream = (
        jax.random.key(args.seed),
        prefetched(batches(corpora, args.seed, easy=args.steps if args.short else args.easy)),
    )
    log = (out / "metrics.jsonl").open("a")
    started, window, frames = time.time(), [], 0
    for step in range(1, args.steps + 1):
        batch = next(stream)
        arrays = (batch.features, batch.n_frames, batch.labels, batch.n_labels, batch.spans)
        params, averaged, moments, metrics = train_step(
            graph,
            tx,
            params,
            averaged,
            moments,
            arrays,
            jax.random.fold_in(key, step),
            jnp.float32(AUGMENTED * np.clip((step - args.easy) / max(args.easy, 1), 0, 1)),
            jnp.float32(np.clip(2 - step / args.guided, 0, 1) if args.guided else 0.0),
            args.saliency,
            args.ema,
        )
        values = {k: float(v) for k, v in metrics.items()}
        if not np.isfinite(values["loss"]):
            raise FloatingPointError(f"step {step}: the loss is {values['loss']}; the last checkpoint is in {out}")
        window.append(values)
        frames += int(batch.n_frames.sum())
        if step % args.report == 0 or step == 1:
            mean = {k: round(float(np.mean([v[k] for v in window])), 4) for k in values}
            elapsed = time.time() - started
            line = {"step": step, "s": round(elapsed), "hours": round(frames / 360000, 2), **mean}
            print(json.dumps(line), flush=True)
            print(json.dumps(line), file=log, flush=True)
            window = []
        if step % args.save == 0 or step == args.steps:
            nnx.update(network, averaged)
            save(bundle, out / f"step-{step}")


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data",
        nargs="+",
        required=True,
        metavar="MANIFEST:SET=WEIGHT,...",
        help="manifests and the share of batches drawn from each of their sets",
    )
    parser.add_argument("--out", required=True, help="folder for checkpoints and metrics.jsonl")
    parser.add_argument("--cache", required=True, help="folder for cached features")
    parser.add_argument("--name", default="en-us", help="name of the model")
    parser.add_argument("--init", help="model to start from")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--warmup", type=int, default=500)
    parser.add_argument(
        "--easy",
        type=int,
        default=600,
        help="first steps with single short utterances and no augmentation, which then grows as long",
    )
    parser.add_argument(
        "--guided",
        type=int,
        default=600,
        help="first steps that learn from exact times; the same number again fades this out",
    )
    parser.add_argument(
        "--saliency", type=float, default=0.0, help="weight of the saliency loss on examples with exact times (slow)"
    )
    parser.add_argument("--short", action="store_true", help="only single short utterances throughout")
    parser.add_argument("--ema", type=float, default=0.998, help="decay of the running mean of the parameters")
    parser.add_argument("--peak", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--report", type=int, default=20, help="steps between printed metrics")
    parser.add_argument("--save", type=int, default=250, help="steps between checkpoints")
    parser.add_argument("--seed", type=int, default=1)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
