"""`torch.save`'s format, put together by hand: a zip with a pickle, and one file of plain bytes for each storage."""

import re
import zipfile
from typing import NamedTuple

import ml_dtypes
import numpy as np
import pytest

from segjax.pretrained import read_torch_file


class Name(NamedTuple):
    """A class or function by its module, which need not exist here."""

    module: str
    name: str


class Call(NamedTuple):
    """A function called while the file is read."""

    function: Name
    arguments: tuple


class Storage(NamedTuple):
    """A reference to the bytes of a tensor."""

    kind: str
    key: str
    count: int


def opcodes(x) -> bytes:
    """`x` in the instructions of a pickle, of which the oldest, readable ones do."""
    match x:
        case Name():
            return f"c{x.module}\n{x.name}\n".encode()
        case Call():
            return opcodes(x.function) + opcodes(x.arguments) + b"R"
        case Storage():
            return opcodes(("storage", Name("torch", x.kind), x.key, "cpu", x.count)) + b"Q"
        case bool():
            return b"I01\n" if x else b"I00\n"
        case int():
            return f"I{x}\n".encode()
        case str():
            return f"V{x}\n".encode()
        case tuple():
            return b"(" + b"".join(map(opcodes, x)) + b"t"
        case dict():
            return b"}(" + b"".join(opcodes(key) + opcodes(value) for key, value in x.items()) + b"u"
    raise TypeError(x)


def tensor(storage, size, stride, offset=0):
    """A tensor as torch writes it; the last two say that it needs no gradient and has no hooks."""
    arguments = (storage, offset, size, stride, False, Call(Name("collections", "OrderedDict"), ()))
    return Call(Name("torch._utils", "_rebuild_tensor_v2"), arguments)


def write(path, content, storages=None, *, member="weights/data.pkl"):
    """A file with `content` and the bytes of `storages`."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, opcodes(content) + b".")
        for key, array in (storages or {}).items():
            archive.writestr(member.replace("data.pkl", f"data/{key}"), array.tobytes())
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.pth"


NUMBERS = np.arange(12, dtype=np.float32)
TWELVE = Storage("FloatStorage", "0", 12)


@pytest.mark.parametrize("member", ["weights/data.pkl", "data.pkl"])
def test_strides_and_offsets(path, member):
    content = {
        "whole": tensor(TWELVE, (3, 4), (4, 1)),
        "transposed": tensor(TWELVE, (4, 3), (1, 4)),
        "column": tensor(TWELVE, (3,), (4,), offset=2),
        "expanded": tensor(TWELVE, (2, 3), (0, 1), offset=9),
        "scalar": tensor(TWELVE, (), (), offset=5),
        "empty": tensor(TWELVE, (0, 4), (4, 1), offset=12),
        "parameter": Call(Name("torch._utils", "_rebuild_parameter"), (tensor(TWELVE, (1,), (1,)), True, {})),
    }
    state = read_torch_file(write(path, content, {"0": NUMBERS}, member=member))
    grid = NUMBERS.reshape(3, 4)
    expected = [grid, grid.T, grid[:, 2], [[9, 10, 11]] * 2, 5, np.zeros((0, 4)), [0]]
    assert list(state) == list(content)
    for array, values in zip(state.values(), expected):
        np.testing.assert_array_equal(array, np.asarray(values, np.float32), strict=True)
        assert array.flags.owndata and array.flags.writeable


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("FloatStorage", np.float32),
        ("DoubleStorage", np.float64),
        ("HalfStorage", np.float16),
        ("BFloat16Storage", ml_dtypes.bfloat16),
        ("LongStorage", np.int64),
        ("IntStorage", np.int32),
        ("ShortStorage", np.int16),
        ("CharStorage", np.int8),
        ("ByteStorage", np.uint8),
        ("BoolStorage", np.bool_),
    ],
)
def test_element_types(path, kind, dtype):
    array = np.array([1, 0, 3], dtype)
    write(path, {"x": tensor(Storage(kind, "7", 3), (3,), (1,))}, {"7": array})
    np.testing.assert_array_equal(read_torch_file(path)["x"], array, strict=True)


@pytest.mark.parametrize("wrap", [lambda s: {"model": s, "epoch": 3}, lambda s: {"state_dict": s}])
def test_state_dict_in_a_checkpoint(path, wrap):
    write(path, wrap({"x": tensor(TWELVE, (12,), (1,))}), {"0": NUMBERS})
    np.testing.assert_array_equal(read_torch_file(path)["x"], NUMBERS)


def fails(path, reason):
    """Reading raises ValueError, which names the file and the reason."""
    with pytest.raises(ValueError, match=f"(?s){re.escape(str(path))}.*{reason}"):
        read_torch_file(path)


def test_files_that_are_no_state_dict(path, tmp_path):
    fails(path, "no such file")
    path.write_bytes(b"\x80\x02not a zip, as torch wrote before 1.6")
    fails(path, "not a zip")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights/version", "3")
    fails(path, r"no data\.pkl")
    fails(tmp_path, "load it with torch")
    fails(write(path, {"epoch": 3}), "holds no state dict")
    fails(write(path, (1, 2)), "holds no state dict")


@pytest.mark.parametrize("function", [Name("os", "system"), Name("posix", "system"), Name("builtins", "eval")])
def test_nothing_in_the_file_is_run(path, tmp_path, function):
    witness = tmp_path / "witness"
    command = f"touch {witness}" if function.name == "system" else f"open({str(witness)!r}, 'w')"
    write(path, {"x": Call(function, (command,))})
    fails(path, rf"{function.module}\.{function.name}, which is not part of a state dict")
    assert not witness.exists()


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [((13,), (1,), 0), ((3, 4), (5, 1), 0), ((12,), (1,), 1), ((), (), 12), ((2,), (-1,), 5), ((1,), (1,), -1)],
)
def test_tensors_that_reach_outside_their_storage(path, size, stride, offset):
    write(path, {"x": tensor(TWELVE, size, stride, offset)}, {"0": NUMBERS})
    fails(path, "reaches outside its storage of 12 elements")


def test_damaged_descriptions(path):
    """What no `torch.save` writes is an error too, and never a look at memory beside the storage."""
    # A tensor of two axes in place of a storage: its rows would be counted as elements.
    write(path, {"x": tensor(tensor(TWELVE, (3, 4), (4, 1)), (10,), (1,), offset=2)}, {"0": NUMBERS})
    fails(path, "not described by a storage")
    write(path, {"x": tensor(TWELVE, (3, 4), (1,))}, {"0": NUMBERS})
    fails(path, "as many strides")
    write(path, {"x": tensor(TWELVE, ("a",), (1,))}, {"0": NUMBERS})
    fails(path, "load it with torch")
    # Four terabytes out of one number.
    write(path, {"x": tensor(TWELVE, (10**6, 10**6), (0, 0))}, {"0": NUMBERS})
    fails(path, "load it with torch")
    write(path, {"x": tensor(TWELVE, (12,), (1,))})
    fails(path, "data/0")
    write(path, {"x": tensor(Storage("QUInt8Storage", "0", 12), (12,), (1,))}, {"0": NUMBERS})
    fails(path, r"torch\.QUInt8Storage")
    write(path, {"x": tensor(TWELVE, (12,), (1,))}, {"0": NUMBERS})
    path.write_bytes(path.read_bytes()[:-30])
    fails(path, "not a zip")
