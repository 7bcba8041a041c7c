"""Pictures of semantic segmentation: truth, prediction and errors beside each other, and maps as palette files."""

import os
import pathlib
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from segjax.colours import class_colours
from segjax.types import IGNORE
from segjax.visualize import Picture, contact_sheet, draw_segmentation, enlarge, with_legend

WRONG = np.array((215, 25, 60), np.uint8)
IGNORED = np.array((128, 128, 128), np.uint8)
VOID = (224, 224, 192)
"""Of pixels without a class, in palette files: VOC's."""
PANEL = (290, 400)
"""Largest (width, height) of one of four pictures beside each other in a report 1200 pixels wide."""
BACKGROUNDS = ("background", "__background__", "_background_")


def map_colours(
    classes: Sequence[str], colours: Sequence[tuple[int, int, int]] | None = None
) -> UInt8[np.ndarray, "n 3"]:
    """RGB of each class: the data set's own colours where it states them, else ours, black for a background.

    `ValueError` where there are not as many colours as classes.
    """
    if colours is not None:
        if len(colours) != len(classes):
            raise ValueError(f"there are {len(colours)} colours for {len(classes)} classes; give each class its own.")
        return np.array(colours, np.uint8).reshape(-1, 3)
    if not has_background(classes):
        return class_colours(len(classes))
    return np.concatenate([np.zeros((1, 3), np.uint8), class_colours(len(classes) - 1)])


def has_background(classes: Sequence[str]) -> bool:
    """Whether class 0 is a background, which is not drawn over an image."""
    return bool(classes) and classes[0].lower() in BACKGROUNDS


def draw_errors(
    image: Picture,
    truth: UInt8[np.ndarray, "h w"],
    predicted: UInt8[np.ndarray, "h w"],
    *,
    scale: float = 1.0,
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The image pale and without colour, wrong pixels in `WRONG`, those without a label in `IGNORED`.

    Raises:
        ValueError: maps of another size than the image.
    """
    if not image.shape[:2] == truth.shape == predicted.shape:
        sizes = [image.shape[:2], truth.shape, predicted.shape]
        raise ValueError(f"the image and both label maps must have one size, got {sizes}.")
    grey = cv2.cvtColor(enlarge(image, scale), cv2.COLOR_RGB2GRAY)
    canvas = np.repeat(160 + (grey[..., None] * 0.37).astype(np.uint8), 3, axis=2)
    ignored = truth == IGNORE
    for where, colour in ((ignored, IGNORED), (~ignored & (truth != predicted), WRONG)):
        size = canvas.shape[1::-1]
        canvas[cv2.resize(where.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0] = colour
    return canvas


def error_sheet(
    image: Picture,
    truth: UInt8[np.ndarray, "h w"],
    predicted: UInt8[np.ndarray, "h w"],
    classes: Sequence[str],
    *,
    colours: Sequence[tuple[int, int, int]] | None = None,
) -> Picture:
    """Image, truth, prediction and errors beside each other, above the names of the classes that occur."""
    scale = min(PANEL[0] / image.shape[1], PANEL[1] / image.shape[0])
    table, background = map_colours(classes, colours), has_background(classes)
    options = {"background": background, "colours": table, "legend": False, "scale": scale}
    panels = [
        enlarge(image, scale),
        # Without the image, which is beside it: over a light one the colours would not be those of the legend.
        *(draw_segmentation(None, label_map, classes, **options) for label_map in (truth, predicted)),
        draw_errors(image, truth, predicted, scale=scale),
    ]
    sheet = contact_sheet(panels, captions=("image", "ground truth", "prediction", "errors"))
    present = [k for k in range(len(classes)) if k in truth or k in predicted]
    entries = [(classes[k], table[k]) for k in present if k or not background]
    return with_legend(sheet, [*entries, ("wrong", WRONG), ("ignored", IGNORED)])


def save_palette(
    path: str | os.PathLike,
    label_map: UInt8[np.ndarray, "h w"],
    colours: UInt8[np.ndarray, "n 3"],
) -> pathlib.Path:
    """Writes a label map as a PNG file whose pixels are class ids, shown in the classes' colours; the path."""
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(colours)] = colours
    palette[IGNORE] = VOID
    picture = Image.fromarray(label_map)
    picture.putpalette(palette.tobytes())
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, "PNG")
    return path
