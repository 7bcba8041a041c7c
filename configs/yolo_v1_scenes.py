"""YOLO, first version, from scratch on the generated scenes, sized for two CPU cores.

python -m train yolo_v1_scenes
"""

from configs.base import Data, Optim, Recipe
from configs.yolo import YOLOv1

RECIPE = Recipe(
    model=YOLOv1(
        form="yolo",
        norm="group",
        width=0.25,
        convolutions=((256, 1), (128, 1)),
        hidden=(512,),
        dropout=0.5,
        grid=7,
    ),
    data=Data(buckets=((160, 160),), capacity=10, flip=0.5, scales=(0.7, 1.3)),
    optim=Optim(name="adamw", lr=1e-3, weight_decay=0.05, schedule="cosine", warmup_steps=50, clip_norm=10.0),
    steps=1500,
    batch_size=16,
    eval_batch_size=16,
    log_every=20,
    checkpoint_every=500,
)
