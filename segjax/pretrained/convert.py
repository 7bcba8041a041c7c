"""State dicts of torchvision -> variables of segjax, and the models those variables belong to."""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from segjax.models.faster_rcnn import faster_rcnn
from segjax.models.layers.norms import FrozenBatchNorm
from segjax.models.layers.resnet import BLOCKS, ResNet
from segjax.pretrained.rules import LAYOUTS, Rule, faster_rcnn_rules, resnet_rules
from segjax.types import Batch, Instances, Model, Variables

EPSILON = FrozenBatchNorm.epsilon
"""What our frozen batch norms, and torch's by default, add to the variance."""
_BACKBONES = {f"resnet{depth}": depth for depth in BLOCKS}


def _faster_rcnn_r50(*, classes: int = 90, dtype: DTypeLike = jnp.float32, **options: Any) -> Model:
    return faster_rcnn(classes, backbone=ResNet(50, dtype=dtype), dtype=dtype, **options)


_MODELS: dict[str, tuple[Callable[..., Model], Callable[[], list[Rule]]]] = {
    "fasterrcnn_resnet50_fpn": (_faster_rcnn_r50, faster_rcnn_rules),
}


def names() -> tuple[str, ...]:
    """The names that `from_torchvision` knows."""
    return (*_MODELS, *_BACKBONES)


def _check_name(name: str, known: Mapping[str, Any]) -> None:
    if name not in known:
        raise ValueError(f"no torchvision model called {name!r} is known here; choose one of {', '.join(known)}.")


def model(name: str, **options: Any) -> Model:
    """The `Model` that torchvision calls `name`, with torchvision's defaults.

    Args:
      name: as in torchvision.models, for example "fasterrcnn_resnet50_fpn".
      **options: what the model's function takes: `classes` (without background; 90 for the COCO weights), `dtype`, ...

    Raises:
      ValueError: the name is not known.
    """
    _check_name(name, _MODELS)
    return _MODELS[name][0](**options)


def from_torchvision(name: str, state_dict: Mapping[str, Any], *, epsilon: float = EPSILON) -> Variables:
    """The variables that a torchvision state dict holds.

    Args:
      name: as in torchvision.models. The name of a backbone ("resnet50") takes the weights of the classifier of that
        name and gives the backbone's part of a detector's variables, for `merge`.
      state_dict: names to arrays: torch tensors, NumPy arrays, or what `read_torch_file` returns.
      epsilon: what the batch norms that the weights were trained with add to the variance. The detectors that
        torchvision released as COCO_V1 need 0.0, which torchvision itself sets after loading them; weights of models
        made or fine-tuned otherwise have 1e-5. The scales are converted, so that our norms give the same numbers.

    Raises:
      ValueError: the name is not known, an entry of the state dict is none of this model's, or one is missing.
    """
    _check_name(name, {**_MODELS, **_BACKBONES})
    if name in _MODELS:
        rules = _MODELS[name][1]()
    else:
        # The classifier's last layer has no place in a detector.
        rules = [*resnet_rules("", "backbone", "frozen_batch"), Rule(r"fc\.(weight|bias)", "")]
    variables = apply_rules(rules, state_dict, name=name)
    _check_complete(name, variables)
    return _with_epsilon(variables, epsilon)


@functools.cache
def _paths(name: str) -> tuple[str, ...]:
    """The paths of all variables that `name` has, from tracing its initialisation."""
    key, image = jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32)
    if name in _BACKBONES:
        shapes = jax.eval_shape(ResNet(_BACKBONES[name]).init, key, image)
        return tuple(path.replace("/", "/backbone/", 1) for path in _flat(shapes))
    objects = Instances(np.zeros((1, 1, 4), np.float32), np.zeros((1, 1), np.int32), np.zeros((1, 1), bool))
    batch = Batch(image, np.zeros((1, 2), np.int32), objects, np.zeros(1, np.int32))
    return tuple(_flat(jax.eval_shape(model(name).init, key, batch)))


def _check_complete(name: str, variables: Variables) -> None:
    """`ValueError` where a variable of the model called `name` has got no value: half a detector is of no use."""
    loaded = _flat(variables)
    missing = [path for path in _paths(name) if path not in loaded]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ValueError(
            f"the state dict lacks the weights of {', '.join(missing[:3])}{more}, which {name} needs; "
            "check that it is of this model and whole."
        )


def _with_epsilon(variables: Variables, epsilon: float) -> Variables:
    """Frozen norms whose statistics were meant for `epsilon`, rescaled to what `FrozenBatchNorm` adds."""
    if epsilon == EPSILON:
        return variables

    def rescale(tree):
        if "var" not in tree:
            return {name: rescale(branch) for name, branch in tree.items()}
        return {**tree, "scale": tree["scale"] * jnp.sqrt((tree["var"] + EPSILON) / (tree["var"] + epsilon))}

    return {**variables, "frozen": rescale(variables["frozen"])}


def apply_rules(rules: list[Rule], state_dict: Mapping[str, Any], *, name: str) -> Variables:
    """Nested variables from a flat state dict by the first rule that fits each entry. `name` is for messages."""
    tree: dict[str, Any] = {}
    for key, value in state_dict.items():
        rule, found = next(((r, m) for r in rules if (m := re.fullmatch(r.pattern, key))), (None, None))
        if rule is None:
            raise ValueError(
                f"the state dict has an entry {key!r} that {name} does not; check that it is of this model."
            )
        if rule.path:
            *modules, leaf = found.expand(rule.path).split("/")
            branch = tree
            for module in modules:
                branch = branch.setdefault(module, {})
            # NumPy has no bfloat16 of torch's.
            array = value.detach().cpu().float().numpy() if hasattr(value, "detach") else np.asarray(value)
            branch[leaf] = jnp.asarray(LAYOUTS[rule.layout](array), jnp.float32)
    return tree


def merge(variables: Variables, loaded: Variables) -> tuple[Variables, dict[str, str]]:
    """`variables` with the values of `loaded` wherever path and shape agree.

    Returns:
      The new variables, and what of `loaded` was not used: path -> reason, a sentence each. A detector fine-tuned to
      other classes leaves out its class and box layers this way, and the caller should say so.
    """
    flat = _flat(variables)
    unused = {}
    for path, value in _flat(loaded).items():
        if path not in flat:
            unused[path] = "the model has no such variable"
        elif flat[path].shape != value.shape:
            unused[path] = f"its shape is {value.shape}, the model's is {flat[path].shape}"
        else:
            flat[path] = value
    return jax.tree_util.tree_map_with_path(lambda p, _: flat[_path(p)], variables), unused


def _flat(variables: Variables) -> dict[str, Any]:
    return {_path(path): value for path, value in jax.tree_util.tree_leaves_with_path(variables)}


def _path(path: tuple[Any, ...]) -> str:
    return "/".join(str(part.key) for part in path)
