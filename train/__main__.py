"""Trains a recipe.

python -m train faster_rcnn_scenes [--field value ...]
"""

import sys

from train.alternating import alternate
from train.loop import train
from train.recipes import recipe_from
from train.runtime import one_sentence, setup


def main(arguments: list[str]) -> int:
    """Trains, or continues, and returns the exit status: 0 at the end, 143 when it was stopped and can be continued."""
    name, recipe = recipe_from(arguments, program="python -m train", default="faster_rcnn_scenes")
    setup()
    with one_sentence():
        return 143 if (alternate if recipe.alternating else train)(name, recipe) is None else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
