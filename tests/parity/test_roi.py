"""RoI pooling against torchvision: values and gradients, on boxes of every kind."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torchvision

from segjax.ops import roi

SCALE = 0.25


def hard_boxes(rng: np.random.Generator) -> np.ndarray:
    """Ordinary boxes, and boxes partly and wholly outside, empty, inverted, tiny, larger than the image."""
    corner = rng.uniform(-40, 100, (60, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0, 90, (60, 2))], 1)
    odd = [[0, 0, 0, 0], [10, 10, 10, 30], [30, 30, 20, 10], [-300, -300, -200, -200], [400, 10, 500, 20]]
    odd += [[-500, -400, 600, 700], [2, 2, 2.5, 2.5], [-4, -4, 4, 4], [-2, -6, 94, 66], [0, 0, 92, 64], [-4, 8, 8, 20]]
    return np.concatenate([boxes, odd]).astype(np.float32)


def torch_value_and_grad(pool, features, boxes, cotangent):
    """(pooled, gradient of the features), channels last, of a torchvision op."""
    inputs = torch.tensor(features).permute(2, 0, 1)[None].requires_grad_()
    pooled = pool(inputs, [torch.tensor(boxes)])
    pooled.backward(torch.tensor(cotangent).permute(0, 3, 1, 2))
    return pooled.detach().permute(0, 2, 3, 1).numpy(), inputs.grad[0].permute(1, 2, 0).numpy()


def jax_value_and_grad(pool, features, boxes, cotangent):
    """The same of a segjax op."""
    pooled, vjp = jax.vjp(lambda f: pool(f, jnp.asarray(boxes)), jnp.asarray(features))
    return pooled, vjp(jnp.asarray(cotangent))[0]


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize(("size", "ratio"), [((7, 7), 2), ((3, 5), 1), ((14, 14), 3)])
def test_roi_align_equals_torchvision(rng, aligned, size, ratio):
    features = rng.normal(size=(16, 23, 5)).astype(np.float32)
    boxes = hard_boxes(rng)
    cotangent = rng.normal(size=(len(boxes), *size, 5)).astype(np.float32)
    options = {"output_size": size, "spatial_scale": SCALE, "sampling_ratio": ratio, "aligned": aligned}
    want = torch_value_and_grad(lambda f, b: torchvision.ops.roi_align(f, b, **options), features, boxes, cotangent)
    got = jax_value_and_grad(lambda f, b: roi.roi_align(f, b, **options), features, boxes, cotangent)
    np.testing.assert_allclose(got[0], want[0], atol=2e-5)
    np.testing.assert_allclose(got[1], want[1], atol=2e-4)


@pytest.mark.parametrize("size", [(7, 7), (2, 3), (1, 1)])
@pytest.mark.parametrize("ties", [False, True])
def test_roi_pool_equals_torchvision(rng, size, ties):
    features = rng.normal(size=(16, 23, 5)).astype(np.float32)
    features = np.round(features) if ties else features
    boxes = hard_boxes(rng)
    cotangent = rng.normal(size=(len(boxes), *size, 5)).astype(np.float32)
    options = {"output_size": size, "spatial_scale": SCALE}
    want = torch_value_and_grad(lambda f, b: torchvision.ops.roi_pool(f, b, **options), features, boxes, cotangent)
    got = jax_value_and_grad(lambda f, b: roi.roi_pool(f, b, **options), features, boxes, cotangent)
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_allclose(got[1], want[1], atol=2e-5)


def test_multilevel_equals_torchvision(rng):
    strides = (4, 8, 16, 32)
    height, width = 256, 320
    features = [rng.normal(size=(height // s, width // s, 3)).astype(np.float32) for s in strides]
    side = np.exp(rng.uniform(np.log(4), np.log(600), (80, 2)))
    corner = rng.uniform(-20, 250, (80, 2))
    boxes = np.concatenate([corner, corner + side], 1).astype(np.float32)
    exact = [[8, 8, 8 + s, 8 + s] for s in (56, 112, 224, 448, 896)]
    boxes = np.concatenate([boxes, np.array(exact, np.float32)])
    cotangent = rng.normal(size=(len(boxes), 7, 7, 3)).astype(np.float32)
    inputs = {str(i): torch.tensor(f).permute(2, 0, 1)[None].requires_grad_() for i, f in enumerate(features)}
    pooler = torchvision.ops.MultiScaleRoIAlign(list(inputs), 7, 2)
    want = pooler(inputs, [torch.tensor(boxes)], [(height, width)])
    want.backward(torch.tensor(cotangent).permute(0, 3, 1, 2))
    pool = lambda f: roi.multilevel_roi_align(f, jnp.asarray(boxes), output_size=7, strides=strides)  # noqa: E731
    got, vjp = jax.vjp(pool, [jnp.asarray(f) for f in features])
    np.testing.assert_allclose(got, want.detach().permute(0, 2, 3, 1).numpy(), atol=2e-5)
    for ours, theirs in zip(vjp(jnp.asarray(cotangent))[0], inputs.values()):
        np.testing.assert_allclose(ours, theirs.grad[0].permute(1, 2, 0).numpy(), atol=2e-4)
