"""How likely it is that a word was said where it was put: a logistic regression over what the alignment knows of it.

Learnt from speech with exact times and from transcripts with a wrong word in them (`gradalign.calibrate`), so that of
the words given 0.9 about 90 % are said and lie within `REACH_S` of the truth at both ends.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

REACH_S = 0.05
"""A word is right if it was said and both of its boundaries are this near to the true ones, in seconds."""

FACTS = ("start within reach", "end within reach", "mean surprise", "largest surprise", "mean unheard", "most unheard")
"""What is known of a word. The first two are log-odds of the posteriors; surprise is minus the log-probability of a
label by the decoder, unheard that by the CTC head at its best frame in the label's interval."""

_LEAST = 0.001


def facts(
    near_start: float,
    near_end: float,
    surprise: Float[np.ndarray, " labels"],
    unheard: Float[np.ndarray, " labels"],
) -> Float[np.ndarray, " facts"]:
    """What is known of a word, in the order of `FACTS`.

    Args:
        near_start: Probability that its start is within reach, in [0, 1].
        near_end: The same of its end.
        surprise: Of each of its labels, >= 0.
        unheard: Of each of its labels, >= 0; zeros for a model whose CTC head is not used.
    """
    return np.array(
        [_log_odds(near_start), _log_odds(near_end), surprise.mean(), surprise.max(), unheard.mean(), unheard.max()]
    )


def of_words(table: Float[np.ndarray, "words facts"], weights: Sequence[float]) -> Float[np.ndarray, " words"]:
    """Confidence of each word, in (0, 1).

    Args:
        table: `facts` of each word.
        weights: Of each fact, and the bias last.
    """
    logits = table @ np.asarray(weights[:-1]) + weights[-1]
    return 1 / (1 + np.exp(-np.clip(logits, -30, 30)))


def learn(
    table: Float[np.ndarray, "words facts"], right: Bool[np.ndarray, " words"], *, decay: float = 1e-3
) -> tuple[float, ...]:
    """Weights under which the words' being right or wrong is most probable, by Newton's method.

    Args:
        table: `facts` of each word.
        right: Whether it was.
        decay: Weight of half the squared length of the weights, a word.

    Returns:
        One weight a fact, and the bias.

    References:
        Bishop 2006, "Pattern Recognition and Machine Learning", section 4.3.3: Newton's method for this.
    """
    inputs = np.concatenate([table, np.ones((len(table), 1))], axis=1)
    weights = np.zeros(inputs.shape[1])
    shrink = decay * len(table) * np.eye(len(weights))
    shrink[-1, -1] = 1e-9
    for _ in range(50):
        found = 1 / (1 + np.exp(-np.clip(inputs @ weights, -30, 30)))
        gradient = inputs.T @ (found - right) + shrink @ weights
        curvature = (inputs * (found * (1 - found))[:, None]).T @ inputs + shrink
        step = np.linalg.solve(curvature, gradient)
        # Far from the optimum a whole step of Newton's may overshoot.
        weights = weights - step * min(1.0, 2.0 / max(1e-12, float(np.abs(step).max())))
        if np.abs(step).max() < 1e-8:
            break
    return tuple(float(w) for w in weights)


def _log_odds(probability: float) -> float:
    clipped = min(max(probability, _LEAST), 1 - _LEAST)
    return float(np.log(clipped / (1 - clipped)))
