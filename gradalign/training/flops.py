"""How much arithmetic a compiled step does, and how much this machine can do."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def matmul_flops(function: Callable, *args: Any, **kwargs: Any) -> float:
    """Floating-point operations in the matrix products of one call, counted in its jaxpr.

    A product of ``[m, k]`` and ``[k, n]`` counts ``2 m k n``; the body of a scan counts once a round. Of a
    conditional the dearest branch counts; a while loop, whose rounds are not known, counts once.
    """
    return _count(jax.make_jaxpr(function)(*args, **kwargs).jaxpr)


def _count(jaxpr: Any) -> float:
    total = 0.0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            shape = eqn.invars[0].aval.shape
            total += 2.0 * np.prod(eqn.outvars[0].aval.shape) * np.prod([shape[axis] for axis in contracted])
            continue
        inner = [_count(sub) for sub in _inner(eqn.params)]
        if eqn.primitive.name == "scan":
            total += eqn.params["length"] * sum(inner)
        elif eqn.primitive.name == "cond":
            total += max(inner, default=0.0)
        else:
            total += sum(inner)
    return float(total)


def _inner(params: dict[str, Any]) -> list[Any]:
    found = []
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else [value]:
            if hasattr(item, "eqns"):
                found.append(item)
            elif hasattr(item, "jaxpr") and hasattr(item.jaxpr, "eqns"):
                found.append(item.jaxpr)
    return found


def matmul_peak(size: int = 1024, rounds: int = 5) -> float:
    """Floating-point operations a second of float32 products of two ``[size, size]`` matrices, the best of some."""
    a = jnp.asarray(np.random.default_rng(0).normal(size=(size, size)), jnp.float32)
    multiply = jax.jit(lambda a: a @ a)
    multiply(a).block_until_ready()
    best = np.inf
    for _ in range(rounds):
        began = time.perf_counter()
        multiply(a).block_until_ready()
        best = min(best, time.perf_counter() - began)
    return 2.0 * size**3 / best
