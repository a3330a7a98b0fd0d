"""What one update computes, and what of the config holds at it; the run around it is in `gradalign.training.loop`."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gradalign.training.checkpoint import TrainState
from gradalign.training.config import AugmentConfig, LossConfig, TrainConfig
from gradalign.training.data import Batch
from gradalign.training.loss import Shares, losses
from gradalign.training.optimizer import frozen


def saliency_due(config: TrainConfig, step: int, frames: int) -> bool:
    """Whether the saliency is trained at this update, whose examples have so many frames."""
    loss = config.loss
    due = loss.saliency > 0 and step >= loss.saliency_start and step % loss.saliency_every == 0
    return due and frames <= loss.saliency_max_frames


def shares_at(config: TrainConfig, step: int) -> Shares:
    """What holds at an update, counted from 1."""
    augment, guided, remedies = config.augment, config.loss.guided_steps, config.remedies
    grown = (step - augment.start_step) / max(augment.full_step - augment.start_step, 1)
    share = augment.share * float(np.clip(grown, 0, 1)) * (step > augment.start_step)
    guide = float(np.clip(2 - step / guided, 0, 1)) if guided else 0.0
    heard = None if not remedies.self_attention_from else float(step >= remedies.self_attention_from)
    centre = None
    if remedies.centre_attention_until or remedies.centre_attention_fade:
        centre = (step - remedies.centre_attention_until) / max(remedies.centre_attention_fade, 1)
        centre = float(np.clip(centre, 0, 1))
    as_array = jnp.float32
    return Shares(
        as_array(share),
        as_array(guide),
        None if heard is None else as_array(heard),
        None if centre is None else as_array(centre),
    )


def place(batch: Batch, mesh: Mesh) -> Batch:
    """The batch on the devices, its examples divided among them."""
    return Batch(*(jax.device_put(part, NamedSharding(mesh, PartitionSpec("data"))) for part in batch))


class Settings(NamedTuple):
    """What of a config an update is compiled for."""

    loss: LossConfig
    augment: AugmentConfig
    average: float
    frozen: tuple[str, ...]
    precision: str
    with_saliency: bool


def settings_of(config: TrainConfig, *, salient: bool) -> Settings:
    """The settings of an update with or without the loss on the saliency."""
    return Settings(
        config.loss,
        config.augment,
        config.optimizer.average,
        config.optimizer.frozen,
        config.optimizer.precision,
        salient,
    )


@partial(jax.jit, static_argnames=("graph", "tx", "settings"), donate_argnums=0)
def update(
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    shares: Shares,
    *,
    graph: Any,
    tx: optax.GradientTransformation,
    settings: Settings,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update; with a loss or a gradient that is not finite the state stays as it was.

    The batch is divided among the devices and the state is whole on each: the compiler puts the sums
    over devices where they belong.
    """
    dtype = jnp.dtype(settings.precision)

    def loss_of(params):
        # The optimiser holds what is frozen in any case; not differentiating it saves time.
        held = frozen(params, settings.frozen)
        used = jax.tree.map(lambda p, h: (jax.lax.stop_gradient(p) if h else p).astype(dtype), params, held)
        return losses(
            nnx.merge(graph, used),
            Batch(*batch),
            key,
            shares,
            settings.loss,
            settings.augment,
            with_saliency=settings.with_saliency,
        )

    grads, metrics = jax.grad(loss_of, has_aux=True)(state.params)
    norm = optax.tree.norm(grads)
    updates, moments = tx.update(grads, state.moments, state.params)
    params = optax.apply_updates(state.params, updates)
    # A mean over all updates so far at first, then over the last ones.
    count = optax.tree.get(moments, "count", filtering=lambda path, _: "ScaleByAdam" in str(path)).astype(jnp.float32)
    decay = jnp.minimum(settings.average, (1.0 + count) / (10.0 + count))
    # Written so that what does not change, as frozen parts do not, is its own mean to the bit.
    averaged = jax.tree.map(lambda a, p: a + (1 - decay) * (p - a), state.averaged, params)
    good = jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm)
    new = TrainState(params, averaged, moments)
    return jax.tree.map(lambda n, old: jnp.where(good, n, old), new, state), metrics | {"grad_norm": norm}
