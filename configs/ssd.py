"""What a recipe says of SSD and SSDLite: frozen dataclasses with a `build`."""

import dataclasses
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np

from configs.detectors import Detector
from segjax.models.heads.ssd import PriorSettings, SSDSettings
from segjax.models.layers.norms import NormName
from segjax.models.ssd import LITE_PRIORS, LITE_SETTINGS, SETTINGS, SSD300_COCO, ssd300, ssd512, ssdlite320
from segjax.types import Model, Variables


@dataclasses.dataclass(frozen=True)
class SSD(Detector):
    """SSD on VGG16 (Liu et al. 2016); the defaults are torchvision's SSD300."""

    multiple: ClassVar[int] = 1
    form: Literal["300", "512"] = "300"
    """Of the layers behind VGG16, which make the coarser maps: for images of 300 or of 512 pixels."""
    width: int = 64
    """Channels of the first two convolutions; all others are multiples of it."""
    norm: NormName | None = None
    """Behind each convolution; the paper has none, but from random weights it hardly learns without."""
    priors: PriorSettings = SSD300_COCO
    """Of as many maps as the network is to have. With steps, the data must have one bucket, which they are for."""
    ssd: SSDSettings = SETTINGS

    def build(self, classes: int, joints: int = 0) -> Model:
        """The model for this many classes."""
        del joints
        make = ssd300 if self.form == "300" else ssd512
        options = {"width": self.width, "norm": self.norm, "priors": self.priors, "settings": self.ssd}
        return make(classes, **options, dtype=jnp.dtype(self.dtype))

    def adapted(self, weights: Variables) -> Variables:
        """VGG16's hidden layers, every third row and column of their window and every fourth unit, as convolutions.

        Liu et al. 2016, section 3. A file without them, whose numbers there are NaN, fills the convolutions alone, and
        so does a run whose box head sees other cells than 7x7.
        """
        box = weights.get("params", {}).get("box", {})
        if not {"fc6", "fc7"} <= set(box) or box["fc6"]["kernel"].shape[0] % 7**2:
            return weights
        rest = {name: part for name, part in box.items() if name not in ("fc6", "fc7")}
        params = {**weights["params"], "box": rest}
        if all(np.isfinite(box[name]["bias"]).all() for name in ("fc6", "fc7")):
            params["backbone"] = {**params.get("backbone", {}), **_thinned(box["fc6"], box["fc7"])}
        return {**weights, "params": params}


def _thinned(fc6: dict[str, Any], fc7: dict[str, Any]) -> dict[str, Any]:
    """A quarter of the units of both layers, the first on 3x3 of its 7x7 cells."""
    window = fc6["kernel"].reshape(7, 7, -1, fc6["kernel"].shape[1])
    return {
        "fc6": {"kernel": window[::3, ::3, :, ::4], "bias": fc6["bias"][::4]},
        "fc7": {"kernel": fc7["kernel"][None, None, ::4, ::4], "bias": fc7["bias"][::4]},
    }


@dataclasses.dataclass(frozen=True)
class SSDLite(Detector):
    """SSDLite on MobileNetV3-Large; the defaults are torchvision's."""

    width: float = 1.0
    """Factor of all numbers of channels."""
    norm: NormName = "batch"
    """Behind all convolutions but the last."""
    priors: PriorSettings = LITE_PRIORS
    """Of the six maps."""
    ssd: SSDSettings = LITE_SETTINGS

    def build(self, classes: int, joints: int = 0) -> Model:
        """The model for this many classes."""
        del joints
        options = {"width": self.width, "norm": self.norm, "priors": self.priors, "settings": self.ssd}
        return ssdlite320(classes, **options, dtype=jnp.dtype(self.dtype))
