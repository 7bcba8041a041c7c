"""What a recipe says of the augmentation of a detector's images beside mirroring, scale and colour."""

import dataclasses

from segjax.data.augment import IoUCrop, ZoomOut
from segjax.data.mixtures import CopyPaste, Mixture, MixUp, Mosaic
from segjax.data.photometric import PhotometricDistort
from segjax.data.transforms import Transform


@dataclasses.dataclass(frozen=True)
class Augment:
    """Probabilities, 0 to 1 each, in the order in which they are applied."""

    zoom_out: float = 0.0
    """Of placing an image on a canvas up to four times as high and wide, as SSD does for small objects; 0.5 there."""
    iou_crop: float = 0.0
    """Of cutting out a patch that overlaps an object by a drawn IoU, as SSD does; one patch in seven is the whole."""
    photometric: float = 0.0
    """Of SSD's changes of brightness, contrast, saturation, hue and the channels' order, each every second time."""
    mosaic: float = 0.0
    """Of making one image of parts of four. It may need a larger `data.capacity`."""
    mixup: float = 0.0
    """Of adding another image, weighted, with its objects. It may need a larger `data.capacity`."""
    copy_paste: float = 0.0
    """Of pasting objects of another image by their masks, for models that learn masks."""

    def check(self, fields: tuple[str, ...], *, proposals: bool) -> None:
        """ValueError for a probability out of range, and for what makes no sense for a model or its data.

        Args:
          fields: what the model learns from.
          proposals: whether boxes made beforehand come with the images.
        """
        for name, value in dataclasses.asdict(self).items():
            if not 0 <= value <= 1:
                raise ValueError(f"data.augment.{name} is a probability and must lie in 0..1, not {value}.")
        mixed = [name for name in ("mosaic", "mixup", "copy_paste") if getattr(self, name)]
        of_objects = ["iou_crop"] * bool(self.iou_crop) + mixed
        if "label_map" in fields and of_objects:
            raise ValueError(f"data.augment.{of_objects[0]} is for objects, and this model learns from label maps.")
        if proposals and mixed:
            raise ValueError(f"data.augment.{mixed[0]} cannot mix images with proposals made beforehand: leave it out.")
        if self.copy_paste and "masks" not in fields:
            raise ValueError(
                "data.augment.copy_paste pastes objects by their masks, and this model does not learn from masks: "
                "leave it out, or train a model that does."
            )

    def before(self) -> list[Transform]:
        """What is done at the size of the file."""
        found: list[Transform] = [ZoomOut(self.zoom_out)] if self.zoom_out else []
        return found + ([IoUCrop(self.iou_crop)] if self.iou_crop else [])

    def after(self) -> list[Transform]:
        """What is done at the size of the batch."""
        return [PhotometricDistort(self.photometric)] if self.photometric else []

    def mixtures(self) -> list[Mixture]:
        """What makes one image of several."""
        kinds = ((Mosaic, self.mosaic), (MixUp, self.mixup), (CopyPaste, self.copy_paste))
        return [kind(probability) for kind, probability in kinds if probability]
