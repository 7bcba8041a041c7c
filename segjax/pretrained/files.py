"""Weights from a file, whatever its format."""

from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from segjax.pretrained.torch_file import read_torch_file


def read_weights(path: str | Path) -> dict[str, np.ndarray]:
    """The state dict in a `.safetensors` file or, under any other ending, one that `torch.save` wrote.

    Neither runs code from the file, and neither needs torch.

    Raises:
      ValueError: the file is missing, damaged, or holds something else.
    """
    if Path(path).suffix != ".safetensors":
        return read_torch_file(path)
    try:
        return load_file(path)
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file.") from None
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} cannot be read as safetensors ({error}); download or export it again.") from error
