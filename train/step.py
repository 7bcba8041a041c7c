"""The training step: one jitted program from (state, batch) to (state, metrics)."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from segjax.types import Batch, Losses, Model
from train.optim import moving_average
from train.state import TrainState, join, split

Metrics = dict[str, Float[Array, ""]]


class Step:
    """A jitted step that counts its compilations: one for each shape of batch. `jitted` is the function itself."""

    def __init__(self, function: Callable[[TrainState, Batch], tuple[TrainState, Metrics]], **options: Any) -> None:
        self.compilations = 0

        def traced(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
            self.compilations += 1  # Python runs while tracing alone
            return function(state, batch)

        self.jitted = jax.jit(traced, **options)

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """(state, batch) -> (state, metrics). The state given is donated."""
        return self.jitted(state, batch)


def data_mesh(devices: int = 0) -> Mesh:
    """A mesh with the one axis "data" over the first `devices` local devices, all of them for 0."""
    local = jax.local_devices()
    if not 0 <= devices <= len(local):
        raise ValueError(f"devices is {devices}, but this machine has {len(local)}.")
    return Mesh(np.array(local[: devices or None]), ("data",))


def shardings(mesh: Mesh) -> tuple[NamedSharding, NamedSharding]:
    """(of the state: the same on every device; of a batch: its images shared out)."""
    return NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))


def make_step(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    mesh: Mesh,
    loss_weights: Mapping[str, float] | None = None,
    ema_decay: float | None = None,
    accumulate: int = 1,
    frozen: tuple[str, ...] = (),
) -> Step:
    """The jitted step, data-parallel over `mesh`; the state it is given is donated.

    Losses are normalised over the whole batch, so a step is the same on one device and on many. Metrics are "loss"
    (the weighted sum), "loss/<term>" and "grad_norm" (before clipping).
    """
    weights = dict(loss_weights or {})
    whole, shared = shardings(mesh)

    def total(trained: Any, still: Any, statistics: Any, batch: Batch, key: Array) -> Any:
        losses, variables = model.losses({"params": join(trained, still), **statistics}, batch, key)
        if unknown := set(weights) - set(losses):
            raise ValueError(f"loss_weights names {unknown.pop()!r}; the model's losses are {', '.join(losses)}.")
        loss = sum((weights.get(name, 1.0) * value for name, value in losses.items()), jnp.float32(0))
        return loss, (losses, {name: value for name, value in variables.items() if name != "params"})

    gradient = jax.value_and_grad(total, has_aux=True)

    def accumulated(trained: Any, still: Any, statistics: Any, batch: Batch, key: Array) -> Any:
        count = len(batch.samples)
        if count % accumulate:
            raise ValueError(
                f"a batch of {count} images cannot be cut into optim.accumulate = {accumulate} equal parts: "
                "make batch_size a multiple of it."
            )
        # Every k-th image goes to part k, so that each device keeps the images it has.
        leaves, structure = jax.tree.flatten(batch)
        parts = [x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1) for x in leaves]

        def part(statistics: Any, leaves: list[Array]) -> Any:
            batch = jax.tree.unflatten(structure, leaves)
            (loss, (losses, statistics)), grads = gradient(trained, still, statistics, batch, key)
            return statistics, (loss, losses, grads)

        statistics, sums = jax.lax.scan(part, statistics, parts)
        loss, losses, grads = jax.tree.map(lambda x: x.mean(0), sums)
        return (loss, (losses, statistics)), grads

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        trained, still = split(state.params, frozen)
        compute = gradient if accumulate == 1 else accumulated
        (loss, (losses, statistics)), grads = compute(trained, still, state.statistics, batch, key)
        updates, opt_state = optimizer.update(grads, state.opt_state, trained)
        params = join(optax.apply_updates(trained, updates), still)
        average = state.average
        if ema_decay is not None:
            average = moving_average(ema_decay)(average, params, state.step)
        new = state.replace(
            step=state.step + 1, params=params, statistics=statistics, opt_state=opt_state, average=average
        )
        return new, metrics(loss, losses, grads)

    return Step(step, in_shardings=(whole, shared), out_shardings=whole, donate_argnums=0)


def metrics(loss: Array, losses: Losses, grads: Any) -> Metrics:
    """What a step reports."""
    terms = {f"loss/{name}": value for name, value in losses.items()}
    return {"loss": loss, **terms, "grad_norm": optax.tree.norm(grads)}
