"""Weights are read from both kinds of file, and what is no such file is refused in a sentence."""

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from segjax.pretrained import read_weights


def test_safetensors_round_trip(tmp_path, rng):
    weights = {"a.weight": rng.normal(size=(3, 2, 1, 1)).astype(np.float32), "n": np.array(3, np.int64)}
    weights["half"] = weights["a.weight"].astype(ml_dtypes.bfloat16)
    save_file(weights, tmp_path / "w.safetensors")
    found = read_weights(tmp_path / "w.safetensors")
    assert found.keys() == weights.keys()
    for name, value in weights.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)


def test_a_missing_file_is_named(tmp_path):
    for name in ("none.safetensors", "none.pth"):
        with pytest.raises(ValueError, match=f"{name}: there is no such file"):
            read_weights(tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"\x08" + bytes(7) + b'{"a":1} ', b"PK\x03\x04 not a tensor"])
def test_a_damaged_file_is_refused(tmp_path, content):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"w\.safetensors cannot be read as safetensors"):
        read_weights(path)
