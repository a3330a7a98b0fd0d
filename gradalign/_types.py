"""Array and unit aliases shared by the whole package, so that an axis has one name everywhere."""

from typing import Literal

from jaxtyping import Array, Bool, Float, Int

Seconds = float
"""Time in seconds. Every public time is in seconds unless its name says otherwise."""

Waveform = Float[Array, " samples"]
"""Mono samples in [-1, 1]."""

Features = Float[Array, "frames mels"]
"""Log-mel features, one row a 10 ms frame."""

Labels = Int[Array, " labels"]
"""Label ids as the model numbers them; 0 is blank (CTC) and sentence boundary (decoder)."""

Scores = Float[Array, "labels frames"]
"""One row a label, one column a frame, log domain unless said otherwise."""

Mask = Bool[Array, " frames"]

Method = Literal["gradient", "ctc", "attention", "equal"]
"""Where the evidence for an alignment comes from; "equal" splits the recording evenly."""
