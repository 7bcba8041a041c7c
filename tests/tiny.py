"""A detector, images and a data set small enough to train in a test."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image

from configs.base import Data, Optim, Recipe
from configs.detectors import FasterRCNN, KeypointRCNN, MaskRCNN
from segjax.models.heads.box import BoxSettings
from segjax.models.heads.roi import PoolSettings, SamplingSettings
from segjax.models.heads.rpn import RPNSettings
from segjax.types import Batch, Instances, Model, Proposals, Variables

CLASSES = ("disc", "bar", "frame")
SIDE = 64
CAPACITY = 4
MODEL = FasterRCNN(
    depth=18,
    norm="group",
    width=8,
    channels=16,
    hidden=(16, 16),
    rpn=RPNSettings(
        anchor_sizes=((8.0,), (16.0,), (24.0,), (32.0,), (48.0,)),
        samples=32,
        candidates=(48, 32),
        proposals=(32, 16),
    ),
    sampling=SamplingSettings(samples=16),
    box=BoxSettings(candidates=48, detections=6),
    pool=PoolSettings(canonical_size=32.0),
)
COLORS = np.array([[220, 40, 40], [40, 200, 60], [50, 80, 230]], np.uint8)


def painted(rng: np.random.Generator, height: int, width: int, boxes, labels) -> np.ndarray:
    """An image with the objects painted as rectangles, a colour for each class, on dim noise."""
    image = rng.integers(90, 130, (height, width, 3)).astype(np.uint8)
    for (x1, y1, x2, y2), label in zip(np.asarray(boxes, int), labels):
        image[y1:y2, x1:x2] = COLORS[label]
    return image


def batch_of(objects, *, sizes=None, side: int = SIDE, capacity: int = CAPACITY, seed: int = 0) -> Batch:
    """A batch of painted images from (boxes, labels) of each; `sizes` are (height, width) without padding."""
    rng, count = np.random.default_rng(seed), len(objects)
    sizes = np.full((count, 2), side, np.int32) if sizes is None else np.asarray(sizes, np.int32)
    images = np.zeros((count, side, side, 3), np.uint8)
    boxes, labels = np.zeros((count, capacity, 4), np.float32), np.zeros((count, capacity), np.int32)
    valid = np.zeros((count, capacity), bool)
    for i, (b, c) in enumerate(objects):
        images[i, : sizes[i, 0], : sizes[i, 1]] = painted(rng, *sizes[i], b, c)
        boxes[i, : len(c)], labels[i, : len(c)], valid[i, : len(c)] = np.reshape(b, (-1, 4)), c, True
    return Batch(images, sizes, Instances(boxes, labels, valid), np.arange(count, dtype=np.int32))


TWO = [([[6, 8, 30, 32], [36, 20, 60, 36]], [0, 1]), ([[10, 30, 40, 60]], [2])]
"""Two images' objects: a disc and a bar, a frame."""


