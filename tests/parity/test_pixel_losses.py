"""Pixel losses against torch's cross-entropy: ignored pixels, class weights, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from segjax import losses  # noqa: E402
from segjax.types import IGNORE  # noqa: E402


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("share_ignored", [0.0, 0.3])
def test_cross_entropy(weighted, share_ignored, rng):
    logits = rng.normal(0, 3, (2, 9, 11, 5)).astype(np.float32)
    labels = rng.integers(0, 5, (2, 9, 11)).astype(np.uint8)
    labels[rng.random(labels.shape) < share_ignored] = IGNORE
    weights = rng.uniform(0.2, 3, 5).astype(np.float32) if weighted else None

    theirs_in = torch.from_numpy(logits.transpose(0, 3, 1, 2).copy()).requires_grad_()
    theirs = torch.nn.functional.cross_entropy(
        theirs_in,
        torch.from_numpy(labels.astype(np.int64)),
        weight=None if weights is None else torch.from_numpy(weights),
        ignore_index=IGNORE,
    )
    theirs.backward()
    given = None if weights is None else jnp.asarray(weights)
    value, slope = jax.jit(
        jax.value_and_grad(lambda x: losses.pixel_cross_entropy(x, jnp.asarray(labels), class_weights=given))
    )(jnp.asarray(logits))
    assert float(value) == pytest.approx(theirs.item(), rel=1e-5)
    np.testing.assert_allclose(slope, theirs_in.grad.permute(0, 2, 3, 1), rtol=1e-4, atol=1e-7)


def test_the_hardest_of_the_pixels(rng):
    logits = rng.normal(0, 3, (2, 9, 11, 5)).astype(np.float32)
    labels = rng.integers(0, 5, (2, 9, 11)).astype(np.uint8)
    labels[0, :4] = IGNORE
    theirs_in = torch.from_numpy(logits.transpose(0, 3, 1, 2).copy()).requires_grad_()
    each = torch.nn.functional.cross_entropy(
        theirs_in, torch.from_numpy(labels.astype(np.int64)), ignore_index=IGNORE, reduction="none"
    )
    kept = round(0.25 * int((labels != IGNORE).sum()))
    theirs = each.flatten().topk(kept).values.mean()
    theirs.backward()
    value, slope = jax.value_and_grad(lambda x: losses.hardest_pixels(x, jnp.asarray(labels), keep=0.25))(
        jnp.asarray(logits)
    )
    assert float(value) == pytest.approx(theirs.item(), rel=1e-5)
    np.testing.assert_allclose(slope, theirs_in.grad.permute(0, 2, 3, 1), rtol=1e-4, atol=1e-7)
