"""AlexNet with torchvision's weights: the same maps, features and logits at any size of images."""

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")

import jax.numpy as jnp  # noqa: E402

from segjax.models.layers.alexnet import AlexNet, AlexNetClassifier  # noqa: E402
from segjax.ops.pooling import adaptive_average_pool  # noqa: E402
from segjax.pretrained import from_torchvision  # noqa: E402


def agree(ours, theirs, tolerance=1e-5):
    """Equal to within `tolerance` of the largest value, and values that differ among themselves."""
    theirs = theirs.numpy()
    np.testing.assert_allclose(ours, theirs, atol=tolerance * np.abs(theirs).max(), rtol=0)
    assert theirs.std() > 0.01 * np.abs(theirs).max() > 0


@pytest.fixture(scope="module")
def networks():
    """torchvision's classifier of ten classes, with outputs that differ, and its variables by part."""
    torch.manual_seed(0)
    theirs = torchvision.models.alexnet(weights=None, num_classes=10).eval()
    for module in theirs.modules():
        if hasattr(module, "weight"):
            torch.nn.init.kaiming_normal_(module.weight)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    loaded = from_torchvision("alexnet", theirs.state_dict())["params"]
    return theirs, {part: {"params": tree} for part, tree in loaded.items()}


@pytest.mark.parametrize("size", [(224, 224), (96, 150)])
def test_maps_features_and_logits(networks, size):
    theirs, ours = networks
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        conv5 = theirs.features[:12](x)
        pooled = theirs.features(x)
        flat = torch.flatten(theirs.avgpool(pooled), 1)
        features = theirs.classifier[:6](flat)
        logits = theirs(x)
    x = x.movedim(1, -1).numpy()
    (last,) = jax.jit(AlexNet(pool=False).apply)(ours["backbone"], x)
    agree(last, conv5.movedim(1, -1))
    maps = jax.jit(AlexNet().apply)(ours["backbone"], x)
    agree(maps[0], pooled.movedim(1, -1))
    agree(AlexNetClassifier(10).apply(ours["classifier"], maps), logits)
    hidden = {"params": {name: ours["classifier"]["params"][name] for name in ("fc6", "fc7")}}
    agree(AlexNetClassifier().apply(hidden, maps), features)


@pytest.mark.parametrize("size", [(6, 6), (7, 13), (3, 1), (12, 4), (1, 30)])
def test_adaptive_average_pool(size, rng):
    x = rng.normal(size=(2, *size, 3)).astype(np.float32)
    for bins in ((6, 6), (1, 1), (4, 5)):
        theirs = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(x).movedim(-1, 1), bins).movedim(1, -1)
        ours = adaptive_average_pool(jnp.asarray(x), size=bins)
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-6)
