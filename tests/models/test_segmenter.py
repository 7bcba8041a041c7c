"""A backbone and heads put together: what is trained by what, at which size, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from segjax.models.segmenter import PixelLoss, segmenter, to_image
from segjax.types import IGNORE, Batch, Instances

CLASSES = 3


class Blocks(nn.Module):
    """Means of 4 x 4 pixels; images must have sides that are multiples of four."""

    @nn.compact
    def __call__(self, x, *, train=False):
        b, h, w, c = x.shape
        return x.reshape(b, h // 4, 4, w // 4, 4, c).mean((2, 4))


class Linear(nn.Module):
    """Logits of each cell, `guesses` times the same with rising scale."""

    guesses: int = 0
    classes: int = CLASSES

    @nn.compact
    def __call__(self, x, *, train=False):
        logits = nn.Dense(self.classes, name="dense")(x)
        return [logits * (i + 1) for i in range(self.guesses)] or logits


def batch(size=(8, 12), count=2):
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (count, *size, 3)).astype(np.uint8)
    labels = rng.choice([*range(CLASSES), IGNORE], (count, *size)).astype(np.uint8)
    none = Instances(np.zeros((count, 1, 4), np.float32), np.zeros((count, 1), np.int32), np.zeros((count, 1), bool))
    made = Batch(images, np.full((count, 2), size, np.int32), none, np.arange(count, dtype=np.int32), label_map=labels)
    return jax.tree.map(jnp.asarray, made)


def made(heads=None, **options):
    """A model, its variables, and the logits of a head on the batch, at the size of the images."""
    network = segmenter(CLASSES, backbone=Blocks(), heads=heads or {"main": Linear()}, **options)
    variables = network.init(jax.random.key(0), batch())

    def logits(name, data, size=(8, 12)):
        x = (np.asarray(data.images) / np.float32(255) - np.float32([0.485, 0.456, 0.406])) / np.float32(
            [0.229, 0.224, 0.225]
        )
        dense = variables["params"][name]["dense"]
        cells = x.reshape(2, 2, 4, 3, 4, 3).mean((2, 4)) @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"])
        return np.asarray(jax.image.resize(cells, (2, *size, CLASSES), "linear"))

    return network, variables, logits


def cross_entropy(logits, labels):
    valid = np.asarray(labels) != IGNORE
    error = optax.losses.softmax_cross_entropy_with_integer_labels(
        logits[valid], np.asarray(labels)[valid].astype(np.int32)
    )
    return float(error.mean())


def test_predictions_are_the_first_heads_at_the_images_size():
    network, variables, logits = made({"main": Linear(), "other": Linear()})
    found = network.predict(variables, batch().images, batch().sizes)
    np.testing.assert_allclose(found.logits, logits("main", batch()), atol=1e-5)
    assert found.logits.dtype == jnp.float32
    np.testing.assert_array_equal(found.labels, logits("main", batch()).argmax(-1))
    np.testing.assert_allclose(found.probabilities.sum(-1), 1, rtol=1e-5)


def test_auxiliary_heads_have_losses_of_their_own():
    network, variables, logits = made({"main": Linear(), "other": Linear()}, loss=PixelLoss(further=0.25, dice=2.0))
    data = batch()
    losses, new = network.losses(variables, data, jax.random.key(1))
    assert set(losses) == {"cross_entropy", "dice", "other", "other_dice"}
    np.testing.assert_allclose(losses["cross_entropy"], cross_entropy(logits("main", data), data.label_map), rtol=1e-5)
    np.testing.assert_allclose(losses["other"], 0.25 * cross_entropy(logits("other", data), data.label_map), rtol=1e-5)
    assert jax.tree.structure(new) == jax.tree.structure(variables)


def test_a_head_may_guess_more_than_once():
    network, variables, logits = made({"main": Linear(guesses=3)})
    data = batch()
    losses, _ = network.losses(variables, data, jax.random.key(1))
    expected = [cross_entropy((i + 1) * logits("main", data), data.label_map) for i in range(3)]
    found = [losses[name] for name in ("cross_entropy_1", "cross_entropy_2", "cross_entropy")]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    last = network.predict(variables, data.images, data.sizes).logits
    np.testing.assert_allclose(last, 3 * logits("main", data), atol=1e-5)


def test_what_has_no_class_does_not_count():
    network, variables, _ = made()
    data = batch()
    nothing = data.replace(label_map=jnp.full_like(data.label_map, IGNORE))
    assert float(network.losses(variables, nothing, jax.random.key(1))[0]["cross_entropy"]) == 0
    # Bytes in the padding change nothing: it is zero to the backbone, and its labels are IGNORE.
    smaller = jnp.array([[8, 12], [4, 8]], jnp.int32)
    labels = data.label_map.at[1, 4:].set(IGNORE).at[1, :, 8:].set(IGNORE)
    painted = data.images.at[1, 4:].set(7).at[1, :, 8:].set(200)
    found = [
        network.losses(variables, data.replace(images=x, sizes=smaller, label_map=labels), jax.random.key(1))[0]
        for x in (data.images, painted)
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("loss", "names"),
    [
        (PixelLoss("focal"), {"focal"}),
        (PixelLoss("hardest", keep=0.1), {"cross_entropy"}),
        (PixelLoss(class_weights=(1.0, 0.0, 2.0)), {"cross_entropy"}),
    ],
)
def test_kinds_of_losses(loss, names):
    plain, variables, _ = made()
    value = float(plain.losses(variables, batch(), jax.random.key(1))[0]["cross_entropy"])
    losses, _ = made(loss=loss)[0].losses(variables, batch(), jax.random.key(1))
    assert set(losses) == names and all(jnp.isfinite(x) for x in losses.values())
    assert abs(float(next(iter(losses.values()))) - value) > 1e-3


def test_weights_of_classes_reach_the_focal_loss(rng):
    logits, labels = jnp.asarray(rng.normal(size=(1, 4, 5, CLASSES)), jnp.float32), batch((4, 5)).label_map[:1]
    found = PixelLoss("focal", class_weights=(0.0, 0.0, 1.0)).terms(logits, labels)["focal"]
    alone = PixelLoss("focal").terms(logits, jnp.where(labels == 2, labels, jnp.uint8(IGNORE)))["focal"]
    assert jnp.any(labels == 2) and float(found) == pytest.approx(float(alone), rel=1e-5)


def test_images_are_padded_to_the_stride_and_logits_cut_back():
    network, variables, _ = made(stride=4)
    data = batch((7, 10))
    padded = jnp.zeros((2, 8, 12, 3), jnp.uint8).at[:, :7, :10].set(data.images)
    found = network.predict(variables, data.images, data.sizes).logits
    whole = network.predict(variables, padded, data.sizes).logits
    assert found.shape == (2, 7, 10, CLASSES)
    np.testing.assert_array_equal(found, whole[:, :7, :10])
    losses, _ = network.losses(variables, data, jax.random.key(0))
    assert float(losses["cross_entropy"]) == pytest.approx(cross_entropy(np.asarray(found), data.label_map), rel=1e-5)


def test_logits_at_the_images_size_stay_as_they_are(rng):
    logits = rng.normal(size=(1, 5, 6, 2)).astype(np.float32)
    np.testing.assert_array_equal(to_image(jnp.asarray(logits), (5, 6)), logits)
    assert to_image(jnp.asarray(logits, jnp.bfloat16), (5, 6)).dtype == jnp.float32


@pytest.mark.parametrize(
    ("classes", "options", "message"),
    [
        (1, {}, "classes is 1; a label map has from 2 to 255"),
        (256, {}, "classes is 256"),
        (2, {"heads": {}}, "heads is empty"),
        (2, {"stride": 0}, "stride is 0; it must be at least 1"),
    ],
)
def test_arguments_that_make_no_model(classes, options, message):
    with pytest.raises(ValueError, match=message):
        segmenter(classes, **{"backbone": Blocks(), "heads": {"main": Linear()}, **options})


def test_what_cannot_be_trained_is_refused():
    network, variables, _ = made()
    with pytest.raises(ValueError, match="learns from label maps, and the batch has none"):
        network.losses(variables, batch().replace(label_map=None), jax.random.key(0))
    weighted = made(loss=PixelLoss(class_weights=(1.0, 2.0)))[0]
    with pytest.raises(ValueError, match=r"loss\.class_weights has 2 values for 3 classes"):
        weighted.losses(variables, batch(), jax.random.key(0))
    hardest = made(loss=PixelLoss("hardest", class_weights=(1.0, 2.0, 3.0)))[0]
    with pytest.raises(ValueError, match=r"loss\.class_weights means nothing to the hardest pixels"):
        hardest.losses(variables, batch(), jax.random.key(0))
    wrong, variables, _ = made({"main": Linear(classes=4)})
    with pytest.raises(ValueError, match=r"the head 'main' gives \(2, 2, 3, 4\); it must give logits \[b h w 3\]"):
        wrong.predict(variables, batch().images, batch().sizes)
