"""DIoU and CIoU losses and their gradients against torchvision's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")

from segjax.ops import box_losses  # noqa: E402
from tests.parity.test_box_ops import random_boxes  # noqa: E402


@pytest.mark.parametrize(
    ("ours", "theirs"), [("diou_loss", "distance_box_iou_loss"), ("ciou_loss", "complete_box_iou_loss")]
)
def test_values_and_gradients(ours, theirs, rng):
    boxes, targets = random_boxes(rng, 120), random_boxes(rng, 120)
    targets[:80] = boxes[:80] + rng.uniform(0.1, 8, (80, 4))  # two thirds overlap
    expected, (box, target) = None, (torch.from_numpy(x.copy()).requires_grad_() for x in (boxes, targets))
    expected = getattr(torchvision.ops, theirs)(box, target)
    expected.sum().backward()
    function = getattr(box_losses, ours)
    found = jax.jit(function)(jnp.asarray(boxes), jnp.asarray(targets))
    np.testing.assert_allclose(found, expected.detach(), rtol=1e-5, atol=2e-6)
    assert (found < 0.5).sum() > 20 and (found > 1).sum() > 20
    slopes = jax.jit(jax.grad(lambda a, b: function(a, b).sum(), argnums=(0, 1)))(
        jnp.asarray(boxes), jnp.asarray(targets)
    )
    for slope, tensor in zip(slopes, (box, target)):
        np.testing.assert_allclose(slope, tensor.grad, rtol=1e-3, atol=2e-6)
