"""One sentence about an encoder: does it keep the order of time, and if not, where does it turn around?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gradalign.analysis.direction import turning_points

Order = Literal["kept", "reversed", "mixed"]

CLEAR = 0.05
"""Flip indices nearer to 0 than this say nothing; an exact reversal has 1/2, the identity -1/2."""


@dataclass(frozen=True, slots=True)
class TimeOrder:
    """What an encoder does to the order of time; as text, one sentence.

    Attributes:
        order: "kept", "reversed", or "mixed" where neither is clear.
        block: Block that reverses time, counted from 1, where one does; 0 is the stem.
        reason: Why it is "mixed"; else "".

    Raises:
        ValueError: If a block is given but nothing is reversed, or the other way round.
    """

    order: Order
    block: int | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        if (self.order == "reversed") != (self.block is not None):
            raise ValueError(f'a block goes with "reversed" and with nothing else, got {self.order!r}, {self.block}')

    def __str__(self) -> str:
        if self.order == "kept":
            return "encoder keeps time order"
        if self.order == "reversed":
            return f"encoder reverses time in {place(self.block or 0)}"
        return f"mixed: {self.reason}" if self.reason else "mixed"


def place(block: int) -> str:
    """What a layer is called: "the stem" for 0, else "block K"."""
    return f"block {block}" if block else "the stem"


def time_order(frame_flips: Sequence[float], label_flips: Sequence[float]) -> TimeOrder:
    """The verdict from flip indices by depth: the features first, then the stem's output and that of each block.

    Frames have the first word: the map of how each encoder frame depends on each frame at a depth needs no labels.
    Labels have a say where they are clear: at the features they must rise, since that is the order of speech, and at
    the encoder's output they rise or fall. Where both are clear and disagree, the verdict is "mixed".

    Args:
        frame_flips: `flip_index` of the Jacobian's squared norms from each depth to the encoder's output; the last
            one, of the output by itself, is -1/2.
        label_flips: `label_flip_index` of the saliency at each depth; as many.

    Raises:
        ValueError: If there are fewer than two depths, or not as many of both.
    """
    if len(frame_flips) != len(label_flips) or len(frame_flips) < 2:
        raise ValueError(
            f"expected as many frame as label flip indices, and two at least, got {len(frame_flips)} and "
            f"{len(label_flips)}"
        )
    # Turning point k lies between depths k - 1 and k, so the layer that makes depth k turned; the stem makes depth 1.
    turns = [k - 1 for k in turning_points(frame_flips, clear=CLEAR)]
    by_labels = _of_labels(label_flips)
    if len(turns) > 1:
        names = ", ".join(place(k) for k in turns)
        return TimeOrder("mixed", reason=f"time is turned around more than once, in {names}")
    if abs(frame_flips[0]) < CLEAR:
        return by_labels or TimeOrder("mixed", reason="neither frames nor labels show a clear order")
    by_frames = TimeOrder("reversed", turns[0]) if turns else TimeOrder("kept")
    if by_labels is not None and by_labels.order != by_frames.order:
        return TimeOrder(
            "mixed", reason=f"by its frames the {by_frames}, by the saliency of labels the {by_labels}"
        )  # fmt: skip
    return by_frames


def _of_labels(flips: Sequence[float]) -> TimeOrder | None:
    """What the saliency of labels says, if it says anything."""
    if flips[0] > -CLEAR or abs(flips[-1]) < CLEAR:
        return None
    turns = [k - 1 for k in turning_points(flips, clear=CLEAR)]
    if len(turns) > 1:
        return None
    return TimeOrder("reversed", turns[0]) if turns else TimeOrder("kept")
