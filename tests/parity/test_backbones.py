"""Backbones and necks with the same random weights: the same maps, gradients and statistics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")

from benchmarks.random_weights import randomize_norms  # noqa: E402
from segjax.models.layers.fpn import FPN  # noqa: E402
from segjax.models.layers.mobilenet import MobileNetV3  # noqa: E402
from segjax.models.layers.resnet import ResNet, resnet_stage  # noqa: E402
from segjax.models.layers.vgg import VGG16  # noqa: E402
from segjax.pretrained import from_torchvision  # noqa: E402
from segjax.pretrained.convert import apply_rules  # noqa: E402
from segjax.pretrained.rules import mobilenet_rules, resnet_rules, two_stage_v2_rules  # noqa: E402

SIZE = (64, 96)


def image(size=SIZE, count=1):
    """Normalised images, [b, 3, h, w]."""
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1))


def channels_last(x):
    return x.detach().movedim(1, -1).numpy()


def agree(ours, theirs, tolerance=1e-5):
    """Equal to within `tolerance` of the largest value, and values that differ among themselves."""
    theirs = np.asarray(theirs)
    np.testing.assert_allclose(ours, theirs, atol=tolerance * np.abs(theirs).max(), rtol=0)
    assert theirs.std() > 0


def backbone_of(variables):
    return {collection: tree["backbone"] for collection, tree in variables.items()}


def maps_after(network, x, indices):
    """The maps after some of the modules of a sequence."""
    maps = []
    for i, module in enumerate(network):
        x = module(x)
        if i in indices:
            maps.append(channels_last(x))
    return maps


@pytest.fixture(scope="module", autouse=True)
def without_gradients():
    """Torch's networks are looked at, and changed, without recording."""
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def mobilenet():
    """MobileNetV3-large, a classifier, with norms that do something."""
    torch.manual_seed(0)
    network = torchvision.models.mobilenet_v3_large(weights=None)
    randomize_norms(network, lambda: network(image((128, 128), 4)))
    return network


def test_vgg16_stages():
    torch.manual_seed(0)
    features = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])
    for module in features:
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    x = image()
    # After the rectifier of each stage's last convolution.
    expected = maps_after(features, x, (3, 8, 15, 22, 29))
    state = {f"features.{name}": v for name, v in features.state_dict().items()}
    # The classifier's layers, which are not looked at, narrow.
    for name, shape in (("0", (2, 512 * 49)), ("3", (2, 2))):
        state |= {f"classifier.{name}.weight": torch.zeros(shape), f"classifier.{name}.bias": torch.zeros(2)}
    variables = from_torchvision("vgg16", state)
    maps = jax.jit(VGG16(stages=(1, 2, 3, 4, 5)).apply)(backbone_of(variables), channels_last(x))
    assert [m.shape for m in maps] == [m.shape for m in expected]
    for ours, theirs in zip(maps, expected):
        agree(ours, theirs)


STAGES = (0, 2, 4, 7, 13, 16)
"""Where torchvision's detectors take maps of MobileNetV3-large from: the stem, blocks with a stride, the last layer."""


@pytest.mark.parametrize("dilated", [False, True])
def test_mobilenet_stages(mobilenet, dilated):
    theirs = torchvision.models.mobilenet_v3_large(weights=None, dilated=dilated).eval()
    theirs.load_state_dict(mobilenet.state_dict())
    x = image()
    expected = maps_after(theirs.features, x, STAGES)
    network = MobileNetV3(stages=(0, 1, 2, 3, 4, 5), dilated=dilated)
    variables = backbone_of(from_torchvision("mobilenet_v3_large", mobilenet.state_dict()))
    maps = jax.jit(network.apply)(variables, channels_last(x))
    assert [64 // m.shape[1] for m in maps] == list(network.strides)
    for ours, theirs in zip(maps, expected):
        agree(ours, theirs)


def test_mobilenet_inside_a_block(mobilenet):
    """What SSDLite takes its first map from: the expansion of the block of stage 4."""
    x = image()
    expected = channels_last(mobilenet.features[13].block[0](mobilenet.features[:13](x)))
    network = MobileNetV3(stages=(4, 5), expanded=(4,))
    variables = backbone_of(from_torchvision("mobilenet_v3_large", mobilenet.state_dict()))
    maps = jax.jit(network.apply)(variables, channels_last(x))
    assert network.strides == (16, 32)
    agree(maps[0], expected)
    agree(maps[1], channels_last(mobilenet.features(x)))


def test_mobilenet_small():
    torch.manual_seed(0)
    theirs = torchvision.models.mobilenet_v3_small(weights=None)
    randomize_norms(theirs, lambda: theirs(image((128, 128), 4)))
    x = image()
    variables = backbone_of(from_torchvision("mobilenet_v3_small", theirs.state_dict()))
    maps = jax.jit(MobileNetV3("small", stages=(0, 1, 2, 3, 4, 5)).apply)(variables, channels_last(x))
    expected = maps_after(theirs.features, x, (0, 1, 2, 4, 9, 12))
    for ours, theirs in zip(maps, expected):
        agree(ours, theirs)


def test_mobilenet_gradients(mobilenet):
    """Of a weighted sum of the last map by every convolution, with the norms as constants."""
    x = image()
    features = mobilenet.features
    weights = torch.randn(1, 960, 2, 3, generator=torch.Generator().manual_seed(2))
    with torch.enable_grad():
        loss = (features(x) * weights).sum()
        names = [name for name, p in features.named_parameters() if p.dim() == 4 or ".fc" in name]
        gradients = torch.autograd.grad(loss, [features.get_parameter(name) for name in names])
    theirs = apply_rules(mobilenet_rules("", "backbone", "frozen_batch"), dict(zip(names, gradients)), name="mobilenet")
    network = MobileNetV3(stages=(5,))
    variables = backbone_of(from_torchvision("mobilenet_v3_large", mobilenet.state_dict()))

    def scalar(params, x):
        (last,) = network.apply({**variables, "params": params}, x)
        return jnp.sum(last * channels_last(weights))

    ours = jax.jit(jax.grad(scalar))(variables["params"], channels_last(x))
    theirs = theirs["params"]["backbone"]
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    errors = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max() / jnp.abs(b).max()), ours, theirs)
    assert max(jax.tree.leaves(errors)) < 1e-4


