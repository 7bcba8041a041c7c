"""DeepPose: loss, cascade and simulated predictions against NumPy, one batch learnt by heart, what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from configs import CONFIGS
from configs.pose import DeepPose
from segjax.models import pose as module
from segjax.models.layers.normalize import IMAGENET_MEAN, IMAGENET_STD
from segjax.models.pose import CERTAIN, PoseSettings, pose_regression
from segjax.types import Batch, Instances
from tests import tiny

K = 3
SMALL = DeepPose(
    form="resnet",
    depth=18,
    norm="group",
    width=0.125,
    stage=1,
    hidden=(32,),
    dropout=0.0,
    pooled=8,
    crop_pooled=4,
    pose=PoseSettings(side=32, crop_side=16, stages=2, sigma=0.5),
)


class Means(nn.Module):
    """Not a network: the patch's mean colour and its corner, so that what is seen can be read off the output."""

    @nn.compact
    def __call__(self, x, *, train=False):
        self.sow("intermediates", "seen", x)
        return [x]


class Linear(nn.Module):
    """A linear map of the mean colour."""

    joints: int = K

    @nn.compact
    def __call__(self, features, *, train=False):
        return nn.Dense(2 * self.joints, name="linear")(features[0].mean((1, 2)))


def batch_of(rng, *, count=3, side=24, sizes=None, capacity=2):
    """Images of noise with a pose each, the last joint of the first not labelled, an unused row before the pose."""
    sizes = np.full((count, 2), side, np.int32) if sizes is None else np.asarray(sizes, np.int32)
    points = np.zeros((count, capacity, K, 3), np.float32)
    valid = np.zeros((count, capacity), bool)
    valid[:, -1] = True
    points[:, -1, :, :2], points[:, -1, :, 2] = rng.uniform(2, side - 2, (count, K, 2)), 2
    points[0, -1, -1] = 0
    boxes = np.zeros((count, capacity, 4), np.float32)
    images = rng.integers(0, 255, (count, side, side, 3)).astype(np.uint8)
    objects = Instances(boxes, np.zeros((count, capacity), np.int32), valid, keypoints=points)
    return Batch(images, sizes, objects, np.arange(count, dtype=np.int32))


def linear(stages, **settings):
    parts = {"backbone": Means(), "head": Linear()}
    return pose_regression(K, **parts, settings=PoseSettings(side=8, crop_side=4, stages=stages, **settings))


def normalised(batch):
    """As the model sees images: zero mean, unit variance, zero in the padding."""
    x = (batch.images / np.float32(255) - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)
    for image, (height, width) in zip(x, batch.sizes):
        image[height:], image[:, width:] = 0, 0
    return x


def sample(image, box, side):
    """Bilinear samples at the middles of `side` x `side` parts of a box; zero beyond a pixel outside."""
    patch = np.zeros((side, side, 3))
    height, width = image.shape[:2]
    for i in range(side):
        for j in range(side):
            x = box[0] + (j + 0.5) / side * (box[2] - box[0]) - 0.5
            y = box[1] + (i + 0.5) / side * (box[3] - box[1]) - 0.5
            if not (-1 <= x <= width and -1 <= y <= height):
                continue
            x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
            x0, y0 = int(x), int(y)
            x1, y1 = min(x0 + 1, width - 1), min(y0 + 1, height - 1)
            top = image[y0, x0] * (1 - x + x0) + image[y0, x1] * (x - x0)
            patch[i, j] = top * (1 - y + y0) + (image[y1, x0] * (1 - x + x0) + image[y1, x1] * (x - x0)) * (y - y0)
    return patch


def apply(variables, name, patch):
    layer = variables["params"][name]["linear"]
    return (patch.mean((0, 1)) @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])).reshape(K, 2)


def squares(pose, sigma, measured=None):
    """Around each joint, of sigma times the diagonal of the extent, which may be that of another pose."""
    measured = pose if measured is None else measured
    half = sigma * np.hypot(*(measured.max(0) - measured.min(0))) / 2
    return np.concatenate([pose - half, pose + half], axis=1)


