"""What is wrong with a head, in one sentence that names it; all of it is found while tracing."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from segjax.types import Losses


def check_head(name: str, head: Any, members: Sequence[str], protocol: str) -> None:
    """`ValueError` where something is not a head of this kind, saying what it lacks."""
    if isinstance(head, type):
        raise ValueError(f"head {name!r} is the class {head.__name__}; give an instance of it.")
    if lacking := [member for member in members if not hasattr(head, member)]:
        raise ValueError(f"head {name!r}, a {type(head).__name__}, has no {' and no '.join(lacking)}: see {protocol}.")


def check_rows(who: str, values: Any, rows: tuple[int, ...], axes: str) -> None:
    """`ValueError` unless all arrays among `values` begin with the axes `rows`, which `axes` names."""
    for path, value in jax.tree_util.tree_leaves_with_path(values):
        if jnp.shape(value)[: len(rows)] != rows:
            at = jax.tree_util.keystr(path)
            raise ValueError(f"{who} gave an array{at} of shape {jnp.shape(value)}; it must begin with {rows}, {axes}.")


def check_losses(name: str, terms: Any) -> Losses:
    """The loss terms of a head. `ValueError` where they are not scalars by name."""
    if not isinstance(terms, Mapping):
        raise ValueError(f"the losses of head {name!r} are a {type(terms).__name__}; return a dict, {{name: scalar}}.")
    for term, value in terms.items():
        if jnp.shape(value) != ():
            raise ValueError(f"loss {term!r} of head {name!r} has the shape {jnp.shape(value)}; return a scalar.")
    return terms
