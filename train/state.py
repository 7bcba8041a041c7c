"""Everything of a run that changes from step to step, in one pytree; and where it starts."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct, traverse_util
from jaxtyping import Array, Int, UInt32

from segjax import pretrained
from segjax.types import Batch, Model, Variables

Params = dict[str, Any]
INIT = 2**32 - 1
"""Folded into the run's key for the initial parameters; steps fold in their own, smaller numbers."""


@struct.dataclass
class TrainState:
    """What a checkpoint holds, beside the position in the data."""

    step: Int[Array, ""]
    """Number of steps taken."""
    params: Params
    statistics: Variables
    """The collections that no gradient reaches: running averages, frozen norms."""
    opt_state: optax.OptState
    average: Params | None
    """Moving average of the parameters, where the recipe asks for one."""
    key: UInt32[Array, "2"]
    """Data of the run's random key; the key of a step is folded from it and the step."""

    @property
    def variables(self) -> Variables:
        """What to evaluate: the averaged parameters where there are any, with the statistics."""
        return {"params": self.params if self.average is None else self.average, **self.statistics}


def split(params: Params, frozen: tuple[str, ...]) -> tuple[Params, Params]:
    """(trained, frozen) as flat dictionaries from path to array. `frozen` are starts of paths, whole names only."""
    flat = traverse_util.flatten_dict(params, sep="/")
    still = {path for path in flat if any(path == f or path.startswith(f + "/") for f in frozen)}
    return {p: v for p, v in flat.items() if p not in still}, {p: flat[p] for p in flat if p in still}


def join(trained: Params, frozen: Params) -> Params:
    """The nested parameters that `split` took apart."""
    return traverse_util.unflatten_dict({**trained, **frozen}, sep="/")


def check_frozen(params: Params, frozen: tuple[str, ...]) -> None:
    """`ValueError` for an entry of `optim.freeze` that names no parameter."""
    for name in frozen:
        if not split(params, (name,))[1]:
            tops = sorted({"/".join(p.split("/")[:2]) for p in traverse_util.flatten_dict(params, sep="/")})
            raise ValueError(f"optim.freeze names {name!r}, where no parameter is; there are {', '.join(tops)}.")


def create_state(
    model: Model,
    optimizer: optax.GradientTransformation,
    batch: Batch,
    *,
    seed: int,
    frozen: tuple[str, ...] = (),
    average: bool = False,
    loaded: Variables | None = None,
) -> tuple[TrainState, dict[str, str]]:
    """A new run's state, and which of the `loaded` weights were not used: path -> reason.

    Args:
      batch: any batch, for its shapes.
      seed: of the run's key, from which the initial parameters are drawn too.
      frozen: starts of the paths of parameters that are not trained.
      average: keep a moving average.
      loaded: variables that replace the initial ones where path and shape agree.
    """
    key = jax.random.key(seed)
    # Drawing a hundred small arrays is all code and no work: without optimising it compiles six times as fast.
    init = jax.jit(model.init, compiler_options={"xla_backend_optimization_level": 0})
    variables = init(jax.random.fold_in(key, INIT), batch)
    unused: dict[str, str] = {}
    if loaded is not None:
        variables, unused = pretrained.merge(variables, loaded)
    check_frozen(variables["params"], frozen)
    return _state(variables, optimizer, key, frozen, average), unused


def state_shapes(
    model: Model, optimizer: optax.GradientTransformation, batch: Batch, *, frozen: tuple[str, ...], average: bool
) -> TrainState:
    """The shapes and types of what `create_state` makes, without making it."""

    def made(key: Array, batch: Batch) -> TrainState:
        return _state(model.init(key, batch), optimizer, key, frozen, average)

    return jax.eval_shape(made, jax.random.key(0), batch)


def _state(
    variables: Variables, optimizer: optax.GradientTransformation, key: Array, frozen: tuple[str, ...], average: bool
) -> TrainState:
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        statistics={name: value for name, value in variables.items() if name != "params"},
        opt_state=optimizer.init(split(params, frozen)[0]),
        average=jax.tree.map(jnp.copy, params) if average else None,
        key=jax.random.key_data(key),
    )
