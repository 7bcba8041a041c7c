"""U-Net and SegNet: sizes of the papers, images of any size, pooling indices that are used, weights by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from segjax.models.layers.padding import Padded, crop_to_image, pad_to_multiple
from segjax.models.layers.vgg import VGG16
from segjax.models.segnet import SegNetDecoder, SegNetEncoder, segnet
from segjax.models.unet import UNetDecoder, UNetEncoder, unet
from segjax.pretrained import merge
from tests import tiny

CLASSES = 3
ODD = jax.ShapeDtypeStruct((1, 37, 50, 3), jnp.float32)
SIZES = jax.ShapeDtypeStruct((1, 2), jnp.int32)
SMALL = {
    "unet": unet(CLASSES, width=4, levels=3, norm="group"),
    "unet bilinear": unet(CLASSES, width=4, levels=1, norm="batch", up="bilinear"),
    "segnet": segnet(CLASSES, width=4),
    "deconvnet": segnet(CLASSES, width=4, form="deconvnet", hidden=8),
}


def size(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


def labelled(side=32):
    """Two images; background is class 1, a pixel's strongest colour its class elsewhere, and some have none."""
    batch = tiny.batch_of(tiny.TWO, side=side)
    labels = np.where(batch.images.max(axis=-1) > 180, batch.images.argmax(axis=-1), 1).astype(np.uint8)
    labels[:, :2] = 255
    return jax.tree.map(jnp.asarray, batch.replace(label_map=labels))


def shapes(model, key, batch=None):
    return jax.eval_shape(model.init, key, batch or labelled())


def test_unet_has_the_papers_layers(key):
    """31.0 million parameters: 23 convolutions, counted one by one."""
    params = shapes(unet(2), key)["params"]
    channels = [64, 128, 256, 512, 1024]
    convolution = lambda kernel, a, b: (kernel**2 * a + 1) * b  # noqa: E731
    down = sum(convolution(3, a, b) + convolution(3, b, b) for a, b in zip([3, *channels], channels))
    up = sum(convolution(2, 2 * a, a) + convolution(3, 2 * a, a) + convolution(3, a, a) for a in channels[:-1])
    assert size(params) == down + up + convolution(1, 64, 2) == 31_031_810


def test_segnet_has_vgg16_twice(key):
    params = shapes(segnet(11), key)["params"]
    kernels = lambda tree: [x.shape for x in jax.tree.leaves(tree) if x.ndim == 4]  # noqa: E731
    assert len(kernels(params["backbone"])) == len(kernels(params["decoder"])) == 13
    # The decoder's convolutions are the encoder's turned around, but for the first and the last.
    down, up = (sorted(kernels(params[part])) for part in ("backbone", "decoder"))
    turned = sorted((*shape[:2], shape[3], shape[2]) for shape in down)
    turned.remove((3, 3, 64, 3))
    up.remove((3, 3, 64, 11))
    assert up == turned
    assert params["decoder"]["logits"]["kernel"].shape == (3, 3, 64, 11)


@pytest.mark.parametrize("name", SMALL)
def test_images_of_any_size_keep_it(name, key):
    variables = shapes(SMALL[name], key)
    assert jax.eval_shape(lambda *args: SMALL[name].predict(*args).logits, variables, ODD, SIZES).shape == (
        1,
        37,
        50,
        CLASSES,
    )
    losses, after = jax.eval_shape(SMALL[name].losses, variables, labelled(), key)
    assert set(losses) == {"cross_entropy"}
    assert jax.tree.structure(after) == jax.tree.structure(variables)
    assert set(variables["params"]) == {"backbone", "decoder"}


def test_padding_is_cut_off_again(rng):
    x = jnp.asarray(rng.normal(size=(1, 5, 6, 2)), jnp.float32)
    padded = pad_to_multiple(x, 4)
    assert padded.shape == (1, 8, 8, 2) and float(jnp.abs(padded).sum()) == pytest.approx(float(jnp.abs(x).sum()))
    np.testing.assert_array_equal(crop_to_image(padded, Padded(None, (8, 8), (5, 6))), x)
    # At half the resolution: interpolated over the padded image, not over the image.
    ramp = jnp.broadcast_to(jnp.arange(4.0)[None, :, None, None], (1, 4, 4, 1))
    cut = crop_to_image(ramp, Padded(None, (8, 8), (5, 6)))[0, :, 0, 0]
    np.testing.assert_allclose(cut, [0, 0.25, 0.75, 1.25, 1.75])
    assert crop_to_image(ramp, Padded(None, (8, 8), (8, 8))) is ramp


@pytest.mark.parametrize(
    ("model", "channels"),
    [
        (unet(CLASSES, width=4, levels=3, norm="batch", deep_supervision=True), (8, 16)),
        (segnet(CLASSES, width=4, deep_supervision=True), (4, 8, 16, 32)),
        (segnet(CLASSES, width=4, stages=2, deep_supervision=True), (4,)),
    ],
)
def test_deep_supervision_trains_every_level_and_the_finest_predicts(model, channels, key):
    """A classifier more for each coarser level, by its channels, a loss for each, and no part in the prediction."""
    batch = labelled()
    variables = jax.jit(model.init)(key, batch)
    decoder = variables["params"]["decoder"]
    further = sorted(name for name in decoder if name.startswith("logits") and name != "logits")
    assert len(further) == len(channels)
    assert tuple(sorted(decoder[name]["kernel"].shape[2] for name in further)) == channels
    loss = jax.jit(lambda v: model.losses(v, batch, key)[0])(variables)
    assert set(loss) == {"cross_entropy", *(f"cross_entropy_{i + 1}" for i in range(len(channels)))}
    gradients = jax.jit(jax.grad(lambda p: sum(model.losses({**variables, "params": p}, batch, key)[0].values())))(
        variables["params"]
    )
    assert all(float(jnp.abs(gradients["decoder"][name]["kernel"]).max()) > 0 for name in further)
    without = jax.tree.map(jnp.zeros_like, {name: decoder[name] for name in further})
    other = {**variables, "params": {**variables["params"], "decoder": decoder | without}}
    here, there = (jax.jit(model.predict)(v, batch.images, batch.sizes).logits for v in (variables, other))
    np.testing.assert_array_equal(here, there)


