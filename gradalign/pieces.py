"""Long recordings in pieces: where to cut them, so that no decoder loses its place.

A decoder that learnt from utterances of some seconds does not find its way through much longer ones, and then its
gradients and attention point anywhere; the CTC head hears each frame by itself and does not mind. So the CTC head says
where the pauses are, and everything else is read off pieces between them.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from gradalign.signals import CUES, OF_GRADIENTS, Signals


class Piece(NamedTuple):
    """A stretch of a recording with the labels said in it: half-open ranges."""

    labels: tuple[int, int]
    frames: tuple[int, int]


def pieces(
    starts: Int[np.ndarray, " labels"],
    ends: Int[np.ndarray, " labels"],
    n_frames: int,
    *,
    longest: int,
    margin: int = 100,
) -> list[Piece]:
    """Cut a recording at its widest pauses.

    A recording whose speech is too long is cut in two at the widest gap between labels whose middle lies in the middle
    third of it, and so are the halves. Where no gap lies there, the nearest one to the middle is taken. Of what is too
    long, silence before and after the speech is left out, but for a second.

    Args:
        starts: First frame of each label, by a coarse alignment; in order. Words will do as well as labels.
        ends: Last frame of each, in order.
        n_frames: Length of the recording.
        longest: Frames a piece may have; one with a single label may be longer.
        margin: Frames before the first and after the last label that belong to the speech.

    Returns:
        Pieces in order, which together hold all labels. They touch each other, or silence lies between them.
    """
    middles, gaps = (ends[:-1] + starts[1:]) // 2, starts[1:] - ends[:-1]

    def cut(piece: Piece) -> list[Piece]:
        (first, last), (begin, end) = piece.labels, piece.frames
        if end - begin > longest:
            begin = max(begin, int(starts[first]) - margin)
            end = min(end, int(ends[last - 1]) + margin + 1)
        # Gap i lies between labels i and i + 1.
        inner = np.arange(first, last - 1)
        inner = inner[(middles[inner] > begin) & (middles[inner] < end)]
        if end - begin <= longest or not len(inner):
            return [Piece((first, last), (begin, end))]
        far = np.abs(middles[inner] - (begin + end) / 2)
        central = inner[far <= (end - begin) / 6]
        at = int(central[gaps[central].argmax()]) if len(central) else int(inner[far.argmin()])
        frame = int(middles[at])
        return cut(Piece((first, at + 1), (begin, frame))) + cut(Piece((at + 1, last), (frame, end)))

    return cut(Piece((0, len(starts)), (0, n_frames)))


def joined(parts: list[tuple[Piece, Signals]], whole: Signals, ctc: int) -> Signals:
    """Signals of a recording from those of its pieces.

    Args:
        parts: The pieces, in order, with their signals.
        whole: Signals of the whole recording whose states, whose row of the CTC head, and whose cues are kept, but for
            those of gradients.
        ctc: Which signal is that of the CTC head; the only one in ``whole``.

    Returns:
        Signals of all labels at all frames; outside of its piece a label has the score of the piece's outermost frame
        there, since a step at the cut would look like a boundary to a time filter. Cues of gradients are those of the
        pieces, which do not see each other; frames of no piece have those of the last frame before them that has any,
        or the first one after.
    """
    n_signals = parts[0][1].scores.shape[0]
    n_labels, n_frames = whole.scores.shape[1:]
    scores: Float[np.ndarray, "signals labels frames"] = np.zeros((n_signals, n_labels, n_frames), np.float32)
    sure = np.zeros((n_labels, 2), np.float32)
    cues = np.array(whole.cues)
    of_gradients = [CUES.index(name) for name in OF_GRADIENTS]
    cues[of_gradients, : parts[0][0].frames[0]] = np.asarray(parts[0][1].cues)[of_gradients, :1]
    for (labels, frames), seen in parts:
        found = np.asarray(seen.scores)
        scores[:, slice(*labels), : frames[0]] = found[:, :, :1]
        scores[:, slice(*labels), frames[1] :] = found[:, :, -1:]
        scores[:, slice(*labels), slice(*frames)] = found
        sure[slice(*labels)] = seen.sure
        here = np.asarray(seen.cues)[of_gradients]
        cues[of_gradients, slice(*frames)] = here
        cues[of_gradients, frames[1] :] = here[:, -1:]
    scores[ctc] = whole.scores[0]
    missed = max(float(seen.missed) for _, seen in parts)
    return Signals(scores, cues, sure, missed, whole.states)
