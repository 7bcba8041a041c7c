"""State dicts of torchvision -> variables of segjax, and the models those variables belong to."""

import functools
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segjax.models.layers.norms import NormName
from segjax.pretrained.models import BACKBONES, DETECTORS, SEGMENTERS, Backbone, Detector, Segmenter
from segjax.pretrained.rules import LAYOUTS, Rule
from segjax.types import Batch, Instances, Model, Variables

OPTIONAL = "auxiliary"
"""The part of a model that a state dict may lack as a whole: torchvision has it with `aux_loss=True` alone."""


def names() -> tuple[str, ...]:
    """The names that `from_torchvision` knows: detectors, models of semantic segmentation, then backbones."""
    return (*DETECTORS, *SEGMENTERS, *BACKBONES)


def _entry(name: str) -> Detector | Segmenter | Backbone:
    tables = {**DETECTORS, **SEGMENTERS, **BACKBONES}
    _check_name(name, tables)
    return tables[name]


def _check_name(name: str, known: Mapping[str, Any]) -> None:
    if name not in known:
        raise ValueError(f"no torchvision model called {name!r} is known here; choose one of {', '.join(known)}.")


def model(name: str, **options: Any) -> Model:
    """The `Model` that torchvision calls `name`, with torchvision's defaults.

    Args:
      name: as in torchvision.models, for example "fasterrcnn_resnet50_fpn".
      **options: what the model's function takes: `classes`, `dtype`, ... Detectors count them without background, 90
        for the COCO weights; models of semantic segmentation with it, 21 for those with the classes of Pascal VOC. The
        latter take `norm` too, the kind of the backbone's norms, "batch" by default, and, but for Lite R-ASPP,
        `auxiliary`, whether there is the head that torchvision has with `aux_loss=True`; there is one by default.

    Raises:
      ValueError: the name is not known.
    """
    models = {**DETECTORS, **SEGMENTERS}
    _check_name(name, models)
    return models[name].make(**options)


def from_torchvision(
    name: str, state_dict: Mapping[str, Any], *, epsilon: float | None = None, norm: NormName | None = None
) -> Variables:
    """The variables that a torchvision state dict holds.

    Args:
      name: as in torchvision.models. The name of a backbone ("resnet50") takes the weights of the classifier of that
        name and gives the backbone's part of a detector's variables, for `merge`. "vgg16" gives the two hidden layers
        of its classifier too, as the box head's "fc6" and "fc7"; "alexnet" gives all of it, as the part "classifier".
      state_dict: names to arrays: torch tensors, NumPy arrays, or what `read_torch_file` returns.
      epsilon: what the batch norms that the weights were trained with add to the variance, by default what the model
        called `name` here adds. The ResNet detectors that torchvision released as COCO_V1, but for the `_v2` ones and
        FCOS, need 0.0, which torchvision itself sets after loading them; weights of models made or fine-tuned otherwise
        have 1e-5. The scales of norms that are constants are converted, so that ours give the same numbers.
      norm: the kind of norms that the backbone is to have, "frozen_batch" or "batch". Where `name` is a backbone's, the
        former is the default; where it is that of a model of semantic segmentation, the latter, and its heads have
        "batch" always. The norms of detectors are torchvision's: trained in the `_v2` forms, constants in the others.
        "vgg16" and "alexnet" have none.

    Raises:
      ValueError: the name is not known, an entry of the state dict is none of this model's, or one is missing; an
        epsilon that would change norms which are trained, or a norm that there is no choice of.
    """
    entry = _entry(name)
    _check_norm(name, norm)
    norm = norm or ("batch" if name in SEGMENTERS else "frozen_batch")
    rules = entry.rules() if name in DETECTORS else entry.rules(norm)
    variables = apply_rules(rules, state_dict, name=name)
    _check_complete(name, variables, norm)
    return _with_epsilon(name, variables, given=entry.epsilon if epsilon is None else epsilon, ours=entry.epsilon)


def _check_norm(name: str, norm: NormName | None) -> None:
    """`ValueError` for a kind of norms that would do nothing or that there are no weights of."""
    if norm is None:
        return
    if name in DETECTORS or norm not in ("frozen_batch", "batch"):
        raise ValueError(
            f"norm is {norm!r} for {name}; only backbones and models of semantic segmentation take one, "
            "'frozen_batch' or 'batch'."
        )
    if name in BACKBONES and not BACKBONES[name].norms:
        raise ValueError(f"norm is {norm!r} for {name}, which has no norms; leave it out.")


@functools.cache
def _paths(name: str, norm: NormName) -> tuple[str, ...]:
    """The paths of all variables that `name` has, from tracing its initialisation."""
    side = DETECTORS[name].side if name in DETECTORS else 32
    key, image = jax.random.key(0), np.zeros((1, side, side, 3), np.float32)
    if name in BACKBONES:
        entry = BACKBONES[name]
        own = (path.replace("/", "/backbone/", 1) for path in _flat(jax.eval_shape(entry.make(norm).init, key, image)))
        return (*own, *(f"params/{layer}/{leaf}" for layer in entry.layers for leaf in ("kernel", "bias")))
    objects = Instances(np.zeros((1, 1, 4), np.float32), np.zeros((1, 1), np.int32), np.zeros((1, 1), bool))
    batch = Batch(image, np.zeros((1, 2), np.int32), objects, np.zeros(1, np.int32))
    options = {"norm": norm} if name in SEGMENTERS else {}
    return tuple(_flat(jax.eval_shape(model(name, **options).init, key, batch)))


def _check_complete(name: str, variables: Variables, norm: NormName) -> None:
    """`ValueError` where a variable of the model called `name` has got no value: half a detector is of no use."""
    loaded = _flat(variables)
    missing = [path for path in _paths(name, norm) if path not in loaded]
    if name in SEGMENTERS and OPTIONAL not in variables.get("params", {}):
        missing = [path for path in missing if path.split("/")[1] != OPTIONAL]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ValueError(
            f"the state dict lacks the weights of {', '.join(missing[:3])}{more}, which {name} needs; "
            "check that it is of this model and whole."
        )


def _with_epsilon(name: str, variables: Variables, *, given: float, ours: float) -> Variables:
    """Frozen norms whose statistics were meant for the epsilon `given`, rescaled to what `ours` makes of them."""
    if given == ours:
        return variables
    if "frozen" not in variables:
        raise ValueError(
            f"epsilon is {given} for {name}, which has no norms that are constants; only the scales of such can be "
            f"converted from one epsilon to another, and trained ones have {ours} here."
        )

    def rescale(tree):
        if "var" not in tree:
            return {name: rescale(branch) for name, branch in tree.items()}
        return {**tree, "scale": tree["scale"] * jnp.sqrt((tree["var"] + ours) / (tree["var"] + given))}

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
            # A copy: on a CPU an array would else share its memory with a torch model that may be trained on.
            branch[leaf] = jnp.array(LAYOUTS[rule.layout](array), jnp.float32)
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