def test_segnet_of_no_such_stages():
    for stages in (0, 6):
        with pytest.raises(ValueError, match=f"^stages is {stages}; VGG-16 has from 1 to 5"):
            segnet(CLASSES, stages=stages)


def test_segnet_unpools_to_where_the_maxima_were(key, rng):
    """Of the first pooling: the encoder's indices against NumPy, and one bright pixel that comes back to its place."""
    encoder = SegNetEncoder(width=2, norm=None)
    x = jnp.asarray(rng.normal(size=(1, 32, 32, 3)), jnp.float32)
    variables = jax.jit(encoder.init)(key, x)
    (_, indices), padded, unpadded = jax.jit(encoder.apply)(variables, x)
    assert (tuple(map(int, padded)), tuple(map(int, unpadded))) == ((32, 32), (32, 32))
    assert [i.shape for i in indices] == [(1, 32 // 2**s, 32 // 2**s, 2 * min(2 ** (s - 1), 8)) for s in range(1, 6)]
    (stage,) = VGG16(width=2, stages=(1,)).apply(variables, x)  # the same convolutions under the same names
    blocks = np.asarray(stage[0]).reshape(16, 2, 16, 2, 2).transpose(0, 2, 4, 1, 3).reshape(16, 16, 2, 4)
    place = blocks.argmax(axis=-1)
    rows, columns = np.arange(16)[:, None, None] * 2 + place // 2, np.arange(16)[None, :, None] * 2 + place % 2
    np.testing.assert_array_equal(indices[0][0], rows * 32 + columns)


def test_the_indices_decide_where_values_go(key, rng):
    """The same coarse map with other indices of the finest stage gives other logits, moved by a pixel."""
    decoder = SegNetDecoder(2, width=2, norm=None)
    base = [np.indices((32 >> s, 32 >> s)) * 2 for s in range(1, 6)]
    channels = [2 * min(2 ** (s - 1), 8) for s in range(1, 6)]

    def indices(shift):
        flat = [(i[0] + (shift if s == 0 else 0)) * (32 >> s) + i[1] for s, i in enumerate(base)]
        return [jnp.asarray(np.repeat(f[None, ..., None], c, -1), jnp.int32) for f, c in zip(flat, channels)]

    coarse = jnp.asarray(rng.uniform(size=(1, 1, 1, 16)), jnp.float32)
    features = [Padded((coarse, indices(shift)), (32, 32), (32, 32)) for shift in (0, 1)]
    variables = jax.jit(lambda k: decoder.init(k, features[0]))(key)
    here, below = (jax.jit(lambda v, f=f: decoder.apply(v, f)[-1])(variables)[0] for f in features)
    assert float(jnp.abs(here - below).max()) > 1e-6
    np.testing.assert_allclose(below[3:-2], here[2:-3], rtol=1e-4, atol=1e-8)


def test_vgg16_weights_fill_segnet(key):
    """Every kernel of the classifier finds its place; its biases are left over, where norms replace them."""
    net = VGG16(width=4)
    loaded = {"params": {"backbone": jax.jit(net.init)(jax.random.key(5), jnp.zeros((1, 32, 32, 3)))["params"]}}
    variables = jax.jit(segnet(CLASSES, width=4).init)(key, labelled())
    merged, unused = merge(variables, loaded)
    assert set(unused) == {f"params/backbone/{name}/bias" for name in loaded["params"]["backbone"]}
    for name, layer in loaded["params"]["backbone"].items():
        np.testing.assert_array_equal(merged["params"]["backbone"][name]["kernel"], layer["kernel"])
    assert not merge(shapes(segnet(CLASSES, width=4, norm=None), key), loaded)[1]


def test_unet_is_local_but_for_its_context(key):
    """A pixel's logits follow from the pixels within reach of the convolutions alone."""
    encoder, decoder = UNetEncoder(4, 1), UNetDecoder(2)
    x = jax.random.normal(key, (1, 24, 24, 3))
    down = jax.jit(encoder.init)(key, x)
    features = encoder.apply(down, x)
    up = jax.jit(lambda k: decoder.init(k, features))(key)
    run = jax.jit(lambda x: decoder.apply(up, encoder.apply(down, x))[-1])
    change = np.abs(np.asarray(run(x.at[0, 12, 12].add(1.0)) - run(x))).max(axis=-1)[0]
    reached = change > 1e-7
    # Two 3x3 at full size, two at half, two at full again: 2 + 2 * 2 + 2 pixels either way, and the pooling's 1.
    within = ndimage.binary_dilation(np.eye(24)[12][:, None] * np.eye(24)[12][None] > 0, np.ones((3, 3)), iterations=9)
    assert reached.any() and not (reached & ~within).any() and reached[12, 12]


def test_it_learns():
    _, first, last = tiny.overfit(SMALL["unet bilinear"], labelled(), steps=120)
    assert np.isfinite(last["cross_entropy"]) and last["cross_entropy"] < 0.5 * first["cross_entropy"]
