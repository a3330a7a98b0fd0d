"""How well a network of the reversal study hears and aligns utterances that it never saw."""

import sys
from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from reversal_task import Example, Task, example

from gradalign import calibration
from gradalign._types import Method
from gradalign.alignment import Alignment, Interval, Tier
from gradalign.bundle import Bundle
from gradalign.calibrate import learn
from gradalign.calibration import Calibration
from gradalign.error_rate import PhoneErrors, edit_distance
from gradalign.errors import AlignmentError
from gradalign.lattice import Topology
from gradalign.metrics import Comparison, compare
from gradalign.nn.config import leaf_depth
from gradalign.placement import place, place_calibrated
from gradalign.plain import evidence
from gradalign.signals import Signals, chosen, depth_of, signal_names

SHIFTED, CALIBRATED = "gradient, shifted", "gradient, calibrated"
METHODS = ("gradient", SHIFTED, CALIBRATED, "gradient at encoder", "attention", "ctc")
"""Plain methods, of which nothing is learnt but in two. "Shifted" is earlier or later by what is right on average in
`SHIFTED_ON` other utterances; "calibrated" is what `gradalign calibrate` makes of the gradients at the features alone,
learnt on `CALIBRATED_ON` other ones."""

SHIFTED_ON, CALIBRATED_ON = 10, 32


def label_error_rate(bundle: Bundle, test: list[Example]) -> float:
    """Of greedy decoding by the attention decoder alone."""
    from gradalign.recognition import greedy

    heard = greedy(bundle.network, [e.features for e in test])
    errors = [
        edit_distance(e.labels.tolist(), list(found.attention)) for e, found in zip(test, heard, strict=True)
    ]  # fmt: skip
    return PhoneErrors.pooled(errors).rate


def alignment_errors(bundle: Bundle, task: Task, test: list[Example], *, with_ctc: bool) -> dict[str, float | None]:
    """Time stamp error of each of `METHODS` in milliseconds; None where it does not apply."""
    other = [example(task, np.random.default_rng([10**6 + 2, i])) for i in range(CALIBRATED_ON)]
    known = Comparison.pooled(
        [compare(e.reference(task), aligned(bundle, task, e, "gradient"), tier="phones") for e in other[:SHIFTED_ON]]
    )
    early = -(known.start_bias_s + known.end_bias_s) / 2
    learnt = calibrated_on(bundle, task, other)

    def by(method: str, e: Example) -> Alignment:
        if method == SHIFTED:
            return moved(aligned(bundle, task, e, "gradient"), early)
        if method == CALIBRATED:
            seen = signals_of(bundle, task, e, learnt.signals)
            return place_calibrated(
                e.transcript(task), seen, learnt, grid=task.features.grid, duration=e.duration_s(task)
            )[0]
        return aligned(bundle, task, e, method)

    found: dict[str, float | None] = dict.fromkeys(METHODS)
    for method in METHODS if with_ctc else METHODS[:-1]:
        parts = []
        for e in test:
            try:
                parts.append(compare(e.reference(task), by(method, e), tier="phones"))
            except AlignmentError as error:
                print(f"{method}: {error}", file=sys.stderr)
        found[method] = round(1000 * Comparison.pooled(parts).tse_s, 2) if parts else None
    return found


def aligned(bundle: Bundle, task: Task, e: Example, method: str) -> Alignment:
    """One utterance aligned from features that are there already; falling evidence is not refused here."""
    transcript = e.transcript(task)
    name, _, leaf = method.partition(" at ")
    depth = leaf_depth(leaf or "features", bundle.network.config.encoder_layers)
    scores, silence, topology, grid = evidence(bundle, e.features, transcript, cast(Method, name), depth, "l2", True)
    return place(transcript, scores, silence, grid=grid, duration=e.duration_s(task), topology=topology)


def moved(given: Alignment, by_s: float) -> Alignment:
    """The same phones, so much later; cut off at the ends of the recording, where at least 10 ms of each remain."""
    phones, longest = given.tier("phones"), given.duration
    by_s = float(np.clip(by_s, 0.01 - phones[0].end, longest - 0.01 - phones[-1].start))
    times = np.clip([(one.start + by_s, one.end + by_s) for one in phones], 0.0, longest).tolist()
    there = tuple(Interval(start, end, one.label) for (start, end), one in zip(times, phones, strict=True))
    return Alignment(longest, (Tier("phones", there),))


def calibrated_on(bundle: Bundle, task: Task, utterances: list[Example]) -> Calibration:
    """A calibration of the gradients at the features, as a whole and in parts of the bands."""
    config = bundle.network.config
    names = tuple(
        name for name in signal_names(config, ("gradient",)) if depth_of(name, config.encoder_layers) == -1
    )  # fmt: skip

    def known(e: Example) -> calibration.Example:
        seen = _padded(signals_of(bundle, task, e, names), task)
        n_labels, n_frames = len(e.labels), len(e.features)
        topology = Topology.words(np.arange(n_labels)).padded(task.length[1])
        path = np.pad(
            calibration.true_path(e.spans.astype(np.float64), n_frames), (0, task.frames - n_frames), constant_values=-1
        )
        classes = calibration.classes_of([task.labels[i - 1] for i in e.labels])
        return calibration.Example(
            seen,
            jnp.asarray(np.pad(classes, (0, task.length[1] - n_labels))),
            topology,
            jnp.asarray(calibration.true_mask(path, topology)),
            jnp.asarray(n_labels),
            jnp.asarray(n_frames),
        )

    examples = jax.tree.map(lambda *parts: jnp.stack(parts), *map(known, utterances))
    return Calibration(names, jax.tree.map(np.asarray, learn(examples)))


def signals_of(bundle: Bundle, task: Task, e: Example, names: tuple[str, ...]) -> Signals:
    """Some of the signals of one utterance."""
    features = np.pad(e.features, ((0, task.frames - len(e.features)), (0, 0)))
    labels = np.pad(e.labels, (0, task.length[1] - len(e.labels))).astype(np.int32)
    graph, state = nnx.split(bundle.network)
    seen = jax.tree.map(np.asarray, _signals(graph, state, features, labels, len(e.features), names=names))
    rows, columns = len(e.labels), len(e.features)
    return Signals(seen.scores[:, :rows, :columns], seen.cues[:, :columns], seen.sure[:rows])


@partial(jax.jit, static_argnames=("graph", "names"))
def _signals(graph, state, features, labels, n_frames, *, names):
    return chosen(nnx.merge(graph, state), features, labels, n_frames, names=names)


def _padded(seen: Signals, task: Task) -> Signals:
    labels, frames = task.length[1] - seen.scores.shape[1], task.frames - seen.scores.shape[2]
    return Signals(
        np.pad(seen.scores, ((0, 0), (0, labels), (0, frames))),
        np.pad(seen.cues, ((0, 0), (0, frames))),
        np.pad(seen.sure, ((0, labels), (0, 0))),
    )
