"""Reads the files that `torch.save` writes, without torch and without running what is in them."""

import collections
import pickle
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

_STORAGES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


class _Storage:
    """Stands for a torch storage class inside the pickle: only its element type matters."""

    def __init__(self, name: str):
        self.dtype = np.dtype(_STORAGES[name])


def _tensor(storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> np.ndarray:
    """What `torch._utils._rebuild_tensor_v2` does, in NumPy; offsets and strides count elements."""
    if not (isinstance(storage, np.ndarray) and storage.ndim == 1 and len(size) == len(stride)):
        raise ValueError("a tensor is not described by a storage, a shape and as many strides")
    if 0 in size:
        return np.empty(size, storage.dtype)
    last = offset + sum((n - 1) * s for n, s in zip(size, stride))
    if min((offset, *size, *stride)) < 0 or last >= storage.size:
        raise ValueError(f"a tensor of shape {size} reaches outside its storage of {storage.size} elements")
    strides = tuple(s * storage.itemsize for s in stride)
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides).copy()


class _Unpickler(pickle.Unpickler):
    """An unpickler that knows tensors and plain containers, and refuses every other name."""

    def __init__(self, archive: zipfile.ZipFile, member: str):
        super().__init__(archive.open(member))
        self._archive = archive
        self._root = member.removesuffix("data.pkl")

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda data, *_: data
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module == "torch" and name in _STORAGES:
            return _Storage(name)
        raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is not part of a state dict")

    def persistent_load(self, pid: Any) -> np.ndarray:
        _, storage, key, _, _ = pid
        return np.frombuffer(self._archive.read(f"{self._root}data/{key}"), storage.dtype)


def read_torch_file(path: str | Path) -> dict[str, np.ndarray]:
    """The state dict in a file that `torch.save` wrote (the zip format, torch 1.6 of 2020 and later).

    A file that holds a training checkpoint is searched for a state dict under "model" or "state_dict". Nothing in
    the file is executed: only tensors and dictionaries are accepted.

    Raises:
      ValueError: the file is missing, of the older format, damaged, or holds something else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            member = next((n for n in archive.namelist() if n.endswith("/data.pkl") or n == "data.pkl"), None)
            if member is None:
                raise ValueError("it has no data.pkl")
            content = _Unpickler(archive, member).load()
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file.") from None
    except Exception as error:  # A damaged pickle can fail in any way: TypeError, KeyError, MemoryError, ...
        raise ValueError(
            f"{path} is not a state dict that can be read without torch ({error}); load it with torch and save "
            "`model.state_dict()` with `torch.save` to a new file."
        ) from error
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(v, np.ndarray) for v in content.values()):
        raise ValueError(
            f"{path} holds no state dict: names with tensors; save `model.state_dict()` with `torch.save`."
        )
    return dict(content)
