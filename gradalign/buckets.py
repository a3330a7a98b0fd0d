"""Sizes that arrays are padded to: each padded shape is compiled once, so there are few of them."""

import numpy as np
from jaxtyping import Float, Int

FRAME_BUCKETS = (160, 320, 640, 960, 1280, 1600, 1920, 2560, 3200, 3840, 4800, 6016)
"""Feature frames; of 10 ms each, up to a minute."""

LABEL_BUCKETS = (32, 64, 128, 256, 512, 1024, 2048)
"""Labels of a transcript; people say some 15 phones a second."""


def bucket(size: int, buckets: tuple[int, ...]) -> int:
    """The smallest bucket that holds ``size``; past the last one, a multiple of it."""
    return next((b for b in buckets if b >= size), -(-size // buckets[-1]) * buckets[-1])


def pad(
    features: Float[np.ndarray, "frames mels"], labels: Int[np.ndarray, " labels"]
) -> tuple[Float[np.ndarray, "more_frames mels"], int, Int[np.ndarray, " more_labels"]]:
    """Features and label ids padded with zeros to the sizes of their buckets, and the number of real frames between."""
    rows, columns = bucket(len(features), FRAME_BUCKETS), bucket(len(labels), LABEL_BUCKETS)
    return (
        np.pad(features, ((0, rows - len(features)), (0, 0))),
        len(features),
        np.pad(labels, (0, columns - len(labels))),
    )