@pytest.fixture(scope="module")
def resnet():
    """ResNet-50, a classifier, with norms that do something."""
    torch.manual_seed(0)
    network = torchvision.models.resnet50(weights=None)
    randomize_norms(network, lambda: network(image((96, 96), 2)))
    return network, backbone_of(from_torchvision("resnet50", network.state_dict()))


@pytest.mark.parametrize("dilate_last", [1, 2])
def test_dilated_resnet(resnet, dilate_last):
    replaced = [False, dilate_last > 1, True]
    theirs = torchvision.models.resnet50(weights=None, replace_stride_with_dilation=replaced).eval()
    theirs.load_state_dict(resnet[0].state_dict())
    body = torchvision.models._utils.IntermediateLayerGetter(theirs, {"layer3": "3", "layer4": "4"})
    x = image()
    network = ResNet(50, stages=(3, 4), dilate_last=dilate_last)
    assert network.strides == ((16, 16) if dilate_last == 1 else (8, 8))
    maps = jax.jit(network.apply)(resnet[1], channels_last(x))
    for ours, theirs in zip(maps, body(x).values()):
        agree(ours, channels_last(theirs))


def test_the_last_stage_as_a_head(resnet):
    """res5 on the features of regions, as the C4 form has it."""
    theirs, variables = resnet
    regions = torch.randn(3, 1024, 14, 14, generator=torch.Generator().manual_seed(3)).relu()
    own = {collection: tree["layer4"] for collection, tree in variables.items()}
    ours = jax.jit(resnet_stage(50, 4).apply)(own, channels_last(regions))
    assert ours.shape == (3, 7, 7, 2048)
    agree(ours, channels_last(theirs.layer4(regions)))


def read_neck(fpn):
    """The variables of a pyramid with norms."""
    state = {f"backbone.fpn.{name}": value for name, value in fpn.state_dict().items()}
    return {c: tree["neck"] for c, tree in apply_rules(two_stage_v2_rules(), state, name="fpn").items()}


@pytest.fixture
def pyramid():
    """The neck of the `_v2` detectors, narrow, and maps for it."""
    torch.manual_seed(0)
    channels = (8, 16, 32)
    last = torchvision.ops.feature_pyramid_network.LastLevelMaxPool()
    fpn = torchvision.ops.FeaturePyramidNetwork(channels, 24, last, torch.nn.BatchNorm2d)
    # Two maps of one size, as MobileNet has them.
    named = {str(i): torch.randn(2, c, *s) for i, (c, s) in enumerate(zip(channels, ((16, 24), (8, 12), (8, 12))))}
    randomize_norms(fpn, lambda: fpn(dict(named)))
    return fpn, named


def test_pyramid_with_norms_in_prediction(pyramid):
    fpn, named = pyramid
    ours = jax.jit(FPN(24, norm="batch").apply)(read_neck(fpn), [channels_last(x) for x in named.values()])
    expected = fpn(dict(named)).values()
    assert len(ours) == len(expected) == 4
    for a, b in zip(ours, expected):
        agree(a, channels_last(b))


def test_pyramid_with_norms_in_training(pyramid):
    fpn, named = pyramid
    before = read_neck(fpn)
    for module in fpn.modules():
        module.momentum = 0.1
    expected = fpn.train()(dict(named)).values()
    after = read_neck(fpn)["batch_stats"]
    apply = jax.jit(lambda v, x: FPN(24, norm="batch").apply(v, x, train=True, mutable=["batch_stats"]))
    ours, new = apply(before, [channels_last(x) for x in named.values()])
    for a, b in zip(ours, expected):
        agree(a, channels_last(b))
    assert jax.tree.structure(new["batch_stats"]) == jax.tree.structure(after)
    for path, ours in jax.tree_util.tree_leaves_with_path(new["batch_stats"]):
        theirs = functools.reduce(lambda tree, part: tree[part.key], path, after)
        # Torch stores the unbiased variance: of 2 * 8 * 12 values, more by a part in 191, of which a tenth moves in.
        np.testing.assert_allclose(ours, theirs, rtol=1e-3 if path[-1].key == "var" else 1e-5, atol=1e-6)


def test_dilation_does_not_change_the_weights(resnet):
    """The rules that read a ResNet read a dilated one."""
    dilated = torchvision.models.resnet50(weights=None, replace_stride_with_dilation=[False, False, True])
    read = apply_rules(
        resnet_rules("", "backbone", "batch"),
        {name: value for name, value in dilated.state_dict().items() if not name.startswith("fc")},
        name="resnet50",
    )
    shapes = jax.eval_shape(
        ResNet(50, "batch", dilate_last=1).init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32)
    )
    assert jax.tree.map(jnp.shape, backbone_of(read)) == jax.tree.map(lambda x: x.shape, dict(shapes))
