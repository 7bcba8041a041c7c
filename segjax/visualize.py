"""Boxes, masks, keypoints and label maps drawn on images: NumPy arrays in, a new RGB array of bytes out.

Coordinates are those of the image as given, continuous pixels; `scale` enlarges the image before anything is drawn, so
that lines stay thin and text can be read on small images. `draw_objects` draws everything known of an image at once.
"""

import base64
import functools
import io
import os
import pathlib
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, Integer, Num, UInt8
from PIL import Image, ImageDraw, ImageFont

from segjax.colours import class_colours

# Axes named "_" may differ between arguments: where they must not, the function says so in words.
Picture = UInt8[np.ndarray, "_ _ 3"]


def readable_scale(height: int, width: int, *, shorter_side: int = 448) -> float:
    """The whole number, at least 1, that brings an image's shorter side nearest to `shorter_side` pixels."""
    return float(max(1, round(shorter_side / max(1, min(height, width)))))


def enlarge(image: Picture, scale: float) -> UInt8[np.ndarray, "h2 w2 3"]:
    """A copy of the image with `scale` times as many pixels along each side."""
    if not scale > 0:
        raise ValueError(f"scale must be above 0, got {scale}.")
    if scale == 1:
        return image.copy()
    return cv2.resize(image, _scaled_size(image, scale), interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)


def _scaled_size(plane: np.ndarray, scale: float) -> tuple[int, int]:
    """(width, height), as OpenCV wants it."""
    return max(1, round(plane.shape[1] * scale)), max(1, round(plane.shape[0] * scale))


def _line_width(image: np.ndarray) -> int:
    return max(1, round(min(image.shape[:2]) / 200))


@functools.lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _font_size(image: np.ndarray) -> int:
    return int(np.clip(min(image.shape[:2]) / 30, 11, 28))


def _ink(colour: Sequence[int] | np.ndarray) -> tuple[int, int, int]:
    """Black or white, whichever can be read on `colour`."""
    return (0, 0, 0) if np.dot(colour, (0.299, 0.587, 0.114)) > 140 else (255, 255, 255)


def _colours_of(labels: np.ndarray | None, count: int) -> np.ndarray:
    """Colours by class, or one for each object where no classes are given."""
    labels = np.arange(count) if labels is None else labels
    return class_colours(int(labels.max(initial=-1)) + 1)[labels] if count else np.zeros((0, 3), np.uint8)


def _check_labels(labels: np.ndarray | None, count: int, classes: Sequence[str] | None) -> None:
    if labels is None:
        return
    if len(labels) != count:
        raise ValueError(f"labels must have one entry for each object: got {len(labels)} for {count} objects.")
    bad = [int(i) for i in labels if i < 0 or (classes is not None and i >= len(classes))]
    if bad:
        known = "0 or more" if classes is None else f"0..{len(classes) - 1} ({len(classes)} classes)"
        raise ValueError(f"labels must lie in {known}, got {bad[0]}.")


