"""Examples whose pixels say everything: which object they belong to, and where in the image they were."""

import numpy as np

from segjax.data.source import Example

JOINTS = 4
GROUND = 0


def painted(rng, height, width, first=1, *, masks=True, keypoints=True):
    """An example of rectangles that do not touch: red is the number of the object, `first` and on, green x and blue y.

    Each object has its number as `extra["number"]`, four joints in its pixels' middles, the last of them not labelled,
    and of the others one hidden.
    """
    image = np.empty((height, width, 3), np.uint8)
    image[..., 0] = GROUND
    image[..., 2], image[..., 1] = np.mgrid[:height, :width]
    boxes, points = [], []
    for row in range(2):
        for column in range(3):
            top, left = row * height // 2, column * width // 3
            bottom, right = top + height // 2, left + width // 3
            x1, y1 = int(rng.integers(left, left + (right - left) // 2)), int(rng.integers(top, (top + bottom) // 2))
            x2, y2 = int(rng.integers(x1 + 3, right)), int(rng.integers(y1 + 3, bottom))
            image[y1:y2, x1:x2, 0] = first + len(boxes)
            boxes.append((x1, y1, x2, y2))
            at = np.stack([rng.integers(x1, x2, JOINTS), rng.integers(y1, y2, JOINTS)], axis=1) + 0.5
            points.append(np.concatenate([at, [[2], [2], [1], [0]]], axis=1) * [[1], [1], [1], [0]])
    numbers = np.arange(first, first + len(boxes))
    return Example(
        image=image,
        boxes=np.array(boxes, np.float32),
        labels=(numbers % 3).astype(np.int32),
        masks=(image[..., 0] == numbers[:, None, None]).astype(np.uint8) if masks else None,
        keypoints=np.array(points, np.float32) if keypoints else None,
        extra={"number": numbers.astype(np.float32)},
    )


def numbers_of(example):
    return example.extra["number"].astype(int).tolist()


def extent(pixels):
    """The box around the pixels that are True."""
    rows, columns = np.nonzero(pixels)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def assert_exact(example):
    """Boxes, masks, labels and joints are those that the pixels show."""
    height, width = example.image.shape[:2]
    for i, number in enumerate(numbers_of(example)):
        pixels = example.image[..., 0] == number
        np.testing.assert_array_equal(example.boxes[i], extent(pixels))
        assert example.labels[i] == number % 3
        if example.masks is not None:
            np.testing.assert_array_equal(example.masks[i], pixels)
        if example.keypoints is not None:
            for x, y, visibility in example.keypoints[i]:
                assert (x, y) == (0, 0) if visibility == 0 else 0 <= x <= width and 0 <= y <= height
                assert visibility != 2 or pixels[int(y), int(x)]
            assert example.keypoints[i, -1, 2] == 0
