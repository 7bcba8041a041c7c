"""Saving and restoring a run through orbax: the state, the position in the data and the class map, all or nothing."""

import pathlib
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from train.state import TrainState


class Restored(NamedTuple):
    """What a checkpoint held."""

    state: TrainState
    position: dict[str, int]
    """State of the data iterator."""
    classes: tuple[str, ...]


class Checkpoints:
    """The checkpoints of a run folder. A checkpoint appears under its final name only when it is complete."""

    def __init__(self, run: pathlib.Path, *, keep: int = 2) -> None:
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, step_prefix="step", create=True)
        self._manager = ocp.CheckpointManager((run / "checkpoints").absolute(), options=options)

    @property
    def latest(self) -> int | None:
        """The step of the newest complete checkpoint, None where there is none."""
        return self._manager.latest_step()

    def save(self, state: TrainState, position: dict[str, int], classes: tuple[str, ...]) -> None:
        """Writes the state in the background; the arrays are copied before this returns."""
        step = int(state.step)
        if step == self.latest:
            return
        extra = {"position": position, "classes": list(classes)}
        self._manager.save(
            step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), extra=ocp.args.JsonSave(extra))
        )

    def restore(self, like: TrainState) -> Restored:
        """The newest checkpoint, in the structure, types and placement of `like`."""
        step = self.latest
        if step is None:
            raise ValueError(f"{self._manager.directory} holds no complete checkpoint.")
        shapes: Any = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
        try:
            found = self._manager.restore(
                step, args=ocp.args.Composite(state=ocp.args.StandardRestore(shapes), extra=ocp.args.JsonRestore())
            )
        except (ValueError, KeyError) as error:
            raise ValueError(
                f"the checkpoint of step {step} in {self._manager.directory} does not fit this model ({error}); "
                "use the configuration that the run was made with, or another run folder."
            ) from error
        return Restored(found.state, found.extra["position"], tuple(found.extra["classes"]))

    def close(self) -> None:
        """Waits until what was saved is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()