def draw_boxes(
    image: Picture,
    boxes: Num[np.ndarray, "n 4"],
    labels: Integer[np.ndarray, "_"] | None = None,
    scores: Float[np.ndarray, "_"] | None = None,
    *,
    classes: Sequence[str] | None = None,
    notes: Sequence[str] | None = None,
    scale: float = 1.0,
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The image with boxes around objects, in the colours of their classes, named by class and score.

    Args:
        boxes: `xyxy` in pixels of `image`. Parts outside the image are left out; a box that is wholly outside, empty or
            not finite is not drawn.
        labels: Class ids, 0-based; without them every box has a colour of its own.
        scores: Shown with two decimals.
        classes: Names by class id; without them the id is shown.
        notes: Further words for each box, shown after its score.

    Raises:
        ValueError: A label is out of range, or labels, scores or notes do not match the boxes in number.
    """
    _check_labels(labels, len(boxes), classes)
    for name, values in (("scores", scores), ("notes", notes)):
        if values is not None and len(values) != len(boxes):
            raise ValueError(f"{name} must have one entry for each box: got {len(values)} for {len(boxes)} boxes.")
    canvas = Image.fromarray(enlarge(image, scale))
    draw, width = ImageDraw.Draw(canvas), _line_width(np.asarray(canvas))
    colours = _colours_of(labels, len(boxes))
    texts = [_caption(i, labels, scores, classes, notes) for i in range(len(boxes))]
    corners = [_pixels(box * scale, canvas.size) for box in boxes.astype(np.float64)]
    for corner, colour in zip(corners, colours):
        if corner is not None:
            draw.rectangle(corner, outline=tuple(colour.tolist()), width=width)
    for corner, colour, text in zip(corners, colours, texts):
        if corner is not None and text:
            _draw_tag(draw, canvas, corner[:2], text, colour)
    return np.array(canvas)


def _pixels(box: np.ndarray, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """First and last pixel of a box inside an image of `size` (width, height)."""
    if not np.isfinite(box).all():
        return None
    x1, y1 = np.clip(np.round(box[:2]), 0, size).astype(int).tolist()
    x2, y2 = np.clip(np.round(box[2:]), 0, size).astype(int).tolist()
    return (x1, y1, x2 - 1, y2 - 1) if x2 > x1 and y2 > y1 else None


def _caption(
    index: int,
    labels: np.ndarray | None,
    scores: np.ndarray | None,
    classes: Sequence[str] | None,
    notes: Sequence[str] | None,
) -> str:
    words = []
    if labels is not None:
        words.append(str(int(labels[index])) if classes is None else classes[int(labels[index])])
    if scores is not None:
        words.append(f"{float(scores[index]):.2f}")
    if notes is not None:
        words.append(notes[index])
    return " ".join(word for word in words if word)


def _draw_tag(
    draw: ImageDraw.ImageDraw, canvas: Image.Image, corner: tuple[int, int], text: str, colour: np.ndarray
) -> None:
    """Text on a plate: above the box where there is room, else within; always inside the image."""
    font = _font(_font_size(np.asarray(canvas)))
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = int(right - left) + 6, int(bottom - top) + 4
    x = min(corner[0], max(0, canvas.width - width))
    y = corner[1] - height + 1 if corner[1] >= height else corner[1]
    y = min(y, max(0, canvas.height - height))
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=tuple(colour.tolist()))
    draw.text((x + 3 - left, y + 2 - top), text, font=font, fill=_ink(colour))


def draw_masks(
    image: Picture,
    masks: Bool[np.ndarray, "n _ _"],
    labels: Integer[np.ndarray, "_"] | None = None,
    *,
    opacity: float = 0.45,
    scale: float = 1.0,
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The image with instance masks laid over it, each tinted and outlined in its class's (else its own) colour.

    Raises:
        ValueError: Masks of another size than the image, or labels that do not match them in number.
    """
    if masks.shape[1:] != image.shape[:2]:
        raise ValueError(f"masks must have the image's size {image.shape[:2]}, got {masks.shape[1:]}.")
    _check_labels(labels, len(masks), None)
    canvas = enlarge(image, scale)
    for mask, colour in zip(masks, _colours_of(labels, len(masks))):
        enlarged = cv2.resize(mask.astype(np.uint8), canvas.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        inside = enlarged > 0
        canvas[inside] = np.round(canvas[inside] * (1 - opacity) + colour * opacity).astype(np.uint8)
        contours, _ = cv2.findContours(enlarged, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, contours, -1, colour.tolist(), max(1, _line_width(canvas) // 2))
    return canvas


def draw_keypoints(
    image: Picture,
    keypoints: Num[np.ndarray, "n k 3"],
    skeleton: Sequence[tuple[int, int]] = (),
    *,
    scale: float = 1.0,
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The image with joints and the bones between them; each bone and each joint has the same colour on every object.

    Args:
        keypoints: (x, y, visibility). 0: not drawn, nor are its bones; 1 (hidden): a white dot; 2: a coloured dot.
        skeleton: Pairs of 0-based joint indices.

    Raises:
        ValueError: The skeleton names a joint that does not exist.
    """
    joints = keypoints.shape[1]
    bad = [pair for pair in skeleton if not all(0 <= joint < joints for joint in pair)]
    if bad:
        raise ValueError(f"skeleton must join two of the {joints} joints, 0 to {joints - 1}, got {bad[0]}.")
    canvas = enlarge(image, scale)
    for points in keypoints.astype(np.float64):
        _draw_pose(canvas, points * (scale, scale, 1.0), skeleton)
    return canvas


def _draw_pose(canvas: np.ndarray, points: np.ndarray, skeleton: Sequence[tuple[int, int]]) -> None:
    width = _line_width(canvas)
    drawn = (points[:, 2] > 0) & np.isfinite(points).all(-1) & (np.abs(points[:, :2]) < 1e4).all(-1)
    # OpenCV takes positions in sixteenths of a pixel, whole numbers at pixel centres.
    at = [np.round((xy - 0.5) * 16).astype(int).tolist() if ok else None for xy, ok in zip(points[:, :2], drawn)]
    for (a, b), colour in zip(skeleton, class_colours(len(skeleton)).tolist()):
        if drawn[a] and drawn[b]:
            cv2.line(canvas, at[a], at[b], colour, width + 1, cv2.LINE_AA, shift=4)
    radius = 16 * (width + 1)
    for centre, visibility, colour in zip(at, points[:, 2], class_colours(len(points)).tolist()):
        if centre is not None:
            cv2.circle(canvas, centre, radius + 12, (0, 0, 0), -1, cv2.LINE_AA, shift=4)
            cv2.circle(canvas, centre, radius, (255, 255, 255) if visibility == 1 else colour, -1, cv2.LINE_AA, shift=4)


def draw_segmentation(
    image: Picture | None,
    label_map: Integer[np.ndarray, "_ _"],
    classes: Sequence[str],
    *,
    background: bool = True,
    colours: UInt8[np.ndarray, "_ 3"] | None = None,
    opacity: float = 0.6,
    legend: bool = True,
    scale: float = 1.0,
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """A label map in the colours of its classes, over the image or (None) on black.

    Args:
        label_map: Class ids; those outside `classes` (255, to ignore) are left uncoloured over an image, grey without.
        classes: Names by id, the background's among them.
        background: Id 0 is the background and stays uncoloured; id i has the colour that a detector's class i - 1 has.
        colours: RGB of each class, in place of ours.
        legend: A strip below with the names of the classes that occur.

    Raises:
        ValueError: A map of another size than the image.
    """
    if image is not None and image.shape[:2] != label_map.shape:
        raise ValueError(f"label_map must have the image's size {image.shape[:2]}, got {label_map.shape}.")
    base = np.zeros((*label_map.shape, 3), np.uint8) if image is None else image
    canvas, opacity = enlarge(base, scale), 1.0 if image is None else opacity
    known = (label_map >= 0) & (label_map < len(classes))
    table = class_colours(len(classes))
    table = np.concatenate([np.zeros((1, 3), np.uint8), table])[: len(classes)] if background else table
    table = table if colours is None else colours
    colours = np.where(known[..., None], table[np.where(known, label_map, 0)], np.uint8(128)) if len(classes) else base
    tinted = (known & (label_map > 0) if background else known) | (~known if image is None else False)
    size = canvas.shape[1::-1]
    colours = cv2.resize(colours.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    alpha = cv2.resize(tinted.astype(np.float32), size, interpolation=cv2.INTER_NEAREST)[..., None] * opacity
    canvas = np.round(canvas * (1 - alpha) + colours * alpha).astype(np.uint8)
    if not legend:
        return canvas
    present = [int(i) for i in np.unique(label_map[known]) if i > 0 or not background]
    return with_legend(canvas, [(classes[i], table[i]) for i in present])


def with_legend(picture: Picture, entries: Sequence[tuple[str, UInt8[np.ndarray, "3"]]]) -> Picture:
    """The picture above a white strip with a coloured square and a name for each entry, in rows."""
    return np.concatenate([picture, _legend(picture, entries)])


def _legend(canvas: np.ndarray, entries: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    size = _font_size(canvas)
    font, row, x, y, places = _font(size), size + 8, 4, 4, []
    for name, colour in entries:
        width = size + 6 + int(np.ceil(font.getlength(name))) + 12
        if x > 4 and x + width > canvas.shape[1]:
            x, y = 4, y + row
        places.append((x, y, name, colour))
        x += width
    strip = Image.new("RGB", (canvas.shape[1], y + row if entries else 0), "white")
    draw = ImageDraw.Draw(strip)
    for x, y, name, colour in places:
        draw.rectangle((x, y, x + size, y + size), fill=tuple(colour.tolist()), outline=(0, 0, 0))
        draw.text((x + size + 6, y + size / 2), name, font=font, fill=(0, 0, 0), anchor="lm")
    return np.array(strip).reshape(-1, canvas.shape[1], 3)


def draw_objects(
    image: Picture,
    boxes: Num[np.ndarray, "n 4"],
    labels: Integer[np.ndarray, "_"] | None = None,
    scores: Float[np.ndarray, "_"] | None = None,
    *,
    masks: Bool[np.ndarray, "n _ _"] | None = None,
    keypoints: Num[np.ndarray, "m k 3"] | None = None,
    skeleton: Sequence[tuple[int, int]] = (),
    classes: Sequence[str] | None = None,
    notes: Sequence[str] | None = None,
    scale: float | None = None,
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The image with everything known of its objects: masks, then joints, then boxes and names on top.

    `scale` None enlarges a small image until text can be read (`readable_scale`). The rest as in the functions above.
    """
    scale = readable_scale(*image.shape[:2]) if scale is None else scale
    canvas = image if masks is not None else enlarge(image, scale)
    if masks is not None:
        canvas = draw_masks(image, masks, labels, scale=scale)
    if keypoints is not None:
        canvas = draw_keypoints(canvas, keypoints * np.array([scale, scale, 1.0]), skeleton)
    return draw_boxes(canvas, boxes * scale, labels, scores, classes=classes, notes=notes)


def contact_sheet(
    images: Sequence[Picture], *, columns: int = 4, captions: Sequence[str] | None = None, gap: int = 8
) -> Picture:
    """The images in rows of `columns` on white, each in a cell as large as the largest, its caption beneath.

    Raises:
        ValueError: `columns` below 1, or captions that do not match the images in number.
    """
    if columns < 1:
        raise ValueError(f"columns must be 1 or more, got {columns}.")
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"captions must have one entry for each image: got {len(captions)} for {len(images)} images.")
    if not images:
        return np.full((gap, gap, 3), 255, np.uint8)
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    size = _font_size(np.empty((height, width)))
    strip = size + 8 if captions is not None else 0
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    full = (columns * (width + gap) + gap, rows * (height + strip + gap) + gap)
    sheet = Image.new("RGB", full, "white")
    for i, image in enumerate(images):
        x, y = gap + i % columns * (width + gap), gap + i // columns * (height + strip + gap)
        sheet.paste(Image.fromarray(image), (x, y))
        if captions is not None:
            text = _fitted(captions[i], _font(size), width)
            ImageDraw.Draw(sheet).text((x, y + image.shape[0] + 3), text, font=_font(size), fill=(0, 0, 0))
    return np.array(sheet)


def _fitted(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    """The text, cut with an ellipsis where it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def side_by_side(
    truth: Picture, prediction: Picture, *, captions: tuple[str, str] = ("ground truth", "prediction")
) -> Picture:
    """Two drawings of the same image next to each other, with captions."""
    return contact_sheet([truth, prediction], columns=2, captions=captions)


def encode(image: Picture, *, quality: int | None = None) -> bytes:
    """The image as the bytes of a PNG file, or with `quality` (1 to 95) of a JPEG file, which is smaller."""
    file = io.BytesIO()
    if quality is None:
        Image.fromarray(image).save(file, "PNG")
    else:
        Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling=0)
    return file.getvalue()


def data_uri(image: Picture, *, quality: int | None = None) -> str:
    """The image as an address that can stand in an HTML page itself: `<img src="...">`. `quality` as in `encode`."""
    kind = "png" if quality is None else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(encode(image, quality=quality)).decode()}"


def save_png(path: str | os.PathLike, image: Picture) -> pathlib.Path:
    """Writes the image to `path`, making its folder where there is none; the path."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(image))
    return path
