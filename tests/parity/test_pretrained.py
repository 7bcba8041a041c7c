"""What torch writes and torchvision computes, against what we read and compute."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")

from benchmarks.random_weights import randomize_norms  # noqa: E402
from segjax.models.layers.resnet import ResNet  # noqa: E402
from segjax.pretrained import from_torchvision, read_torch_file  # noqa: E402
from tests.parity.conftest import as_torch, random_images  # noqa: E402


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_classifier_weights_in_a_backbone(name, rng):
    torch.manual_seed(0)
    classifier = getattr(torchvision.models, name)(weights=None)
    mean, std = (torch.tensor(x).reshape(3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    images = torch.stack([(x - mean) / std for x in as_torch(random_images(rng, (96, 64), (96, 64)))])
    stages = {f"layer{i}": str(i) for i in range(1, 5)}
    body = torchvision.models._utils.IntermediateLayerGetter(classifier, stages)
    with torch.no_grad():
        randomize_norms(classifier, lambda: classifier(images))
        expected = [x.permute(0, 2, 3, 1).numpy() for x in body(images).values()]

    variables = from_torchvision(name, classifier.state_dict())
    backbone = ResNet(int(name.removeprefix("resnet")))
    variables = {collection: tree["backbone"] for collection, tree in variables.items()}
    maps = jax.jit(backbone.apply)(variables, images.permute(0, 2, 3, 1).numpy())
    assert len(maps) == len(expected) == 4
    for ours, theirs in zip(maps, expected):
        # float32 noise of up to fifty layers, as in test_faster_rcnn.py.
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max(), rtol=0)
        assert theirs.std() > 0.1


def every_kind_of_tensor():
    """Element types, layouts and sharing that a file can hold."""
    base = torch.randn(6, 8)
    return {
        "float32": base,
        "view of the same storage": base[2:4, 1:5],
        "transposed": base.T,
        "every second column": base[:, ::2],
        "expanded": torch.randn(3, 1).expand(3, 5),
        "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "no axes": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
        "empty at the end of a storage": torch.arange(5)[5:],
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "bool": torch.tensor([True, False]),
    } | {
        str(dtype): (100 * torch.rand(4)).to(dtype)
        for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.uint8)
    }


@pytest.mark.parametrize(
    "wrap",
    [dict, collections.OrderedDict, lambda s: {"model": s, "epoch": 3}, lambda s: {"state_dict": s, "best": 0.5}],
    ids=["dict", "OrderedDict", "model", "state_dict"],
)
def test_saved_tensors_are_read_as_torch_reads_them(tmp_path, wrap):
    state = every_kind_of_tensor()
    torch.save(wrap(state), tmp_path / "weights.pth")
    arrays = read_torch_file(tmp_path / "weights.pth")
    assert list(arrays) == list(state)
    for name, tensor in state.items():
        assert str(arrays[name].dtype) == str(tensor.dtype).removeprefix("torch."), name
        assert arrays[name].shape == tuple(tensor.shape), name
        # Through float64, which holds every number of every type but the largest int64.
        np.testing.assert_array_equal(arrays[name].astype(np.float64), tensor.detach().double().numpy(), err_msg=name)


def test_a_saved_model_gives_the_same_variables(tmp_path):
    """From the file, from torch's tensors, and from bfloat16 tensors within their precision."""
    model = torchvision.models.resnet18(weights=None)
    torch.save(model.state_dict(), tmp_path / "resnet18.pth")
    direct = from_torchvision("resnet18", model.state_dict())
    read = from_torchvision("resnet18", read_torch_file(tmp_path / "resnet18.pth"))
    jax.tree.map(np.testing.assert_array_equal, read, direct)
    half = from_torchvision("resnet18", {k: v.bfloat16() for k, v in model.state_dict().items()})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2**-8), half, direct)


def test_epsilon_is_what_torchvision_sets(rng):
    """`overwrite_eps(model, 0.0)` is what torchvision does to the detectors it released as COCO_V1."""
    frozen = torchvision.ops.FrozenBatchNorm2d
    network = torchvision.models.resnet18(weights=None, norm_layer=frozen)
    for module in network.modules():
        if isinstance(module, frozen):
            # Small enough for 1e-5 to matter: without the conversion the maps differ by a quarter.
            module.running_var.uniform_(1e-5, 1e-4)
            module.weight.uniform_(1e-3, 1e-2)
    images = torch.from_numpy(rng.normal(size=(1, 64, 64, 3)).astype(np.float32))
    variables = from_torchvision("resnet18", network.state_dict(), epsilon=0.0)
    torchvision.models.detection._utils.overwrite_eps(network, 0.0)
    with torch.no_grad():
        stem = network.maxpool(network.relu(network.bn1(network.conv1(images.permute(0, 3, 1, 2)))))
        expected = network.layer1(stem).permute(0, 2, 3, 1).numpy()
    backbone = {collection: tree["backbone"] for collection, tree in variables.items()}
    ours = ResNet(18, stages=(1,)).apply(backbone, jnp.asarray(images.numpy()))[0]
    np.testing.assert_allclose(ours, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)
