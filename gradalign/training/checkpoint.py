"""Checkpoints of a run: everything that the next update needs, so that a killed run goes on as if nothing happened."""

from pathlib import Path
from typing import Any, NamedTuple

import jax


class TrainState(NamedTuple):
    """What an update changes, besides the number of the update.

    Attributes:
        params: Parameters of the network.
        averaged: Their running mean, which is what is kept as the model.
        moments: State of the optimiser.
    """

    params: Any
    averaged: Any
    moments: Any


class Checkpoints:
    """The checkpoints in a folder, written by orbax: a checkpoint is there whole or not at all.

    Arrays and JSON only; nothing in them is executed.
    """

    def __init__(self, folder: Path, *, keep: int):
        import orbax.checkpoint as ocp

        self._ocp = ocp
        # Written before training goes on: a checkpoint takes a fraction of a second, and it cannot be torn then.
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(folder.resolve(), options=options)

    def latest(self) -> int | None:
        """Number of the last update that was kept."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, progress: dict[str, Any]) -> None:
        """Keep the state after update ``step``, and what is known about the run as JSON.

        A state that is kept already is left as it is: a loss that is not finite comes right after a checkpoint too.
        """
        if step == self.latest():
            return
        # Key arrays and named tuples are left out of the files' structure: a flat list needs no code to read.
        leaves = {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(state))}
        args = self._ocp.args
        self._manager.save(
            step, args=args.Composite(state=args.StandardSave(leaves), progress=args.JsonSave(progress)), force=True
        )
        self._manager.wait_until_finished()

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The state after update ``step``, on the devices of ``like``.

        Raises:
            ValueError: If the checkpoint is of another network or optimiser.
        """
        leaves, tree = jax.tree.flatten(like)
        wanted = {
            str(i): jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
            for i, leaf in enumerate(leaves)
        }
        args = self._ocp.args
        found = self._manager.restore(
            step, args=args.Composite(state=args.StandardRestore(wanted), progress=args.JsonRestore())
        )
        state = jax.tree.unflatten(tree, [found["state"][str(i)] for i in range(len(leaves))])
        return state, found["progress"]

    def close(self) -> None:
        """Let go of the folder."""
        self._manager.close()
