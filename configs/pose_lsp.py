"""DeepPose on Leeds Sports Pose, 220x220 pixels.

    python -m train pose_lsp --data.root LSP
    python -m train pose_lsp --data.root LSP --model.pose.stages 3 --data.buckets 440 440 --run runs/pose_lsp_cascade

`LSP` holds joints.mat and images/, 2000 of them, of which the first thousand are trained on. Toshev and Szegedy 2014:
whole images, since they are cropped to their person already, and AlexNet's layers with a dropout of 0.6. The second
command adds two stages that look at twice the torso's diameter around each joint, in images of twice the side.

Not run: shapes are checked by tracing. It wants a GPU. The paper trains on 11 000 images, with those of the extended
set, by AdaGrad at 0.0005. The extended set is read with `--data.lsp.third visible --data.train 1-10000`, in a run
before this one (`--start.runs`).
"""

import pathlib

from configs.base import Data, Optim, Recipe
from configs.pose import DeepPose
from segjax.data.lsp import JOINTS
from segjax.models.pose import PoseSettings

RECIPE = Recipe(
    model=DeepPose(
        # What AlexNet, whose poolings are not padded, makes of 220 pixels.
        pooled=5,
        crop_pooled=5,
        pose=PoseSettings(sigma=2.0, torso=(JOINTS.index("left_shoulder"), JOINTS.index("right_hip"))),
    ),
    data=Data(
        format="lsp",
        root=pathlib.Path("data/lsp"),
        train="1-1000",
        val="1001-2000",
        buckets=((220, 220),),
        capacity=1,
        # A scale below 1 would only blur: the first stage sees all of the image, whatever its share of the bucket.
        scales=(1.0, 1.3),
    ),
    # AdaGrad is not among the optimisers; AdamW's rate is for weights drawn at random, without norms.
    optim=Optim(name="adamw", lr=1e-4, weight_decay=5e-4, schedule="cosine", warmup_steps=500, clip_norm=10.0),
    steps=40000,
    batch_size=128,
    eval_batch_size=128,
    log_every=100,
    checkpoint_every=2000,
)
