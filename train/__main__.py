"""Trains a recipe.

python -m train faster_rcnn_scenes [--field value ...]
"""

import sys
from collections.abc import Callable

from configs.base import Recipe
from configs.rcnn import RegionClassifier
from train.alternating import alternate, alternating_runs
from train.loop import train
from train.recipes import recipe_from
from train.region_stages import region_runs, train_region_classifier
from train.runtime import one_sentence, setup


def trainer(recipe: Recipe) -> Callable[[str, Recipe], dict[str, float] | None]:
    """How a recipe is trained: in one run, or in stages that are runs themselves."""
    if recipe.alternating:
        return alternate
    if isinstance(recipe.model, RegionClassifier) and recipe.model.says == "svm":
        return train_region_classifier
    return train


def runs_of(recipe: Recipe) -> dict[str, Recipe]:
    """The runs that training consists of, by the stage that each is; itself, under no name, where it is one run."""
    kinds = {alternate: alternating_runs, train_region_classifier: region_runs, train: lambda recipe: {"": recipe}}
    return kinds[trainer(recipe)](recipe)


def main(arguments: list[str]) -> int:
    """Trains, or continues, and returns the exit status: 0 at the end, 143 when it was stopped and can be continued."""
    name, recipe = recipe_from(arguments, program="python -m train", default="faster_rcnn_scenes")
    setup()
    with one_sentence():
        return 143 if trainer(recipe)(name, recipe) is None else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
