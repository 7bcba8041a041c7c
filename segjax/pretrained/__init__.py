"""Weights trained elsewhere: torchvision's state dicts as variables, with the models they belong to."""

from segjax.pretrained.convert import from_torchvision, merge, model, names
from segjax.pretrained.files import read_weights
from segjax.pretrained.torch_file import read_torch_file

__all__ = ["from_torchvision", "merge", "model", "names", "read_torch_file", "read_weights"]
