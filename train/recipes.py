"""Recipes from a command line or a file, and the run folders that record them."""

import dataclasses
import importlib
import importlib.util
import json
import pathlib
import sys
import types
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import tyro

from configs import CONFIGS
from configs.base import Recipe
from segjax.data.source import KeypointNames, Vocabulary
from train.runtime import one_sentence, write_text


def recipe_from(arguments: list[str], *, program: str, default: str | None = None) -> tuple[str, Recipe]:
    """The recipe named first on a command line, or of the file named there, with the options after it applied."""
    name, recipe, (first, *rest) = named_recipe(arguments, program=program, default=default)
    recipe = tyro.cli(Recipe, default=recipe, args=rest, prog=f"{program} {first}")
    return name, dataclasses.replace(recipe, run=recipe.run or pathlib.Path("runs") / name)


def named_recipe(arguments: list[str], *, program: str, default: str | None = None) -> tuple[str, Recipe, list[str]]:
    """The recipe named first on a command line, or of the file named there, and all arguments, with what names it."""
    if default and (not arguments or arguments[0].startswith("--")) and arguments[:1] not in (["--help"], ["-h"]):
        arguments = [default, *arguments]
    if arguments and arguments[0].endswith(".py"):
        with one_sentence():
            file = pathlib.Path(arguments[0])
            name, recipe = file.stem, recipe_of(file)
    elif arguments and arguments[0] in CONFIGS:
        name, recipe = arguments[0], CONFIGS[arguments[0]]
    else:
        lines = [f"  {name}: {_headline(name)}" for name in CONFIGS]
        given = f"no recipe is called {arguments[0]!r}. " if arguments and not arguments[0].startswith("-") else ""
        usage = f"usage: {program} NAME [--field value ...], where NAME is a .py file with a RECIPE, or one of"
        sys.exit("\n".join([given + usage, *lines]))
    return name, recipe, arguments


def recipe_of(file: pathlib.Path) -> Recipe:
    """The `RECIPE` of a Python file. `ValueError` where there is none."""
    recipe = getattr(load_module(file), "RECIPE", None)
    if not isinstance(recipe, Recipe):
        raise ValueError(f"{file} has no RECIPE of type configs.base.Recipe: add a line RECIPE = Recipe(...).")
    return recipe


def load_module(file: pathlib.Path) -> types.ModuleType:
    """A Python file as a module, executed once. `ValueError` where there is no such file."""
    file = file.resolve()
    name = f"recipe_{file.stem}_{zlib.crc32(str(file).encode()):08x}"
    if name not in sys.modules:
        if not file.is_file():
            raise ValueError(f"there is no file {file}.")
        spec = importlib.util.spec_from_file_location(name, file)
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _headline(name: str) -> str:
    module = sys.modules[f"configs.{name}"]
    return (module.__doc__ or "").strip().splitlines()[0]


def to_json(value: Any) -> Any:
    """A configuration as plain JSON values."""
    if dataclasses.is_dataclass(value):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple):
        fields = getattr(value, "_fields", None)
        return {f: to_json(v) for f, v in zip(fields, value)} if fields else [to_json(v) for v in value]
    return str(value) if isinstance(value, pathlib.Path) else value


def from_json(like: Any, value: Any) -> Any:
    """The configuration that `to_json` wrote, given one of the same type for its structure."""
    if dataclasses.is_dataclass(like):
        names = {field.name for field in dataclasses.fields(like)}
        if extra := set(value) - names:
            raise ValueError(f"the run's config.json has a field {extra.pop()!r} that this version does not know.")
        return dataclasses.replace(like, **{k: from_json(getattr(like, k), v) for k, v in value.items()})
    if hasattr(like, "_fields"):
        return like._replace(**{k: from_json(getattr(like, k), v) for k, v in value.items()})
    if isinstance(value, list):
        return tuple(from_json(None, v) for v in value)
    if isinstance(like, pathlib.Path) and value is not None:
        return pathlib.Path(value)
    return value


