"""A step of training in both libraries: forward, backward, and SGD with momentum and weight decay."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import torch

from benchmarks.cases import Compiled, Setting
from segjax.types import Batch, Model, Variables
from train.state import TrainState, split
from train.step import data_mesh, make_step

LEARNING_RATE, MOMENTUM, DECAY = 1e-6, 0.9, 1e-4
"""The rate is so small that random weights stay what they are over the repeats: the work is the same in each."""


class OurStep:
    """The step of `python -m train`, carrying its state from call to call; a call returns the loss.

    Args:
        network, variables, batch: what is trained, from where and on what.
        frozen: parameters not trained, by the start of their path.
    """

    def __init__(self, network: Model, variables: Variables, batch: Batch, *, frozen: tuple[str, ...] = ()) -> None:
        statistics = dict(variables)
        params = statistics.pop("params")
        trained, _ = split(params, frozen)
        self.trained = sum(p.size for p in trained.values())
        optimizer = optax.chain(optax.add_decayed_weights(DECAY), optax.sgd(LEARNING_RATE, momentum=MOMENTUM))
        key = jax.random.key_data(jax.random.key(0))
        state = TrainState(jnp.int32(0), params, statistics, jax.jit(optimizer.init)(trained), None, key)
        step = make_step(network, optimizer, mesh=data_mesh(1), frozen=frozen)
        self.state, self.batch = jax.tree.map(jnp.copy, state), batch
        compiled = Compiled(step.jitted, self.state, batch)
        self.program, self.seconds, self.temporary_mib = compiled, compiled.seconds, compiled.temporary_mib

    def __call__(self) -> float:
        self.state, metrics = self.program(self.state, self.batch)
        return float(metrics["loss"])


class TheirStep:
    """The same of a torch network, on those of its parameters that want gradients; a call returns the loss.

    Args:
        network: in training mode.
        losses: runs it on a batch, and gives the loss terms by name.
        setting: where and in which precision.
    """

    def __init__(self, network: Any, losses: Callable[[], dict[str, torch.Tensor]], setting: Setting) -> None:
        trained = [p for p in network.parameters() if p.requires_grad]
        self.trained, self.losses, self.setting = sum(p.numel() for p in trained), losses, setting
        self.sgd = torch.optim.SGD(trained, LEARNING_RATE, momentum=MOMENTUM, weight_decay=DECAY)

    def __call__(self) -> float:
        with self.setting.autocast:
            losses = self.losses()
        self.sgd.zero_grad()
        loss = sum(losses.values())
        loss.backward()
        self.sgd.step()
        return float(loss.detach())
