"""Minimising a function of few thousand numbers by L-BFGS (Liu and Nocedal 1989)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def minimise(
    loss: Callable[[Float[Array, " numbers"], Any], Float[Array, ""]],
    start: Float[np.ndarray, " numbers"],
    data: Any,
    *,
    steps: int,
    report: Callable[[int, float], None],
) -> Float[np.ndarray, " numbers"]:
    """The point to which at most so many iterations lead.

    Args:
        loss: Of a point and the data; differentiable.
        start: Where to begin.
        data: Arrays that the loss needs, an argument so that they do not become constants of a program.
        steps: Iterations at most.
        report: Told the number of an iteration and the loss after it.
    """
    from scipy import optimize  # half a second that aligning must not wait for

    value_and_gradient = jax.jit(jax.value_and_grad(loss))
    latest, number = 0.0, 0

    def evaluate(point: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal latest
        value, gradient = value_and_gradient(jnp.asarray(point, jnp.float32), data)
        latest = float(value)
        return latest, np.asarray(gradient, np.float64)

    def told(_: np.ndarray) -> None:
        nonlocal number
        report(number, latest)
        number += 1

    options = {"maxiter": steps}
    found = optimize.minimize(
        evaluate, np.asarray(start, np.float64), jac=True, method="L-BFGS-B", callback=told, options=options
    )
    return found.x.astype(np.float32)
