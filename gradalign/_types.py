"""Plain types shared by the whole package.

No arrays here (`gradalign._arrays`), so that files, metrics and the command line do not wait for JAX.
"""

from typing import Literal

Seconds = float
"""Time in seconds. Every public time is in seconds unless its name says otherwise."""

Method = Literal["gradient", "ctc", "attention", "equal"]
"""Where the evidence for an alignment comes from; "equal" splits the recording evenly."""
