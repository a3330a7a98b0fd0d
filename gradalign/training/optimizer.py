"""The optimiser: AdamW or Muon with clipping and a learning rate that warms up and falls."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
import optax.contrib

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
    """The chain of clipping and AdamW or Muon; biases and norms are not decayed, by Muon inner matrices alone are.

    References:
        Loshchilov and Hutter 2019, algorithm 2 (AdamW). Jordan et al. 2024, https://kellerjordan.github.io/posts/muon;
        its steps are scaled to those of AdamW as in Liu et al. 2025, arXiv 2502.16982, equation 4.
    """
    rate = schedule(config, steps)
    if config.method == "muon":
        step = optax.contrib.muon(
            rate,
            weight_decay=config.weight_decay,
            adam_b2=config.b2,
            muon_weight_dimension_numbers=_inner_matrices,
            consistent_rms=0.2,
        )
    else:
        step = optax.adamw(rate, b2=config.b2, weight_decay=config.weight_decay, mask=_matrices)
    chain = [optax.clip_by_global_norm(config.clip), step]
    if config.frozen:
        chain.append(optax.masked(optax.set_to_zero(), partial(frozen, parts=config.frozen)))
    return optax.chain(*chain)


def frozen(params, parts: tuple[str, ...]):
    """Which parameters belong to these parts of the network."""
    names = tuple(f"['{part}']" for part in parts)
    return jax.tree_util.tree_map_with_path(lambda path, _: jax.tree_util.keystr(path).startswith(names), params)


def _inner_matrices(params):
    """Which axes of which parameters Muon takes as matrices: all but the first layer, embeddings and heads."""
    outer = ("['stem']['first']", "['ctc_head']", "['decoder']['project']")

    def axes(path, _):
        name = jax.tree_util.keystr(path)
        inner = "kernel" in name and not any(part in name for part in outer)
        # Blocks are stacked along a first axis, and each matrix is one of its own.
        return optax.contrib.MuonDimensionNumbers(-2, -1) if inner else None

    return jax.tree_util.tree_map_with_path(axes, params)


def _matrices(params):
    """Which parameters are matrices; those of scanned blocks have one more axis, so that names must tell."""
    names = ("kernel", "depthwise", "embedding")
    return jax.tree_util.tree_map_with_path(lambda path, _: any(n in jax.tree_util.keystr(path) for n in names), params)