@pytest.fixture(scope="module")
def trained():
    """A linear cascade of three stages with weights that move joints about, a batch with padding, and both results."""
    rng = np.random.default_rng(3)
    batch = batch_of(rng, sizes=[(24, 24), (20, 16), (24, 18)])
    model = linear(3, sigma=0.6, decay=0.75)
    variables = jax.jit(model.init)(jax.random.key(0), batch)
    layers = {n: p for n, p in variables["params"].items() if n.startswith("head")}
    random = jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.2, x.shape), jnp.float32), layers)
    variables = {**variables, "params": {**variables["params"], **random}}
    terms, after = jax.jit(model.losses)(variables, batch, jax.random.key(5))
    found = jax.jit(model.predict)(variables, batch.images, batch.sizes)
    return batch, variables, terms, after, found


def first_stage(batch, variables):
    """Outputs of the first stage in units of the image, and in pixels."""
    outputs, pixels = [], []
    for image, (height, width) in zip(normalised(batch), batch.sizes):
        out = apply(variables, "head", sample(image, (0, 0, width, height), 8))
        outputs.append(out)
        pixels.append((out + 0.5) * [width, height])
    return np.array(outputs), np.array(pixels)


def test_the_first_loss_is_equation_4(trained):
    batch, variables, terms, _, _ = trained
    outputs, total = first_stage(batch, variables)[0], 0.0
    for i, (height, width) in enumerate(batch.sizes):
        for j in range(K):
            x, y, seen = batch.instances.keypoints[i, 1, j]
            if seen:
                wanted = np.array([(x - width / 2) / width, (y - height / 2) / height])
                total += ((outputs[i, j] - wanted) ** 2).sum()
    assert float(terms["pose"]) == pytest.approx(total / 3, rel=1e-4)


def test_prediction_is_a_cascade_of_crops_around_joints(trained):
    batch, variables, _, _, found = trained
    poses, images = first_stage(batch, variables)[1], normalised(batch)
    for stage in (2, 3):
        for i, image in enumerate(images):
            around = squares(poses[i], 0.6)
            moves = [apply(variables, f"head{stage}", sample(image, around[j], 4))[j] for j in range(K)]
            poses[i] += np.array(moves) * (around[:, 2:] - around[:, :2])
    np.testing.assert_allclose(found.keypoints[:, 0, :, :2], poses, atol=2e-3)
    assert (np.asarray(found.keypoints[..., 2]) == CERTAIN).all() and found.keypoints.shape == (3, 1, K, 3)
    assert (found.scores == 1).all() and found.valid.all() and (found.labels == 0).all()
    for box, pose, (height, width) in zip(np.asarray(found.boxes)[:, 0], poses, batch.sizes):
        low = np.clip(pose.min(0), 0, [width - 1, height - 1])
        np.testing.assert_allclose(box[:2], low, atol=2e-3)
        np.testing.assert_allclose(box[2:], np.clip(pose.max(0), low + 1, [width, height]), atol=2e-3)


def test_later_stages_learn_from_simulated_predictions(trained):
    """Equation 7: the truth displaced by draws with the moments of the former stage's errors, seen in its own size."""
    batch, variables, terms, after, _ = trained
    images, first = normalised(batch), first_stage(batch, variables)[1]
    truth, seen = batch.instances.keypoints[:, 1, :, :2], batch.instances.keypoints[:, 1, :, 2] > 0
    known = np.where(seen[..., None], truth, first)
    sides, former = batch.sizes[:, None, ::-1].astype(np.float64), first
    for stage in (2, 3):
        errors = (former - truth) / sides
        count = seen.sum(0)[:, None]
        for name, values, start in (("mean", errors, 0.0), ("square", errors**2, 0.01)):
            wanted = 0.75 * start + 0.25 * (values * seen[..., None]).sum(0) / count
            kept = np.asarray(after[module.ERRORS][f"stage{stage - 1}"][name])
            np.testing.assert_allclose(kept, wanted, atol=1e-4)
        moments = {n: np.asarray(v) for n, v in after[module.ERRORS][f"stage{stage - 1}"].items()}
        draws = jax.random.normal(jax.random.fold_in(jax.random.key(5), stage), truth.shape)
        deviation = np.sqrt(np.maximum(moments["square"] - moments["mean"] ** 2, 0))
        simulated = np.where(seen[..., None], truth + (np.asarray(draws) * deviation + moments["mean"]) * sides, first)
        total, former = 0.0, simulated.copy()
        for i, image in enumerate(images):
            around = squares(simulated[i], 0.6, known[i])
            for j in range(K):
                move = apply(variables, f"head{stage}", sample(image, around[j], 4))[j]
                side = around[j, 2:] - around[j, :2]
                former[i, j] += move * side
                if seen[i, j]:
                    total += ((move - (truth[i, j] - simulated[i, j]) / side) ** 2).sum()
        assert float(terms[f"pose_stage{stage}"]) == pytest.approx(total / 3, rel=2e-3)


