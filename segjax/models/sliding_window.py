"""A classifier of patches, run over an image window by window, or all at once as a fully convolutional network.

Window by window is how pixels were labelled first (Ciresan et al. 2012; Farabet et al. 2013 train so). Neighbouring
windows share most of their pixels, and so most of their features: computed once for the whole image, with the dense
layers as convolutions (Sermanet et al. 2014; Long et al. 2015, section 3.1), they give the same numbers in a fraction
of the time.
"""

import functools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key, UInt8

from segjax.models.layers.normalize import IMAGENET_MEAN, IMAGENET_STD, normalize
from segjax.models.layers.plain import classifier_init, he
from segjax.models.layers.valid import Spacing, convolve, maximum
from segjax.models.parts import Parts
from segjax.models.segmenter import PixelLoss, label_map_of, to_image
from segjax.types import IGNORE, Batch, Losses, Model, SegmentationMap, Variables

zeros = nn.initializers.zeros_init()


class Layer(NamedTuple):
    """A convolution without padding, a rectifier and a maximum over `pool` x `pool` pixels, 1 for none."""

    channels: int
    kernel: int
    pool: int


LAYERS = (Layer(16, 5, 2), Layer(32, 5, 2), Layer(64, 3, 2))


class PatchNet(nn.Module):
    """A classifier of square patches: convolutions without padding, a hidden layer on all that is left, the classes.

    With a `stride` it takes images instead and gives what it would say of every window whose corner is a multiple of
    `stride`, from the same parameters and without cutting a window out. A pooling's stride thins out windows that are
    wanted: where it may not, the maximum is taken at every position, and all later layers reach across the positions
    that belong to other windows (dilation; the filter rarefaction of Long et al. 2015). Nothing is approximated.
    """

    classes: int
    patch: int = 44
    """Side of the patches in pixels."""
    layers: Sequence[Layer] = LAYERS
    hidden: int = 128
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w 3"], *, stride: int | None = None, train: bool = False
    ) -> Float[Array, "b rows columns classes"]:
        """Logits of each window; without a `stride` `x` is patches, of one window each. float32.

        Raises:
          ValueError: without a stride, `x` is not of the patch's size; or the layers leave nothing of a patch.
        """
        if stride is None and x.shape[1:3] != (self.patch, self.patch):
            raise ValueError(f"patches are {x.shape[1]} x {x.shape[2]}, and this network's are {self.patch} wide.")
        side, x = self._side(), x.astype(self.dtype)
        spacing = Spacing(math.prod(layer.pool for layer in self.layers) if stride is None else stride)
        for i, (channels, kernel, pool) in enumerate(self.layers, start=1):
            weight, bias = self._parameters(f"conv{i}", (kernel, kernel, x.shape[-1], channels))
            x = nn.relu(convolve(x, weight, dilation=spacing.dilation) + bias)
            step, behind = spacing.by(pool)
            x = maximum(x, pool, dilation=spacing.dilation, stride=step)
            spacing = behind
        weight, bias = self._parameters("hidden", (side, side, x.shape[-1], self.hidden))
        if stride is None:
            x = jnp.tensordot(x, weight, axes=3)[:, None, None] + bias
        else:
            x = convolve(x, weight, dilation=spacing.dilation, stride=spacing.left) + bias
        weight, bias = self._parameters("logits", (self.hidden, self.classes), classifier_init)
        return (nn.relu(x) @ weight + bias).astype(jnp.float32)

    def _parameters(self, name: str, shape: tuple[int, ...], init: nn.initializers.Initializer = he):
        """Kernel and bias of a layer, in the dtype that is computed in, the bias with four axes."""
        weight = self.param(f"{name}_kernel", init, shape, jnp.float32)
        bias = self.param(f"{name}_bias", zeros, shape[-1:], jnp.float32)
        return weight.astype(self.dtype), bias.astype(self.dtype)[None, None, None]

    def _side(self) -> int:
        """Side of what the layers leave of a patch."""
        side = self.patch
        for _, kernel, pool in self.layers:
            side = (side - kernel + 1) // pool
        if side < 1:
            raise ValueError(f"the layers leave nothing of a patch of {self.patch} pixels; make it larger.")
        return side


def window_count(size: int, stride: int) -> int:
    """Windows along a side of `size` pixels: one for each `stride` pixels or part of them."""
    return -(-size // stride)


def _padded(x: Array, patch: int, stride: int) -> Array:
    """Images with zeros around them, such that window i, from i * stride on, is about the middle of its pixels.

    Its pixels are those from i * stride to (i + 1) * stride: logits are then a map of stride `stride` like any other.
    """
    sides = []
    for size in x.shape[1:3]:
        low = patch // 2 - stride // 2
        sides.append((low, (window_count(size, stride) - 1) * stride + patch - size - low, 0))
    return jax.lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *sides, (0, 0, 0)))


def _cut(x: Array, places: Int[Array, "n 3"], patch: int) -> Float[Array, "n patch patch c"]:
    """Patches by (image, row, column) of their corners."""

    def one(place: Array) -> Array:
        corner = (place[0], place[1], place[2], jnp.zeros((), place.dtype))
        return jax.lax.dynamic_slice(x, corner, (1, patch, patch, x.shape[-1]))[0]

    return jax.vmap(one)(places)


def _cut_one(image: Array, corners: Int[Array, "n 2"], patch: int) -> Float[Array, "n patch patch c"]:
    """Patches of one image by (row, column) of their corners."""
    shape = (patch, patch, image.shape[-1])
    return jax.vmap(lambda at: jax.lax.dynamic_slice(image, (at[0], at[1], jnp.zeros((), at.dtype)), shape))(corners)


