"""Paths of labels and optional silence through time: the best one, and the distribution over all of them.

One lattice serves every kind of evidence. A path visits the labels in order, each for one frame or more, with silence
before, between and after them where the topology allows it. All functions take one utterance and are pure JAX, to be
wrapped in ``jit`` and ``vmap`` by the caller; ``n_labels`` and ``n_frames`` give the true sizes of a padded one, and
what the padding holds changes nothing as long as it is finite. Scores are natural logs, or anything that adds up along
a path, far above -1e30.

Inside, the ``2 * labels + 1`` states are numbered as in the paper: even is silence, odd is a label, a path starts in
state 0 or 1, ends in one of the last two, and moves by 0, 1 or (onto a label only) 2 states a frame.

References:
    Schmitt et al. 2025, arXiv 2410.00680: the topology. Rabiner 1989, "A tutorial on hidden Markov models": Viterbi
    (section III.B) and forward-backward (section III.A).
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gradalign._arrays import Scores
from gradalign.errors import AlignmentError

NEVER = -1e30
"""Score of what is forbidden. Finite, because gradients through -inf are NaN."""

BLOCK = 64
"""Frames of Viterbi between two moments at which its scores are made small again."""


class Topology(NamedTuple):
    """Where silence may be and which labels may touch; made on the host, where no length is a program of its own.

    Attributes:
        silence_allowed: Entry k: may there be silence before label k? The last entry is for after the last label.
        skip_allowed: Entry k: may label k follow label k-1 with no silence between? Entry 0: may the path start in
            label 0? Ending in the last label is always allowed.
    """

    silence_allowed: Bool[Array, " labels+1"] | Bool[np.ndarray, " labels+1"]
    skip_allowed: Bool[Array, " labels"] | Bool[np.ndarray, " labels"]

    @classmethod
    def free(cls, n_labels: int) -> "Topology":
        """Optional silence around every label: the topology of the paper."""
        return cls(np.ones(n_labels + 1, bool), np.ones(n_labels, bool))

    @classmethod
    def words(cls, word_of_label: Sequence[int] | Int[np.ndarray, " labels"] | Int[Array, " labels"]) -> "Topology":
        """Optional silence at both ends and where the word changes, none inside words.

        Args:
            word_of_label: Index of the word each label belongs to.
        """
        word = np.asarray(word_of_label, np.int32)
        silence_allowed = np.ones(len(word) + 1, bool)
        silence_allowed[1:-1] = word[1:] != word[:-1]
        return cls(silence_allowed, np.ones(len(word), bool))

    @classmethod
    def ctc(cls, labels: Sequence[int] | Int[np.ndarray, " labels"] | Int[Array, " labels"]) -> "Topology":
        """Silence is the blank: optional around every label, required between equal neighbours.

        Args:
            labels: Label ids, none of them blank.

        References:
            Graves et al. 2006, "Connectionist temporal classification", section 4.1.
        """
        ids = np.asarray(labels, np.int32)
        skip_allowed = np.ones(len(ids), bool)
        skip_allowed[1:] = ids[1:] != ids[:-1]
        return cls(np.ones(len(ids) + 1, bool), skip_allowed)

    @classmethod
    def no_silence(cls, n_labels: int) -> "Topology":
        """Labels fill the utterance: the monotone path of dynamic time warping."""
        return cls(np.zeros(n_labels + 1, bool), np.ones(n_labels, bool))

    def padded(self, n_labels: int) -> "Topology":
        """The same topology with room for ``n_labels`` labels, so that utterances can be stacked into a batch."""
        extra = n_labels - len(self.skip_allowed)
        if extra < 0:
            raise ValueError(f"cannot pad a topology of {len(self.skip_allowed)} labels to {n_labels} labels")
        return Topology(*(np.pad(np.asarray(mask), (0, extra), constant_values=True) for mask in self))


class Moves(NamedTuple):
    """Scores of boundaries: each is counted once, at the frame that a path arrives at where it moves on.

    Attributes:
        touch: From the label before straight to this one; from before the recording to the first label, at frame 0.
        start: From silence to this label.
        end: From the label before to this silence; row k is the silence before label k, the last one that after all.
            Row 0, at frame 0, is for a recording that begins with silence.
    """

    touch: Float[Array, "labels frames"]
    start: Float[Array, "labels frames"]
    end: Float[Array, "labels+1 frames"]


class Path(NamedTuple):
    """One way through the lattice.

    Attributes:
        labels: Index of the label at each frame; -1 in silence and on padded frames.
        score: Sum of the scores along the path. Below -1e29 if there is no path; see `check_feasible`.
    """

    labels: Int[Array, " frames"]
    score: Float[Array, ""]


class Posteriors(NamedTuple):
    """The distribution over all paths, each weighted by the exponential of its score.

    Attributes:
        labels: Probability that the frame belongs to the label. With `silence`, each frame sums to one; 0 on padding.
        silence: Probability that the frame is silence.
        starts: Probability that the frame is the label's first. Each label sums to one.
        ends: Probability that the label ends before this frame, so that its run is ``[start, end)``; one column more
            than there are frames. Each label sums to one.
        log_total: Log of the sum of the weights. Its gradients with respect to the scores and to the silence score
            are `labels` and `silence`. Below -1e29 if there is no path; see `check_feasible`.
    """

    labels: Float[Array, "labels frames"]
    silence: Float[Array, " frames"]
    starts: Float[Array, "labels frames"]
    ends: Float[Array, "labels frames+1"]
    log_total: Float[Array, ""]


def viterbi(
    scores: Scores,
    silence: Float[Array, " frames"],
    topology: Topology,
    *,
    n_labels: int | Int[Array, ""] | None = None,
    n_frames: int | Int[Array, ""] | None = None,
    moves: Moves | None = None,
) -> Path:
    """The path with the highest sum of scores.

    Of several best paths it returns one, always the same: looking backwards from the end, the last label is preferred
    to silence after it, and at each frame entering a label from the label before it is preferred to entering from
    silence, and entering to having stayed. Memory is one byte a state and frame.

    Args:
        scores: Score of each label at each frame.
        silence: Score of silence at each frame.
        topology: Where silence is allowed and which labels may touch.
        n_labels: True number of labels if padded.
        n_frames: True number of frames if padded.
        moves: Scores of boundaries; None for 0.

    Returns:
        The label at each frame, and the sum.
    """
    states = _States.of(scores, silence, topology, n_labels, n_frames, moves)
    alpha, came, total = _best_arrivals(states, states.before())

    def backward(state: Array, came: Array) -> tuple[Array, Array]:
        return state - came[state], state

    final = jnp.where(states.ends, alpha, NEVER)
    _, visited = jax.lax.scan(backward, final.argmax().astype(jnp.int32), came, reverse=True)
    in_label = (visited % 2 == 1) & states.frames.real
    return Path(jnp.where(in_label, visited // 2, -1), final.max() + total)


class Steps(NamedTuple):
    """Part of the way through a lattice, see `viterbi_steps`.

    Attributes:
        alpha: Score of the best path to each state after the last frame, but for ``total``.
        came: How many states back the best path to each state comes from: 0, 1 or 2.
        total: Sum of what was taken off all scores.
        ends: Whether a path may end in the state.
    """

    alpha: Float[Array, " states"]
    came: Int[Array, "frames states"]
    total: Float[Array, ""]
    ends: Bool[Array, " states"]


def viterbi_steps(
    alpha: Float[Array, " states"] | None,
    scores: Scores,
    silence: Float[Array, " frames"],
    topology: Topology,
    *,
    n_labels: int | Int[Array, ""] | None = None,
    n_frames: int | Int[Array, ""] | None = None,
) -> Steps:
    """The forward pass of `viterbi` over some frames, for recordings that are taken in parts.

    Args:
        alpha: Of the part before; None at the beginning of the recording.
        scores: As for `viterbi`, of these frames.
        silence: Of these frames.
        topology: As for `viterbi`.
        n_labels: True number of labels if padded.
        n_frames: True number of frames if padded.
    """
    states = _States.of(scores, silence, topology, n_labels, n_frames, None)
    if alpha is not None:
        frames = states.frames._replace(entry=jnp.full_like(states.frames.entry, NEVER))
        states = states._replace(frames=frames)
    return Steps(*_best_arrivals(states, states.before() if alpha is None else alpha), states.ends)


def _best_arrivals(
    states: "_States", alpha: Float[Array, " states"]
) -> tuple[Float[Array, " states"], Int[Array, "frames states"], Float[Array, ""]]:
    """Viterbi's forward pass; what it takes off the scores keeps them small, where float32 is fine.

    It is taken off once a block of frames: the largest of all states is a loop of its own, which takes longer than the
    rest of a step.
    """

    def forward(alpha: Array, frame: _Frame) -> tuple[Array, Array]:
        jump, step, stay = _ways(alpha, frame, states.jumps)
        moved = jnp.maximum(jump, step)
        best = frame.emissions + jnp.maximum(moved, stay)
        came = jnp.where(moved >= stay, jnp.where(jump >= step, 2, 1), 0)
        return jnp.where(frame.real, best, alpha), jnp.where(frame.real, came, 0).astype(jnp.int8)

    def block(alpha: Array, frames: _Frame) -> tuple[Array, tuple[Array, Array]]:
        alpha, came = jax.lax.scan(forward, alpha, frames)
        shift = jnp.where(frames.real.any(), alpha.max(), 0.0)
        return alpha - shift, (came, shift)

    n_frames = len(states.frames.real)
    size = min(BLOCK, max(n_frames, 1))
    whole = -(-n_frames // size) * size

    def blocks(part: Array) -> Array:
        # Frames that are added are not real.
        padded = jnp.pad(part, ((0, whole - n_frames), *((0, 0),) * (part.ndim - 1)))
        return padded.reshape(-1, size, *part.shape[1:])

    alpha, (came, shifts) = jax.lax.scan(block, alpha, jax.tree.map(blocks, states.frames))
    return alpha, came.reshape(whole, len(alpha))[:n_frames], shifts.sum()


def forward_backward(
    scores: Scores,
    silence: Float[Array, " frames"],
    topology: Topology,
    *,
    n_labels: int | Int[Array, ""] | None = None,
    n_frames: int | Int[Array, ""] | None = None,
    moves: Moves | None = None,
) -> Posteriors:
    """Where each label is, starts and ends, averaged over all paths.

    The backward pass does not sum scores. With alpha the forward log-sums, the state before state j at frame t is
    distributed as the softmax of alpha over j's predecessors, so the occupancy of frame t-1 is that of frame t spread
    by these weights, and the parts of it that moved are the starts and ends. All of it is positive: nothing cancels,
    and errors stay relative.

    Args:
        scores: Score of each label at each frame.
        silence: Score of silence at each frame.
        topology: Where silence is allowed and which labels may touch.
        n_labels: True number of labels if padded.
        n_frames: True number of frames if padded.
        moves: Scores of boundaries; None for 0.

    Returns:
        Occupancies, starts, ends and the log of the total weight.
    """
    states = _States.of(scores, silence, topology, n_labels, n_frames, moves)

    def forward(alpha: Array, frame: _Frame) -> tuple[Array, tuple[Array, Array]]:
        total = frame.emissions + jax.nn.logsumexp(_arrivals(alpha, frame, states.jumps), axis=0)
        # Any shift gives the same result; this one keeps alpha small, where float32 is fine.
        shift = jax.lax.stop_gradient(jnp.where(frame.real, total.max(), 0.0))
        return jnp.where(frame.real, total - shift, alpha), (alpha, shift)

    def backward(occupied: Array, step: tuple[Array, _Frame]) -> tuple[Array, tuple[Array, Array, Array]]:
        previous_alpha, frame = step
        arrived = occupied[None, :] * jax.nn.softmax(_arrivals(previous_alpha, frame, states.jumps), axis=0)
        by_source = jnp.pad(arrived, ((0, 0), (0, 2)))
        left = by_source[0, 2:] + by_source[1, 1:-1]
        here = (occupied, arrived[0] + arrived[1], left)
        before = jnp.where(frame.real, arrived[2] + left, occupied)
        return before, jax.tree.map(lambda mass: jnp.where(frame.real, mass, 0.0), here)

    alpha, (alphas, shifts) = jax.lax.scan(forward, states.before(), states.frames)
    final = jnp.where(states.ends, alpha, NEVER)
    at_end = jax.nn.softmax(final)
    _, (occupied, entered, left) = jax.lax.scan(backward, at_end, (alphas, states.frames), reverse=True)
    frame = jnp.arange(scores.shape[1] + 1)
    ends_last = at_end[1::2][:, None] * (frame == states.frames.real.sum())[None, :]
    return Posteriors(
        labels=occupied[:, 1::2].T,
        silence=occupied[:, 0::2].sum(axis=1),
        starts=entered[:, 1::2].T,
        ends=jnp.pad(left[:, 1::2].T, ((0, 0), (0, 1))) + ends_last,
        log_total=jax.nn.logsumexp(final) + shifts.sum(),
    )


def spans(labels: Int[Array, " frames"] | Int[np.ndarray, " frames"], n_labels: int) -> Int[np.ndarray, "labels 2"]:
    """First frame and last frame + 1 of each label on a path; (0, 0) for a label that is not on it. On the host.

    Args:
        labels: Index of the label at each frame, never falling but for -1 in silence.
        n_labels: Rows of the result.
    """
    path = np.asarray(labels)
    frames = np.flatnonzero(path >= 0)
    first, last = (np.searchsorted(path[frames], np.arange(n_labels), side=side) for side in ("left", "right"))
    found = np.zeros((n_labels, 2), np.int32)
    there = last > first
    found[there] = np.stack([frames[first[there]], frames[last[there] - 1] + 1], axis=1)
    return found


def check_feasible(n_labels: int, n_frames: int, topology: Topology) -> None:
    """Pass if at least one path exists; host-side, for use before `viterbi` and `forward_backward`.

    Args:
        n_labels: True number of labels.
        n_frames: True number of frames.
        topology: For ``n_labels`` labels or padded to more.

    Raises:
        AlignmentError: If every path is longer than the utterance, or the topology has no path at all.
    """
    needs_silence = ~np.asarray(topology.skip_allowed)[:n_labels]
    impossible = needs_silence & ~np.asarray(topology.silence_allowed)[:n_labels]
    if n_labels == 0 and not topology.silence_allowed[0]:
        raise AlignmentError("no label and no silence allowed: the topology has no path")
    if impossible.any():
        raise AlignmentError(
            f"before label {int(impossible.argmax())} silence is both required and forbidden: the topology has no path"
        )
    n_silences = int(needs_silence.sum())
    needed = max(1, n_labels + n_silences)
    if n_frames < needed:
        between = f" ({n_silences} of them silence between labels that may not touch)" if n_silences else ""
        raise AlignmentError(
            f"{n_labels} labels need at least {needed} frames{between}, got {n_frames} frames: "
            "the transcript is too long for the recording, or the frames too coarse"
        )


class _Frame(NamedTuple):
    """What one step of a scan reads (or all steps, with a leading axis)."""

    emissions: Float[Array, "*frames states"]
    entry: Float[Array, "*frames"]
    """Score of coming from before the utterance: 0 at frame 0, `NEVER` later."""
    real: Bool[Array, "*frames"]
    jump: Float[Array, "*frames states"] | None = None
    """Score of arriving from two states before, None for 0."""
    step: Float[Array, "*frames states"] | None = None
    """Score of arriving from the state before."""


class _States(NamedTuple):
    """The lattice of one utterance, state by state."""

    frames: _Frame
    jumps: Bool[Array, " states"]
    """Whether the state may be entered from two states before."""
    ends: Bool[Array, " states"]
    """Whether a path may end in the state."""

    @classmethod
    def of(
        cls,
        scores: Scores,
        silence: Float[Array, " frames"],
        topology: Topology,
        n_labels: int | Int[Array, ""] | None,
        n_frames: int | Int[Array, ""] | None,
        moves: Moves | None,
    ) -> "_States":
        rows, columns = scores.shape
        n_labels = rows if n_labels is None else n_labels
        n_frames = columns if n_frames is None else n_frames
        quiet = jnp.where(topology.silence_allowed[None, :], silence[:, None], NEVER)
        emissions = _by_state(quiet, scores.T)
        frame, state = jnp.arange(columns), jnp.arange(2 * rows + 1)
        frames = _Frame(
            emissions=jnp.where((state <= 2 * n_labels)[None, :], emissions, NEVER),
            entry=jnp.where(frame == 0, 0.0, NEVER).astype(scores.dtype),
            real=frame < n_frames,
        )
        if moves is not None:
            jump = _by_state(jnp.zeros_like(quiet), moves.touch.T)
            frames = frames._replace(jump=jump, step=_by_state(moves.end.T, moves.start.T))
        jumps = jnp.zeros(2 * rows + 1, bool).at[1::2].set(topology.skip_allowed)
        return cls(frames, jumps, (state == 2 * n_labels) | (state == 2 * n_labels - 1))

    def before(self) -> Float[Array, " states"]:
        """Scores of the states before frame 0: no path is in any of them yet."""
        return jnp.full(self.ends.shape, NEVER, self.frames.emissions.dtype)


def _by_state(
    silences: Float[Array, "frames silences"], labels: Float[Array, "frames labels"]
) -> Float[Array, "frames states"]:
    """States in their order: silence, label, silence and so on."""
    pairs = jnp.stack([silences[:, :-1], labels], axis=2).reshape(len(labels), 2 * labels.shape[1])
    return jnp.concatenate([pairs, silences[:, -1:]], axis=1)


def _ways(
    alpha: Float[Array, " states"], frame: _Frame, jumps: Bool[Array, " states"]
) -> tuple[Float[Array, " states"], Float[Array, " states"], Float[Array, " states"]]:
    """Score of being in each state by a jump over silence, by a step, and by staying: the order settles ties."""
    earlier = jnp.concatenate([jnp.full(1, NEVER, alpha.dtype), frame.entry[None], alpha])
    jump, step = earlier[:-2], earlier[1:-1]
    if frame.jump is not None and frame.step is not None:
        jump, step = jump + frame.jump, step + frame.step
    return jnp.where(jumps, jump, NEVER), step, earlier[2:]


def _arrivals(alpha: Float[Array, " states"], frame: _Frame, jumps: Bool[Array, " states"]) -> Float[Array, "3 states"]:
    return jnp.stack(_ways(alpha, frame, jumps))
