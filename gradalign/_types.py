"""Plain types shared by the whole package.

No arrays here (`gradalign._arrays`), so that files, metrics and the command line do not wait for JAX.
"""

from typing import Literal

Seconds = float
"""Time in seconds. Every public time is in seconds unless its name says otherwise."""

Precision = Literal["float32", "bfloat16"]
"""What a network computes in; norms, softmax and log-probabilities are float32 in any case."""

LoadedPrecision = Literal["float32", "mixed", "bfloat16"]
"""The same of a network that is only used: "mixed" is bfloat16 for the products with the network's kernels on the way
back of gradients in windows, with sums in float32, and float32 for all else."""

Method = Literal[
    "calibrated",
    "calibrated-gradient",
    "calibrated-attention",
    "calibrated-ctc",
    "gradient",
    "attention",
    "ctc",
    "equal",
]
"""Where the evidence for an alignment comes from. The calibrated ones weigh all of it, or one kind, as the model has
learnt to; the others take it as it is; "equal" splits the recording evenly."""