def test_stages_do_not_train_each_other(trained):
    batch, variables, _, _, _ = trained
    model = linear(3, sigma=0.6, decay=0.75)

    def second(params, batch):
        return model.losses({**variables, "params": params}, batch, jax.random.key(5))[0]["pose_stage2"]

    gradient = jax.jit(jax.grad(second))(variables["params"], batch)
    sizes = {name: float(sum(jnp.abs(x).sum() for x in jax.tree.leaves(tree))) for name, tree in gradient.items()}
    assert sizes["head2"] > 0 and sizes["head"] == sizes["head3"] == 0


def test_draws_have_the_moments_asked_for(rng):
    """Of ten thousand images; a joint without a label is where it is said to be otherwise."""
    shape = (10_000, 2, 2)
    truth = module.Pose(jnp.full(shape, 7.0), jnp.tile(jnp.array([[True, False]]), (10_000, 1)))
    frame = jnp.broadcast_to(jnp.array([0.0, 0.0, 10.0, 20.0]), (10_000, 2, 4))
    moments = {"mean": jnp.array([[0.1, -0.2], [0, 0]]), "square": jnp.array([[0.05, 0.08], [1, 1]])}
    drawn = np.asarray(module.simulate(jax.random.key(0), truth, jnp.full(shape, -1.0), frame, moments))
    np.testing.assert_allclose(drawn[:, 0].mean(0), [7 + 0.1 * 10, 7 - 0.2 * 20], atol=0.1)
    np.testing.assert_allclose(drawn[:, 0].var(0), [0.04 * 100, 0.04 * 400], rtol=0.05)
    assert (drawn[:, 1] == -1).all()


def test_moments_of_a_joint_that_is_not_there_stay():
    old = {"mean": jnp.ones((2, 2)), "square": jnp.full((2, 2), 3.0)}
    labelled = jnp.array([[True, False], [False, False]])
    errors = jnp.full((2, 2, 2), 2.0).at[:, 1].set(jnp.nan)
    new = module.moved(old, errors, labelled, decay=0.9)
    np.testing.assert_allclose(new["mean"], [[1.1, 1.1], [1, 1]], rtol=1e-6)
    np.testing.assert_allclose(new["square"], [[3.1, 3.1], [3, 3]], rtol=1e-6)


def test_a_batch_without_persons_has_no_loss_and_no_gradient(rng, key):
    batch = batch_of(rng)
    batch = batch.replace(instances=batch.instances.replace(valid=np.zeros((3, 2), bool)))
    model = linear(2)
    variables = jax.jit(model.init)(key, batch)

    def total(params, batch):
        terms, after = model.losses({**variables, "params": params}, batch, key)
        return sum(terms.values()), after[module.ERRORS]

    (loss, errors), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(variables["params"], batch)
    assert float(loss) == 0 and all((np.asarray(x) == 0).all() for x in jax.tree.leaves(gradient))
    jax.tree.map(np.testing.assert_array_equal, errors, variables[module.ERRORS])


def test_two_images_are_learnt_by_heart(rng):
    batch = tiny.with_everything(tiny.batch_of([tiny.TWO[1], ([[20, 4, 60, 28]], [0])], capacity=1))
    model = SMALL.build(1, tiny.JOINTS)
    batch = jax.tree.map(jnp.asarray, batch)
    variables, first, last = tiny.overfit(model, batch, steps=120)
    assert set(first) == {"pose", "pose_stage2"} and last["pose"] < 1e-3 < first["pose"] / 20, (first, last)
    assert last["pose_stage2"] < first["pose_stage2"] / 3, (first, last)
    found = jax.jit(model.predict)(variables, batch.images, batch.sizes)
    truth = batch.instances.keypoints[:, 0, :, :2]
    assert np.abs(np.asarray(found.keypoints[:, 0, :, :2]) - truth).max() < 3


