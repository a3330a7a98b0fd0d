"""The optimiser: AdamW with clipping and a learning rate that warms up and falls."""

import jax
import jax.numpy as jnp
import optax

from gradalign.training.config import OptimizerConfig


def schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Learning rate of each update: linear warm-up, then a cosine or the inverse square root.

    References:
        Loshchilov and Hutter 2017, equation 5 (cosine, without restarts); Vaswani et al. 2017, equation 3.
    """
    if config.schedule == "cosine":
        end = config.peak * config.final
        return optax.warmup_cosine_decay_schedule(0.0, config.peak, config.warmup, max(steps, config.warmup + 1), end)
    warmup = max(config.warmup, 1)

    def rate(step):
        step = jnp.maximum(step, 1)
        return config.peak * jnp.minimum(step / warmup, jnp.sqrt(warmup / step))

    return rate


def optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """The chain of clipping and AdamW; biases and norms are not decayed."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(
            schedule(config, steps),
            b2=config.b2,
            weight_decay=config.weight_decay,
            mask=_matrices,
        ),
    )


def _matrices(params):
    """Which parameters are matrices; those of scanned blocks have one more axis, so that names must tell."""
    names = ("kernel", "depthwise", "embedding")
    return jax.tree_util.tree_map_with_path(lambda path, _: any(n in jax.tree_util.keystr(path) for n in names), params)