class SavedRun(NamedTuple):
    """What a run folder says of its run."""

    name: str
    recipe: Recipe
    vocabulary: Vocabulary


def save_run(name: str, recipe: Recipe, vocabulary: Vocabulary) -> None:
    """Writes config.json: the recipe, its name, where its model is defined, and what labels mean."""
    kind = type(recipe.model)
    defined = {"class": kind.__qualname__, "module": kind.__module__}
    if kind.__module__.startswith("recipe_"):
        defined["module"] = sys.modules[kind.__module__].__file__
    content = {"name": name, "model": defined, "recipe": to_json(recipe), **to_json(vocabulary)}
    write_text(recipe.run / "config.json", json.dumps(content, indent=2) + "\n")


def load_run(run: pathlib.Path) -> SavedRun:
    """What `save_run` wrote. `ValueError` where `run` is not the folder of a run."""
    path = run / "config.json"
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{run} is not the folder of a run: it has no config.json.") from None
    if "model" not in content:
        raise ValueError(f"{path} was written by another version of this program; train anew, or evaluate with that.")
    like = Recipe(model=_model_class(path, content["model"])())
    recipe = from_json(like, content["recipe"])
    # These may be paths where the default has none.
    given = content["recipe"]["start"]
    runs, weights = tuple(map(pathlib.Path, given["runs"])), given["weights"] and pathlib.Path(given["weights"])
    arrays = tuple(map(pathlib.Path, given.get("arrays", ())))  # runs of before had none
    start = dataclasses.replace(recipe.start, runs=runs, arrays=arrays, weights=weights)
    joints = content["keypoints"] and KeypointNames(**{k: _tuples(v) for k, v in content["keypoints"].items()})
    vocabulary = Vocabulary(tuple(content["classes"]), joints)
    return SavedRun(content["name"], dataclasses.replace(recipe, run=run, start=start), vocabulary)


def _model_class(path: pathlib.Path, defined: Mapping[str, str]) -> type:
    module = defined["module"]
    try:
        found = load_module(pathlib.Path(module)) if module.endswith(".py") else importlib.import_module(module)
        return getattr(found, defined["class"])
    except (ValueError, ImportError, AttributeError) as error:
        raise ValueError(
            f"{path} names the model {defined['class']} of {module}, which cannot be loaded ({error}); put it back, or "
            'correct "model" in that file.'
        ) from error


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def check_same(run: pathlib.Path, recipe: Recipe, vocabulary: Vocabulary) -> None:
    """`ValueError` where `run` was made with other settings or classes, naming the first; a run is one recipe."""
    _, old, trained = load_run(run)
    if trained.classes != vocabulary.classes:
        raise ValueError(f"{run} was trained on the classes {trained.classes}; the data now has {vocabulary.classes}.")
    if trained != vocabulary:
        raise ValueError(f"{run} was trained on other joints than the data has now: name another folder with --run.")
    if type(old.model).__qualname__ != type(recipe.model).__qualname__:
        raise ValueError(
            f"{run} holds a run of {type(old.model).__qualname__}, and this is {type(recipe.model).__qualname__}: "
            "name another folder with --run."
        )
    before, now = _flat(to_json(old)), _flat(to_json(recipe))
    # What changes no number that is trained, beyond the rounding of sums over devices.
    free = {"run", "devices", "log_every", "checkpoint_every", "keep", "eval_every", "eval_batch_size"}
    free |= {"data.threads", "data.workers", *(f"model.{name}" for name in recipe.model.untrained)}
    for field in sorted(before.keys() | now.keys()):
        if before.get(field) != now.get(field) and field not in free and field != "steps":
            raise ValueError(
                f"{run} holds a run with {field} = {before.get(field)}, and this one has {now.get(field)}: "
                "name another folder with --run, or remove that one."
            )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix[:-1]: value}
    return {k: v for name, inner in value.items() for k, v in _flat(inner, f"{prefix}{name}.").items()}
