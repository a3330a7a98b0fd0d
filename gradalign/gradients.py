"""How much each label's log-probability depends on each frame. Knows no network: it is handed a function."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Reduction = Literal["l2", "l1", "grad_x_input"]


def saliency(
    score: Callable[[Float[Array, "frames dim"]], Float[Array, " labels"]],
    features: Float[Array, "frames dim"],
    *,
    reduce: Reduction = "l2",
    chunk: int = 32,
) -> Float[Array, "labels frames"]:
    """Size of the gradient of every label's score with respect to every frame.

    ``G[s, t] = || d score(x)[s] / d x[t] ||``. The forward pass runs once; its pull-back is mapped over one-hot
    cotangents, ``chunk`` labels at a time, and each gradient is reduced over ``dim`` where it is made. So at most one
    ``[chunk, frames, dim]`` array exists, whatever the number of labels. Pure: use it inside ``jit`` and ``vmap``.

    Args:
        score: Maps features to one log-probability a label. Label s need not be a probability of frame s.
        features: What the gradient is taken with respect to; any leaf of a network, not only its input.
        reduce: "l2" is the Euclidean norm over ``dim`` (the paper's), "l1" the sum of absolute values, "grad_x_input"
            the absolute value of the signed sum of gradient times feature. All are >= 0, and all have a finite
            gradient where they are zero.
        chunk: Labels differentiated together, >= 1. Trades memory for speed; the result does not depend on it.

    Returns:
        One row a label, one column a frame, >= 0.

    Raises:
        ValueError: If an argument is out of range or ``score`` does not return one number a label.

    References:
        Schmitt et al. 2025, arXiv 2410.00680: alignment from the gradients of the label log-probabilities.
    """
    _check(features, reduce, chunk)
    log_probs, pull_back = jax.vjp(score, features)
    if log_probs.ndim != 1:
        raise ValueError(f"score must return one number a label, shape [labels], got shape {log_probs.shape}")
    if log_probs.shape[0] == 0:
        return jnp.zeros((0, features.shape[0]), features.dtype)
    return pulled_back(pull_back, log_probs, lambda gradient: reduced(gradient, features, reduce), chunk=chunk)


def pulled_back(
    pull_back: Callable[[Float[Array, " labels"]], tuple[Any]],
    log_probs: Float[Array, " labels"],
    reduce: Callable[[Any], Any],
    *,
    chunk: int = 32,
) -> Any:
    """Gradients of each label's score by the one argument of a `jax.vjp`, reduced where they are made.

    Args:
        pull_back: Second result of `jax.vjp` for a function of one argument, which may be a tree of arrays.
        log_probs: The first one: one number a label, at least one label.
        reduce: Maps the gradient of one label, a tree like the argument, to what is kept of it.
        chunk: Labels differentiated together, >= 1.

    Returns:
        What ``reduce`` returns, with a leading axis of labels.
    """
    n_labels = log_probs.shape[0]

    def row(label: Array) -> Any:
        (gradient,) = pull_back(jax.nn.one_hot(label, n_labels, dtype=log_probs.dtype))
        return reduce(gradient)

    chunk = min(chunk, n_labels)
    n_chunks = -(-n_labels // chunk)
    # Labels past the last one get an all-zero cotangent; their rows are dropped.
    rows = jax.lax.map(jax.vmap(row), jnp.arange(n_chunks * chunk).reshape(n_chunks, chunk))
    return jax.tree.map(lambda part: part.reshape(n_chunks * chunk, *part.shape[2:])[:n_labels], rows)


def norm(gradient: Float[Array, "... dim"]) -> Float[Array, "..."]:
    """Euclidean norm over the last axis, with a finite slope where it is zero."""
    # The square root has an infinite slope at zero, so it must not see zero even where its result is not used.
    # Scaled by the largest entry, because the squares of gradients below 1e-19 are zero in float32.
    gradient = gradient.astype(jnp.float32)
    largest = jax.lax.stop_gradient(jnp.abs(gradient).max(axis=-1, initial=0.0))
    scale = jnp.where(largest > 0, largest, 1.0)
    squares = jnp.square(gradient / scale[..., None]).sum(axis=-1)
    return jnp.where(largest > 0, scale * jnp.sqrt(jnp.where(largest > 0, squares, 1.0)), 0.0)


def _check(features: Array, reduce: str, chunk: int) -> None:
    problems = []
    if features.ndim != 2:
        problems.append(f"features must have shape [frames, dim], got shape {features.shape}")
    if reduce not in ("l2", "l1", "grad_x_input"):
        problems.append(f'reduce must be "l2", "l1" or "grad_x_input", got {reduce!r}')
    if chunk < 1:
        problems.append(f"chunk must be at least 1 label, got {chunk}")
    if problems:
        raise ValueError("; ".join(problems))


def reduced(
    gradient: Float[Array, "frames dim"], features: Float[Array, "frames dim"], reduce: Reduction
) -> Float[Array, " frames"]:
    """A gradient as one number a frame; see `saliency`.

    Args:
        gradient: With respect to the features.
        features: What it was taken at.
        reduce: Which number.

    Raises:
        ValueError: If there is no such reduction.
    """
    if reduce not in get_args(Reduction):
        raise ValueError(f"reduce must be one of {', '.join(get_args(Reduction))}; got {reduce!r}")
    if reduce == "l1":
        return jnp.abs(gradient).sum(axis=1)
    if reduce == "grad_x_input":
        return jnp.abs((gradient * features).sum(axis=1))
    return norm(gradient)
