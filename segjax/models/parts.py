"""A network in named parts, each a Flax module, whose variables lie beside each other under those names."""

import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from flax import linen as nn
from jaxtyping import Array, Key

from segjax.types import Variables

Module = nn.Module
"""A part of a network, for those who name the type and need no more of Flax."""


class Parts(NamedTuple):
    """Modules by name. The variables of all are one tree, `{collection: {name: ...}}`, in which any may be replaced."""

    modules: Mapping[str, nn.Module]

    def init(
        self, key: Key[Array, ""], variables: Variables, name: str, *args: Any, **options: Any
    ) -> tuple[Any, Variables]:
        """What part `name` gives for these arguments, and `variables` with its initial ones."""
        output, made = self.modules[name].init_with_output(_own(key, name), *args, **options)
        return output, _with(variables, name, made)

    def __call__(self, variables: Variables, name: str, *args: Any, **options: Any) -> Any:
        """What part `name` gives, its statistics and dropout as in prediction."""
        return self.modules[name].apply(_of(variables, name), *args, **options)

    def train(
        self, key: Key[Array, ""], variables: Variables, name: str, *args: Any, **options: Any
    ) -> tuple[Any, Variables]:
        """What part `name` gives in training, and `variables` with its new running statistics.

        `key` is for dropout; each part draws from its own stream.
        """
        rngs = {"dropout": _own(key, name)}
        output, updates = self.modules[name].apply(
            _of(variables, name), *args, train=True, rngs=rngs, mutable=["batch_stats"], **options
        )
        return output, _with(variables, name, updates)


def _own(key: Key[Array, ""], name: str) -> Key[Array, ""]:
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def _of(variables: Variables, name: str) -> Variables:
    return {collection: tree[name] for collection, tree in variables.items() if name in tree}


def _with(variables: Variables, name: str, own: Variables) -> Variables:
    new = {collection: {**variables.get(collection, {}), name: tree} for collection, tree in own.items()}
    return {**variables, **new}
