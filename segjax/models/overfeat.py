"""OverFeat (Sermanet et al. 2014): a classifier and a box regressor of windows, slid over a pyramid of the image."""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Key

from segjax.models.checks import check_losses
from segjax.models.heads.window import WindowHead, WindowNetwork, WindowSettings
from segjax.models.layers.fpn import NoNeck
from segjax.models.layers.normalize import IMAGENET_MEAN, IMAGENET_STD
from segjax.models.layers.norms import NormName
from segjax.models.layers.windows import WindowFeatures, WindowLayer, spacing_behind, window_side
from segjax.models.parts import Parts
from segjax.models.single_shot import single_shot
from segjax.models.trunk import Trunk
from segjax.ops.sampling import sample_balanced
from segjax.ops.windows import WindowLayout, window_boxes
from segjax.types import Batch, Losses, Model, Variables

FAST = (
    WindowLayer(96, 11, stride=4, pool=2),
    WindowLayer(256, 5, pool=2),
    WindowLayer(512, 3),
    WindowLayer(1024, 3),
    WindowLayer(1024, 3, pool=2),
)
"""Of the paper's fast network (table 1), whose last three convolutions are padded."""
LEVELS = tuple((scale, aspect) for scale in (0.5, 0.75, 1.0, 1.5, 2.0) for aspect in (0.5, 1.0, 2.0))


@dataclasses.dataclass(frozen=True)
class WindowPlan:
    """Which windows an image has, and the layers that see them; by default those of the paper's fast network."""

    layers: tuple[WindowLayer, ...] = FAST
    """The convolutions that see pixels."""
    cells: int = 3
    """What they leave of a window, `cells` x `cells` positions; so the windows' side follows, 231 pixels."""
    levels: tuple[tuple[float, float], ...] = LEVELS
    """(scale, aspect) of each level of the pyramid: see `segjax.ops.windows.WindowLayout`."""
    stride: int = 16
    """Pixels of the levels from window to window. Any number: where strides of the layers are larger, layers behind
    them are dilated. The paper gets 12 pixels of its 36 by pooling with offsets."""
    margin: int = 48
    """Zeros around the levels, in pixels."""
    hidden: tuple[int, ...] = (3072, 4096)
    """Widths of the hidden layers before the classes."""
    box_hidden: tuple[int, ...] = (4096, 1024)
    """Widths of those before the boxes."""
    per_class: bool = False
    """A box regressor for each class. The paper found one for all to be the better one (section 5)."""
    norm: NormName | None = None
    """Behind each convolution and hidden layer but the last: "layer", or one by running moments."""
    dropout: float = 0.5
    """Of the hidden layers."""

    def layout(self) -> WindowLayout:
        """The windows that the layers leave `cells` x `cells` positions of. `ValueError` as `window_side`."""
        return WindowLayout(self.levels, window_side(self.layers, self.cells), self.stride, self.margin)

    def networks(self, classes: int, dtype: DTypeLike = jnp.float32) -> tuple[WindowFeatures, WindowNetwork]:
        """What sees pixels, and the layers that are fully connected in a window alone. `ValueError` as `layout`."""
        features = WindowFeatures(self.layers, self.layout(), self.norm, dtype)
        spacing, widths = spacing_behind(self.layers, self.stride), (self.hidden, self.box_hidden)
        rest = {"per_class": self.per_class, "norm": self.norm, "dropout": self.dropout, "dtype": dtype}
        return features, WindowNetwork(classes, self.cells, spacing, *widths, **rest)


def overfeat(
    classes: int,
    *,
    plan: WindowPlan = WindowPlan(),
    training: Literal["windows", "dense"] = "windows",
    samples: int = 64,
    positive_fraction: float = 0.5,
    settings: WindowSettings = WindowSettings(),
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """OverFeat's detector; the layers of the defaults are those of the paper's fast network, for windows of 231 pixels.

    What it says of a window in the dense form, all of them at once, it says of the window cut out: no layer is padded,
    and no norm looks further than a position. The paper pads its last three convolutions, so that borders differ and
    6 x 6 positions are left of a window where here 3 x 3 are. Aspects, which the paper has none of, are levels.

    Args:
      classes: number of classes.
      plan: the windows, and the network without its classes.
      training: windows: on windows drawn from each image and cut out, which costs a fraction of all. dense: on all
        windows of all levels, losses over the positives and the hardest negatives.
      samples: windows: how many an image.
      positive_fraction: windows: share of positives among them, at most.
      settings: the numbers of targets, losses and decoding.
      mean, std: channel statistics of the images, in 0..1.
      dtype: of convolutions; boxes, losses and scores are float32 always.

    Returns:
      A `Model` with the losses `class` and `box`, and `Detections` as predictions. Its variables are in the parts
      "backbone" and "head".

    Raises:
      ValueError: no class; a norm over maps; batch norm trained densely; what `window_side`, `level_grids` and
        `sample_balanced` refuse.
    """
    if classes < 1:
        raise ValueError(f"classes is {classes}; OverFeat needs at least one.")
    check_norm(plan.norm, training)
    features, network = plan.networks(classes, dtype)
    trunk, head = Trunk(features, NoNeck(), mean, std, dtype), WindowHead(network, features.layout, settings)
    model = single_shot(trunk, head)
    if training == "dense":
        return model
    draw = functools.partial(sample_balanced, count=samples, positive_fraction=positive_fraction)
    return model._replace(losses=functools.partial(_losses_of_windows, trunk, head, draw))


def check_norm(norm: NormName | None, training: Literal["windows", "dense"]) -> None:
    """`ValueError` for a norm by which a window's class would depend on what is beside it."""
    if norm == "group":
        raise ValueError("norm is 'group', whose statistics are of a whole map; choose 'layer', 'batch' or none.")
    if norm == "batch" and training == "dense":
        raise ValueError(
            "norm is 'batch' and training 'dense': each level would have moments of its own, and the running ones "
            "would be those of none; choose norm 'layer', or training 'windows'."
        )


def _losses_of_windows(
    trunk: Trunk, head: WindowHead, draw, variables: Variables, batch: Batch, key: Key[Array, ""]
) -> tuple[Losses, Variables]:
    """The losses over windows drawn from each image, which alone are computed."""
    parts = Parts({**trunk.parts, "head": head.network})
    places = window_boxes(batch.images.shape[1:3], head.layout)
    targets = jax.vmap(head.targets, in_axes=(None, None, 0, 0))(None, places, batch.instances, batch.sizes)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(batch.samples.astype(jnp.uint32))
    drawn = jax.vmap(draw)(keys, targets.status)
    targets = jax.tree.map(lambda x: jax.vmap(lambda own, rows: own[rows])(x, drawn.indices), targets)
    x = trunk.prepare(batch.images, batch.sizes)
    maps, variables = parts.train(key, variables, "backbone", x, windows=drawn.indices)
    outputs, variables = parts.train(key, variables, "head", maps, alone=True)
    outputs = jax.tree.map(lambda x: x.reshape(*drawn.indices.shape, *x.shape[2:]), outputs)
    return check_losses("head", head.losses_of(outputs, jax.lax.stop_gradient(targets), drawn.valid)), variables
