"""Array aliases shared by the modules that compute with JAX, so that an axis has one name everywhere."""

from jaxtyping import Array, Float, Int

Features = Float[Array, "frames mels"]
"""Log-mel features, one row a 10 ms frame."""

Labels = Int[Array, " labels"]
"""Label ids as the model numbers them; 0 is blank (CTC) and sentence boundary (decoder)."""

Scores = Float[Array, "labels frames"]
"""One row a label, one column a frame, log domain unless said otherwise."""