@pytest.mark.parametrize(("form", "side"), [("alexnet", 220), ("vgg16", 64), ("resnet", 64)])
def test_shapes_with_each_backbone(form, side, key):
    model = dataclasses.replace(
        SMALL, form=form, width=0.25, stage=4, norm="group", pose=PoseSettings(side, 3, crop_side=side)
    ).build(1, 14)
    batch = tiny.batch_of([([], [])] * 2, side=96)
    batch = batch.replace(instances=batch.instances.replace(keypoints=np.zeros((2, tiny.CAPACITY, 14, 3), np.float32)))
    variables = jax.eval_shape(model.init, key, batch)
    assert set(variables["params"]) == {f"{part}{n}" for part in ("backbone", "head") for n in ("", 2, 3)}
    losses, after = jax.eval_shape(model.losses, variables, batch, key)
    assert set(losses) == {"pose", "pose_stage2", "pose_stage3"}
    assert jax.tree.structure(after) == jax.tree.structure(variables)
    images = jax.ShapeDtypeStruct((2, 96, 96, 3), np.uint8), jax.ShapeDtypeStruct((2, 2), np.int32)
    found = jax.eval_shape(lambda *given: vars(model.predict(*given)), variables, *images)
    assert found["keypoints"].shape == (2, 1, 14, 3) and found["boxes"].shape == (2, 1, 4)


def test_the_small_recipe_starts_from_the_backbone_of_faster_rcnn(key):
    """Path by path and shape by shape; later stages see crops through fewer stages of the same network."""
    recipe = CONFIGS["pose_scenes"].model
    cascade = dataclasses.replace(recipe, pose=dataclasses.replace(recipe.pose, stages=2)).build(1, tiny.JOINTS)
    batch = tiny.batch_of([([], [])])
    made = [
        jax.eval_shape(model.init, key, batch)["params"]
        for model in (CONFIGS["faster_rcnn_scenes"].model.build(3), cascade)
    ]
    trained, own = (jax.tree.map(lambda x: x.shape, params) for params in made)
    assert own["backbone"] == trained["backbone"]
    assert own["backbone2"] == {name: tree for name, tree in trained["backbone"].items() if name != "layer3"}


def test_the_papers_network(key):
    """Figure 2: 220x220 pixels, and about forty million parameters."""
    recipe = CONFIGS["pose_lsp"]
    model = recipe.model.build(1, 14)
    variables = jax.eval_shape(model.init, key, tiny.batch_of([([], [])], side=220))
    assert recipe.data.buckets == ((220, 220),) and recipe.model.pose.side == 220
    assert variables["params"]["head"]["logits"]["kernel"].shape == (4096, 28)
    assert 35e6 < sum(x.size for x in jax.tree.leaves(variables["params"])) < 60e6


@pytest.mark.parametrize(("change", "message"), [
    ({"side": 0}, "side is 0; it must be at least 1"),
    ({"stages": 0}, "stages is 0"),
    ({"crop_side": -1}, "crop_side is -1"),
    ({"sigma": 0.0}, "sigma is 0.0 and must be above 0"),
    ({"decay": 1.0}, "decay 1.0 and lie in"),
    ({"torso": (0, 3), "stages": 2}, r"torso is \(0, 3\), and there are the joints 0 to 2"),
])  # fmt: skip
def test_settings_that_make_no_sense(change, message):
    with pytest.raises(ValueError, match=message):
        pose_regression(K, backbone=Means(), head=Linear(), settings=PoseSettings(**change))


def test_what_does_not_fit(rng, key):
    model, batch = linear(1), batch_of(rng)
    variables = jax.eval_shape(model.init, key, batch)
    for joints, message in ((None, "the batch has none: ask for keypoints"), (5, "finds 3 joints, .* have 5")):
        points = None if joints is None else np.zeros((3, 2, joints, 3), np.float32)
        with pytest.raises(ValueError, match=message):
            other = batch.replace(instances=batch.instances.replace(keypoints=points))
            jax.eval_shape(model.losses, variables, other, key)
    with pytest.raises(ValueError, match=r"the head gives \(4,\) numbers an image; 3 joints are 6"):
        jax.eval_shape(pose_regression(K, backbone=Means(), head=Linear(2)).init, key, batch)
    with pytest.raises(ValueError, match="this model needs data with keypoints"):
        SMALL.build(1, 0)
    with pytest.raises(ValueError, match=r"model\.norm is None, and a ResNet has norms"):
        dataclasses.replace(SMALL, norm=None).build(1, 3)
