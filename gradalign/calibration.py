"""How a given model's evidence relates to true times: some thousand numbers, learnt from speech whose times are known.

The score of label s at frame t is a sum over signals k of ``gate_k(s) * (taps_k * x_k[s])(t)``, plus what the class of
the label says about the cues of the frames around; the time filters differ a little from class to class. Silence has
a score of its own from the cues and from how much evidence of speech there is, and a boundary those of what ends and
of what begins there. Together they are the potentials of a conditional random field over the paths of
`gradalign.lattice`, and are learnt by maximum conditional likelihood of the true path (Lafferty, McCallum and Pereira
2001, section 3), or of all paths that are true as far as is known.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gradalign.classifier import Classifier
from gradalign.errors import FormatError
from gradalign.io._files import write_text
from gradalign.lattice import Moves, Topology, forward_backward, spans
from gradalign.signals import CUES, Signals

UNTRUE = -1e3
"""Added to scores where a label or silence cannot be by the true times: far more than weighed evidence comes to."""

FORMAT, VERSION = "gradalign-calibration", 5
TAPS = 15
"""Frames that a time filter sees, its own in the middle."""

CLASSES = {
    "vowel": "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW",
    "stop": "P T K B D G",
    "fricative": "F TH S SH HH V DH Z ZH",
    "affricate": "CH JH",
    "nasal": "M N NG",
    "liquid": "L R W Y",
}
"""Phones by manner of articulation; a label of another kind is "other"."""

CLASS_NAMES = (*CLASSES, "other")


class Weights(NamedTuple):
    """What is learnt.

    Attributes:
        taps: Time filter of each signal; the middle tap is the frame itself, later taps see later frames.
        class_taps: What each class of labels adds to these: a stop is heard at its burst, a vowel all the time.
        gates: Bias and slopes of each signal's gate over how sure the model is of the label.
        cues: Time filters of the cues for each class of labels.
        constants: Of each class: a light prior on its length.
        silence: Time filters of the cues for silence.
        speech: What silence makes of the mean and of the largest label score of the frame, and a bias.
        opens: Time filters of the cues for the boundary where each class of labels begins; the last row is of silence.
        closes: For the boundary where it ends.
        first: Time filters of each signal of a label for the boundary where the label begins.
        last: For the boundary where it ends.
    """

    taps: Float[Array, "signals taps"]
    class_taps: Float[Array, "classes signals taps"]
    gates: Float[Array, "signals 3"]
    cues: Float[Array, "classes cues taps"]
    constants: Float[Array, " classes"]
    silence: Float[Array, "cues taps"]
    speech: Float[Array, " 3"]
    opens: Float[Array, "classes+1 cues taps"]
    closes: Float[Array, "classes+1 cues taps"]
    first: Float[Array, "signals taps"]
    last: Float[Array, "signals taps"]


@dataclass(frozen=True, slots=True)
class Calibration:
    """The weights of one set of signals.

    Attributes:
        signals: Names of the signals, as `gradalign.readout.names_of` gives them.
        weights: For these, in this order.
        confidence: Weights of `gradalign.confidence.of_words`, bias last; empty if it has learnt none.
        classifier: Of frames, if its signal is among them.
    """

    signals: tuple[str, ...]
    weights: Weights
    confidence: tuple[float, ...] = ()
    classifier: Classifier | None = None


def classifier_of(calibrations: Mapping[str, Calibration]) -> Classifier | None:
    """The classifier of frames that any of these weighs; there is one for a model at most."""
    return next((one.classifier for one in calibrations.values() if one.classifier is not None), None)


class Example(NamedTuple):
    """One utterance with its true paths, padded.

    Attributes:
        signals: Evidence of the signals that are used.
        classes: Index into `CLASS_NAMES` of each label.
        topology: Where silence may be.
        mask: Where silence (row 0) and each label may be by the true times; see `true_mask`.
        n_labels: Real labels.
        n_frames: Real frames.
    """

    signals: Signals
    classes: Int[Array, " labels"]
    topology: Topology
    mask: Bool[Array, "labels+1 frames"]
    n_labels: Int[Array, ""]
    n_frames: Int[Array, ""]


def classes_of(labels: Sequence[str]) -> Int[np.ndarray, " labels"]:
    """Index into `CLASS_NAMES` of each label."""
    table = {phone: i for i, phones in enumerate(CLASSES.values()) for phone in phones.split()}
    return np.array([table.get(label, len(CLASSES)) for label in labels], np.int32)


def initial(n_signals: int) -> Weights:
    """Every signal as it is, with equal weight; silence where the energy is low, and where nothing is heard around.

    The latter is prior knowledge: no synthetic speech has all the noises that people make between words, and the data
    leave this weight near its start.
    """
    taps = jnp.zeros((n_signals, TAPS)).at[:, TAPS // 2].set(1.0 / n_signals)
    silence = jnp.zeros((len(CUES), TAPS)).at[CUES.index("energy"), TAPS // 2].set(-0.2)
    silence = silence.at[CUES.index("blank-around"), TAPS // 2].set(2.0)
    return Weights(
        taps,
        jnp.zeros((len(CLASS_NAMES), n_signals, TAPS)),
        jnp.zeros((n_signals, 3)),
        jnp.zeros((len(CLASS_NAMES), len(CUES), TAPS)),
        jnp.zeros(len(CLASS_NAMES)),
        silence,
        jnp.array([0.0, 0.0, -1.0]),
        *jnp.zeros((2, len(CLASS_NAMES) + 1, len(CUES), TAPS)),
        *jnp.zeros((2, n_signals, TAPS)),
    )


def scores(
    weights: Weights,
    signals: Signals,
    classes: Int[Array, " labels"],
    n_labels: Int[Array, ""] | int,
) -> tuple[Float[Array, "labels frames"], Float[Array, " frames"]]:
    """Scores of labels and of silence, for the lattice.

    Args:
        weights: What was learnt.
        signals: Evidence of the signals that the weights are for.
        classes: Of each label, see `classes_of`.
        n_labels: Real labels.
    """
    seen, cues, sure = (jnp.asarray(part) for part in signals[:3])
    gate = 2.0 * jax.nn.sigmoid(jnp.concatenate([jnp.ones((sure.shape[0], 1)), sure], axis=1) @ weights.gates.T)
    chosen = _one_hot(classes)
    own = jnp.einsum("lc,csk->lsk", chosen, weights.class_taps, precision="highest")
    taps = gate[:, :, None] * (weights.taps[None] + own)
    by_class = _summed(jnp.einsum("cik,it->ckt", weights.cues, cues)) + weights.constants[:, None]
    found = _summed(jnp.einsum("lsk,slt->lkt", taps, seen)) + jnp.matmul(chosen, by_class, precision="highest")
    real = (jnp.arange(found.shape[0]) < n_labels)[:, None]
    mean = jnp.where(real, found, 0.0).sum(0) / n_labels
    largest = jnp.where(real, found, -1e9).max(0)
    quiet = _summed(jnp.einsum("ik,it->kt", weights.silence, cues))
    return found, quiet + weights.speech[0] * mean + weights.speech[1] * largest + weights.speech[2]


def moves(weights: Weights, signals: Signals, classes: Int[Array, " labels"]) -> Moves:
    """Scores of boundaries, for the lattice: of what ends there and of what begins, each by itself.

    Scores of frames add up to what changes at a boundary, of one sign where a label begins and of the other where it
    ends; only these can tell that there is one, as a peak of spectral change does. What the recording begins with has
    the score of its beginning at frame 0; what it ends with has none of its end.

    Args:
        weights: What was learnt.
        signals: Evidence of the signals that the weights are for.
        classes: Of each label, see `classes_of`.
    """
    seen, cues = jnp.asarray(signals.scores), jnp.asarray(signals.cues)
    chosen = _one_hot(classes)

    def of(heard: Array, felt: Array) -> tuple[Array, Array]:
        """Of each label, and of silence."""
        by_class = _summed(jnp.einsum("cik,it->ckt", felt, cues))
        own = _summed(jnp.einsum("sk,slt->lkt", heard, seen))
        return own + jnp.matmul(chosen, by_class[:-1], precision="highest"), by_class[-1:]

    begins, silence_begins = of(weights.first, weights.opens)
    ends, silence_ends = of(weights.last, weights.closes)
    before = jnp.concatenate([jnp.zeros((1, ends.shape[1])), ends])
    return Moves(touch=begins + before[:-1], start=begins + silence_ends, end=before + silence_begins)


def _one_hot(classes: Int[Array, " labels"]) -> Float[Array, "labels classes"]:
    """To choose by a product, whose gradient is a product again; that of indexing is many small additions."""
    return jax.nn.one_hot(classes, len(CLASS_NAMES))


def _summed(by_tap: Float[Array, "*rows taps frames"]) -> Float[Array, "*rows frames"]:
    """What time filters give, from what each of their taps makes of each frame; beyond the ends it is 0.

    Products first and shifts after them: a matrix product a label, instead of a pass over all signals a tap.
    """
    taps, n = by_tap.shape[-2:]
    padded = jnp.pad(by_tap, [(0, 0)] * (by_tap.ndim - 1) + [(taps // 2, taps // 2)])
    total = padded[..., 0, :n]
    for k in range(1, taps):
        total = total + padded[..., k, k : k + n]
    return total


def loss(weights: Weights, example: Example) -> Float[Array, ""]:
    """Minus the log-probability of the true paths together, a frame; >= 0."""
    found, silence = scores(weights, example.signals, example.classes, example.n_labels)
    return surprise(found, silence, moves(weights, example.signals, example.classes), example)


def surprise(
    found: Float[Array, "labels frames"], silence: Float[Array, " frames"], between: Moves, example: Example
) -> Float[Array, ""]:
    """`loss` from scores that are there already.

    Args:
        found: Scores of labels, as `scores` gives them.
        silence: Of silence.
        between: Of boundaries, as `moves` gives them.
        example: The utterance.
    """

    def log_total(penalty: Float[Array, "places frames"]) -> Float[Array, ""]:
        return forward_backward(
            found + penalty[1:],
            silence + penalty[0],
            example.topology,
            n_labels=example.n_labels,
            n_frames=example.n_frames,
            moves=between,
        ).log_total

    penalty = jnp.where(example.mask, 0.0, UNTRUE)
    return (log_total(jnp.zeros_like(penalty)) - log_total(penalty)) / example.n_frames


def true_path(edges: Float[np.ndarray, "labels 2"], n_frames: int) -> Int[np.ndarray, " frames"]:
    """Label at each frame by true times; -1 in silence.

    Args:
        edges: First and last edge of each label in frames, so that edge b lies before frame b; non-decreasing.
        n_frames: Length of the path.

    Returns:
        The path. A label shorter than a frame still has one, as long as there is room.
    """
    path = np.full(n_frames, -1, np.int32)
    at = 0
    for label, (first, last) in enumerate(np.round(edges).astype(int)):
        begin = max(first, at)
        end = min(max(last, begin + 1), n_frames)
        path[begin:end] = label
        at = end
    return path


def true_mask(
    path: Int[np.ndarray, " frames"], topology: Topology, slack: int = 0
) -> Bool[np.ndarray, "labels_and_silence frames"]:
    """Where silence and each label may be by times that are only nearly true.

    Frames are judged one by one: a word that is no longer than twice the slack may also lie a little further away.

    Args:
        path: Label at each frame, -1 in silence; see `true_path`. No label that it has follows one that it lacks.
        topology: Of its labels. Where no silence is allowed, a gap of the path may belong to either neighbour.
        slack: Frames by which each boundary of the path may be wrong. Where silence is allowed there may be a pause of
            up to twice as many that the path has not, and none where it has one as short.

    Returns:
        Silence in row 0, label k in row k + 1. Without slack and gaps one of them at each frame: the path.
    """
    n_labels, end = len(topology.skip_allowed), 0
    mask = np.zeros((n_labels + 1, len(path)), bool)
    last = 0
    for label, (first, after) in enumerate(spans(path, n_labels)):
        if after == first:
            continue
        if topology.silence_allowed[label]:
            mask[0, max(0, end - slack) : first + slack] = True
            begin = first
        else:
            mask[last, end : first + slack] = label > 0
            begin = end
        mask[label + 1, max(0, begin - slack) : after + slack] = True
        last, end = label + 1, after
    if topology.silence_allowed[last]:
        mask[0, max(0, end - slack) :] = True
    else:
        mask[last, end:] = True
    return mask


def save(calibrations: Mapping[str, Calibration], path: str | Path, *, about: str, network: str) -> None:
    """Write the calibrations of a model, by method, as one JSON file.

    Args:
        calibrations: Each by the name of its method.
        path: The file, replaced in one step if it is there.
        about: On what they were learnt, in words.
        network: Of which parameters, as `gradalign.bundle.fingerprint` gives it.

    Raises:
        FormatError: If it cannot be written.
    """
    table = {name: _to_json(calibration) for name, calibration in calibrations.items()}
    content = {"format": FORMAT, "version": VERSION, "about": about, "network": network, "cues": CUES}
    content |= {"calibrations": table}
    write_text(path, json.dumps(content) + "\n", overwrite=True)


def load(path: str | Path, *, network: str) -> tuple[dict[str, Calibration], str]:
    """Read the calibrations of a model, and on what they were learnt.

    Args:
        path: The file.
        network: The parameters they are to be used with, as `gradalign.bundle.fingerprint` gives it.

    Raises:
        FormatError: If the file cannot be read, is none of calibrations, of another version, or of other parameters.
    """
    try:
        content: dict[str, Any] = json.loads(Path(path).read_text("utf-8"))
        if content["format"] != FORMAT or content["version"] != VERSION:
            raise ValueError(
                f"expected {FORMAT!r} of version {VERSION}, got {content['format']!r}, version {content['version']}"
            )
        if content.get("cues") != list(CUES):
            raise ValueError(
                f"expected the cues {', '.join(CUES)}, got {', '.join(content.get('cues', ['none named']))}"
            )
        if content["network"] != network:
            raise ValueError(f"learnt for parameters {content['network']}, and those of this model are {network}")
        found = {name: _from_json(table) for name, table in content["calibrations"].items()}
        return found, str(content["about"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(
            f"{path}: no calibration for this model and this gradalign ({error}); make it anew with gradalign "
            "calibrate, or leave it out and align by a plain method"
        ) from error


def _to_json(calibration: Calibration) -> dict[str, Any]:
    table: dict[str, Any] = {"signals": list(calibration.signals), "confidence": list(calibration.confidence)}
    table["weights"] = _rounded(calibration.weights)
    if calibration.classifier is not None:
        table["classifier"] = _rounded(calibration.classifier)
    return table


def _rounded(arrays: Weights | Classifier) -> dict[str, Any]:
    return {name: np.round(np.asarray(array, np.float64), 5).tolist() for name, array in arrays._asdict().items()}


def _from_json(table: dict[str, Any]) -> Calibration:
    signals = tuple(table["signals"])
    weights = Weights(*(jnp.asarray(np.asarray(table["weights"][name], np.float32)) for name in Weights._fields))
    # Shapes alone: making the arrays would take a program each, loaded anew whenever the command line starts.
    for name, array, expected in zip(
        Weights._fields, weights, jax.eval_shape(lambda: initial(len(signals))), strict=True
    ):
        if array.shape != expected.shape:
            raise ValueError(f"{name} has shape {array.shape}, expected {expected.shape}")
    return Calibration(signals, weights, tuple(float(w) for w in table["confidence"]), _classifier(table, signals))


def _classifier(table: dict[str, Any], signals: tuple[str, ...]) -> Classifier | None:
    found = table.get("classifier")
    if (found is not None) != any(name.startswith("classifier@") for name in signals):
        raise ValueError("a classifier goes with its signal, and neither without the other")
    if found is None:
        return None
    classifier = Classifier(*(np.asarray(found[name], np.float32) for name in Classifier._fields))
    if classifier.weights.ndim != 2 or classifier.bias.shape != classifier.weights.shape[1:]:
        raise ValueError(f"classifier has shapes {classifier.weights.shape} and {classifier.bias.shape}")
    return classifier