def write_coco(root: pathlib.Path, *, count: int = 12, seed: int = 0, classes=CLASSES) -> pathlib.Path:
    """A COCO data set of painted images under `root`, half of them 64x64 and half 64x96, in parts train and val."""
    for part, number in (("train", count), ("val", max(count // 3, 1))):
        rng = np.random.default_rng([seed, number])
        folder = root / part
        folder.mkdir(parents=True)
        images, annotations = [], []
        for i in range(number):
            height, width = (64, 64) if i % 2 else (64, 96)
            corner = rng.integers(2, 24, (2, 2))
            boxes = np.concatenate([corner, corner + rng.integers(12, 30, (2, 2))], axis=1)
            boxes[1] += [0, 8, 0, 8]
            boxes = np.minimum(boxes, [width, height, width, height])[: 1 + i % 2]
            labels = rng.integers(0, len(classes), len(boxes))
            Image.fromarray(painted(rng, height, width, boxes, labels % len(COLORS))).save(folder / f"{i}.png")
            images.append({"id": 100 + i, "file_name": f"{i}.png", "height": height, "width": width})
            for (x1, y1, x2, y2), label in zip(boxes.tolist(), labels.tolist()):
                box = [x1, y1, x2 - x1, y2 - y1]
                more = {"iscrowd": 0, "area": box[2] * box[3], "id": len(annotations) + 1}
                annotations.append({"image_id": 100 + i, "category_id": label + 1, "bbox": box, **more})
        categories = [{"id": i, "name": name} for i, name in enumerate(classes, start=1)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"{part}.json").write_text(json.dumps(content))
    return root


def recipe(root: pathlib.Path, run: pathlib.Path, **changes) -> Recipe:
    """The recipe that trains the tiny model on `write_coco(root)`, on one device."""
    plain = Recipe(
        model=MODEL,
        data=Data(
            format="coco",
            root=root,
            train="train.json",
            val="val.json",
            images=("train", "val", ""),
            buckets=((64, 64), (64, 96)),
            capacity=CAPACITY,
            scales=(0.9, 1.2),
            color=0.2,
        ),
        optim=Optim(name="adamw", lr=1e-3, schedule="cosine", warmup_steps=4, clip_norm=10.0, ema_decay=0.9),
        steps=6,
        batch_size=2,
        eval_batch_size=2,
        devices=1,
        log_every=1,
        checkpoint_every=3,
        run=run,
    )
    return dataclasses.replace(plain, **changes)


JOINTS = 3


def with_everything(batch: Batch) -> Batch:
    """The batch with masks (ellipses in the boxes), joints (two corners, the middle) and the width of each object."""
    objects = batch.instances
    b, n = objects.labels.shape
    height, width = batch.images.shape[1:3]
    y, x = np.mgrid[:height, :width] + 0.5
    masks = np.zeros((b, n, height, width), bool)
    points = np.zeros((b, n, JOINTS, 3), np.float32)
    for i, j in zip(*np.nonzero(objects.valid)):
        x1, y1, x2, y2 = objects.boxes[i, j]
        masks[i, j] = (((2 * x - x1 - x2) / (x2 - x1)) ** 2 + ((2 * y - y1 - y2) / (y2 - y1)) ** 2) <= 1
        ends = np.array([[x1 + 0.5, y1 + 0.5], [(x1 + x2) / 2, (y1 + y2) / 2], [x2 - 0.5, y2 - 0.5]])
        points[i, j] = np.concatenate([ends, np.full((3, 1), 2)], axis=1)
    extra = {"width": (objects.boxes[..., 2] - objects.boxes[..., 0]).astype(np.float32)}
    return batch.replace(instances=objects.replace(masks=np.packbits(masks, -1), keypoints=points, extra=extra))


MASK_MODEL = MaskRCNN.of(MODEL, mask_channels=(16,), mask_pool=PoolSettings(size=7, canonical_size=32.0))
KEYPOINT_MODEL = KeypointRCNN.of(
    MODEL, keypoint_channels=(16, 16), keypoint_pool=PoolSettings(size=7, canonical_size=32.0)
)


def overfit(model: Model, batch: Batch, *, steps: int) -> tuple[Variables, dict[str, float], dict[str, float]]:
    """(variables, losses at first, mean of the last five) of a model trained by Adam on this one batch."""
    optimizer = optax.adam(optax.cosine_decay_schedule(4e-3, steps))

    @jax.jit
    def step(variables, state, key):
        def total(params):
            terms, new = model.losses({**variables, "params": params}, batch, key)
            return sum(terms.values()), (terms, new)

        (_, (terms, new)), grads = jax.value_and_grad(total, has_aux=True)(variables["params"])
        with jax.numpy_dtype_promotion("standard"):  # optax's Adam takes a float to an integer's power
            updates, state = optimizer.update(grads, state)
        return {**new, "params": optax.apply_updates(variables["params"], updates)}, state, terms

    variables = jax.jit(model.init)(jax.random.key(0), batch)
    state, history = optimizer.init(variables["params"]), []
    for key in jax.random.split(jax.random.key(1), steps):
        variables, state, terms = step(variables, state, key)
        history.append(jax.device_get(terms))
    last = {name: float(np.mean([terms[name] for terms in history[-5:]])) for name in history[0]}
    return variables, {name: float(value) for name, value in history[0].items()}, last


def no_proposals(count: int, room: int = 1) -> Proposals:
    """Padding alone, for this many images."""
    return Proposals(jnp.zeros((count, room, 4)), jnp.zeros((count, room)), jnp.zeros((count, room), bool))