def sample_pixels(
    key: Key[Array, ""], labels: UInt8[Array, "h w"], *, count: int, balanced: bool, classes: int
) -> Int[Array, "count 2"]:
    """(row, column) of `count` labelled pixels, drawn with replacement.

    Args:
      key: for the draw.
      labels: the label map; pixels of `IGNORE` are not drawn as long as there are others.
      count: how many.
      balanced: every class that the image has is drawn equally often on average; else every pixel is.
      classes: number of classes.
    """
    flat = labels.reshape(-1).astype(jnp.int32)
    of_class = jnp.bincount(flat, length=IGNORE + 1)[:classes].astype(jnp.float32)
    # First a class, then one of its pixels: exact counts of pixels stay integers, however many there are.
    weights = (of_class > 0).astype(jnp.float32) if balanced else of_class
    of_kind, of_pixel = jax.random.split(key)
    kinds = jax.random.categorical(of_kind, jnp.log(weights), shape=(count,))
    rank = jnp.floor(jax.random.uniform(of_pixel, (count,)) * of_class[kinds]).astype(jnp.int32)
    in_order = jnp.argsort(flat, stable=True)
    before = jnp.cumsum(of_class.astype(jnp.int32)) - of_class.astype(jnp.int32)
    index = in_order[before[kinds] + jnp.minimum(rank, jnp.maximum(of_class[kinds].astype(jnp.int32) - 1, 0))]
    return jnp.stack([index // labels.shape[1], index % labels.shape[1]], axis=-1)


def sliding_window(
    classes: int,
    *,
    network: PatchNet | None = None,
    stride: int = 4,
    inference: Literal["convolutional", "windows"] = "convolutional",
    samples: int = 32,
    balanced: bool = True,
    chunk: int = 64,
    loss: PixelLoss = PixelLoss(),
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """A model that labels pixels by the patches around them, trained on patches.

    Args:
      classes: number of classes.
      network: the classifier of patches.
      stride: pixels between the windows that are classified in prediction; between them logits are interpolated.
      inference: windows: cut each window out, `chunk` at a time. convolutional: the same numbers from the whole image.
      samples: patches an image and step in training.
      balanced: draw the classes that an image has equally often, else its pixels.
      chunk: windows that are classified at the same time, at most.
      loss: what patches are trained by, each with its middle pixel's class.
      mean, std: channel statistics of the images, in 0..1.
      dtype: of the computation.

    Returns:
      The `Model`; its variables are in the part "patch".

    Raises:
      ValueError: a stride, a number of samples or a chunk below 1.
    """
    for name, value in (("stride", stride), ("samples", samples), ("chunk", chunk)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1.")
    network = network or PatchNet(classes, dtype=dtype)
    parts, patch = Parts({"patch": network}), network.patch

    def prepare(images: Array, sizes: Array) -> Array:
        return normalize(images, sizes, mean=mean, std=std, dtype=dtype)

    def init(key: Key[Array, ""], batch: Batch) -> Variables:
        return parts.init(key, {}, "patch", jnp.zeros((1, patch, patch, 3), dtype))[1]

    def losses(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Losses, Variables]:
        x, labels = prepare(batch.images, batch.sizes), jnp.asarray(label_map_of(batch))
        draw = functools.partial(sample_pixels, count=samples, balanced=balanced, classes=classes)
        pixels = jax.vmap(draw)(jax.random.split(key, len(labels)), labels)
        # With the padding of stride 1, the patch around a pixel begins where the pixel is. Each image's own are cut by
        # itself, so that images shared out over devices stay where they are.
        patches = jax.vmap(functools.partial(_cut_one, patch=patch))(_padded(x, patch, 1), pixels)
        logits, variables = parts.train(key, variables, "patch", patches.reshape(-1, *patches.shape[2:]))
        middle = jax.vmap(lambda of_image, at: of_image[at[:, 0], at[:, 1]])(labels, pixels)
        of_images = (len(labels), samples, 1)
        return loss.terms(logits.reshape(*of_images, classes), middle.reshape(of_images)), variables

    def predict(
        variables: Variables, images: UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"], sizes: Int[Array, "b 2"]
    ) -> SegmentationMap:
        height, width = images.shape[1:3]
        rows, columns = window_count(height, stride), window_count(width, stride)
        x = _padded(prepare(images, sizes), patch, stride)
        if inference == "convolutional":
            logits = parts(variables, "patch", x, stride=stride)[:, :rows, :columns]
        else:
            logits = _by_windows(
                lambda patches: parts(variables, "patch", patches), x, rows, columns, stride, patch, chunk
            )
        return SegmentationMap(to_image(logits, (rows * stride, columns * stride))[:, :height, :width])

    return Model(init, losses, predict)


def _by_windows(classify, x: Array, rows: int, columns: int, stride: int, patch: int, chunk: int) -> Array:
    """Logits [b rows columns classes] of each window by itself, up to `chunk` of them at a time."""
    corners = jnp.indices((x.shape[0], rows, columns)).reshape(3, -1).T * jnp.array([1, stride, stride])[None]
    count = len(corners)
    chunk = -(-count // -(-count // chunk))  # as even as can be, so that little is computed to fill up the last
    chunks = jnp.pad(corners, ((0, -count % chunk), (0, 0))).reshape(-1, chunk, 3)
    logits = jax.lax.map(lambda places: classify(_cut(x, places, patch)), chunks)
    return logits.reshape(-1, logits.shape[-1])[:count].reshape(x.shape[0], rows, columns, -1)
