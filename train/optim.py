"""Optimisers and learning rates from `configs.base.Optim`, over optax."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from configs.base import Optim


def schedule(optim: Optim, steps: int) -> optax.Schedule:
    """Learning rate by step: a linear warm-up, then `optim.schedule` until `steps`."""
    warmup = min(optim.warmup_steps, steps)
    if optim.schedule == "constant":
        main = optax.constant_schedule(optim.lr)
    elif optim.schedule == "cosine":
        main = optax.cosine_decay_schedule(optim.lr, max(steps - warmup, 1))
    else:
        at = [max(round(share * steps) - warmup, 0) for share in optim.milestones]
        main = optax.piecewise_constant_schedule(optim.lr, {step: 0.1 ** at.count(step) for step in at})
    if not warmup:
        return main
    return optax.join_schedules([optax.linear_schedule(optim.lr / 1000, optim.lr, warmup), main], [warmup])


def _decayed(params: Any) -> Any:
    # Norms' scales and all biases are vectors; every weight that decays is a matrix or a kernel.
    return jax.tree.map(lambda p: p.ndim > 1, params)


def optimizer(optim: Optim, steps: int) -> optax.GradientTransformation:
    """Gradient clipping, weight decay, the optimiser itself and the factors of the rate, for parameters by path.

    SGD decays as torch does: in the gradient. Decay is multiplied by a parameter's rate in both.

    Raises:
      ValueError: from `init`, where an entry of `optim.factors` names no parameter that is trained.
    """
    core = _optimizer(optim, steps)
    return optax.chain(core, _by_path(optim.factors)) if optim.factors else core


def _optimizer(optim: Optim, steps: int) -> optax.GradientTransformation:
    rate = schedule(optim, steps)
    clip = [optax.clip_by_global_norm(optim.clip_norm)] if optim.clip_norm else []
    if optim.name == "adamw":
        return optax.chain(*clip, optax.adamw(rate, b1=optim.momentum, weight_decay=optim.weight_decay, mask=_decayed))
    decay = optax.add_decayed_weights(optim.weight_decay, mask=_decayed)
    return optax.chain(*clip, decay, optax.sgd(rate, momentum=optim.momentum))


def _by_path(factors: tuple[tuple[str, float], ...]) -> optax.GradientTransformation:
    """Multiplies the change of each parameter by the factor of the longest start of its path that is given."""
    by_length = sorted(factors, key=lambda entry: -len(entry[0]))

    def name_of(path: Any) -> str:
        return "/".join(str(part.key) for part in path)

    def fits(start: str, name: str) -> bool:
        return name == start or name.startswith(start + "/")

    def init(params: Any) -> optax.OptState:
        names = [name_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        for start, _ in factors:
            if not any(fits(start, name) for name in names):
                tops = ", ".join(sorted({"/".join(name.split("/")[:2]) for name in names}))
                raise ValueError(f"optim.factors names {start!r}, where no parameter is trained; there are {tops}.")
        return optax.EmptyState()

    def update(updates: Any, state: optax.OptState, params: Any = None) -> tuple[Any, optax.OptState]:
        del params

        def scaled(path: Any, change: Any) -> Any:
            name = name_of(path)
            return next((factor for start, factor in by_length if fits(start, name)), 1.0) * change

        return jax.tree_util.tree_map_with_path(scaled, updates), state

    return optax.GradientTransformation(init, update)


def moving_average(decay: float) -> Callable[[Any, Any, Any], Any]:
    """(average, params, step) -> the new average. The decay grows from 0.1 at first, so that the start is forgotten."""

    def update(average: Any, params: Any, step: Any) -> Any:
        now = step.astype(jnp.float32)
        d = jnp.minimum(decay, (1.0 + now) / (10.0 + now))
        return jax.tree.map(lambda a, p: d * a + (1.0 - d) * p, average, params)

    return update
