"""The grid detector: what its parts promise, and that it learns, by either assignment."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.gridnet import GridNet
from segjax.models.gridnet import gridnet
from segjax.models.heads.grid import GridHead, GridSettings
from segjax.models.heads.grid_network import START, GridNetwork, GridOutputs
from segjax.models.layers.csp import CSPNet
from segjax.models.layers.fpn import NoNeck
from segjax.models.layers.pan import PAN
from segjax.types import Instances
from tests import oracles, tiny

TINY = GridNet(
    csp_channels=(8, 8, 16, 16, 32),
    csp_blocks=(1, 1, 1, 1),
    channels=16,
    towers=1,
    stages=(2, 3),
    head=GridSettings(detections=6, candidates=48, score_threshold=0.2),
)


def one_map():
    """All that `TINY` has not, on a single map: towers of its own, distributions, objectness, SimOTA."""
    network = GridNetwork(3, depth=1, shared=False, form="distribution", count=9, objectness=True)
    other = {"assignment": "sim_ota", "points": 10, "class_loss": "quality_focal", "box_loss": "giou"}
    settings = dataclasses.replace(TINY.head, **other)
    backbone = CSPNet((8, 8, 16, 16, 32), (1, 1, 1, 1), stages=(2,))
    return gridnet(3, backbone=backbone, neck=NoNeck(), network=network, settings=settings)


SIZE = jnp.array([32, 32], jnp.int32)


def network(**options):
    return GridNetwork(3, depth=1, **options)


def head(**settings):
    return GridHead(network(), strides=(8, 16), settings=GridSettings(**settings))


def certain(places, boxes, labels, stride, *, classes=3):
    """Outputs that put these boxes at the points nearest to their centres on the level of this stride, surely."""
    points = np.concatenate(places)
    strides = np.repeat([8.0, 16.0], [len(x) for x in places])
    logits, distances = np.full((len(points), classes), -9.0), np.ones((len(points), 4))
    for box, label in zip(boxes, labels):
        x1, y1, x2, y2 = box
        away = np.hypot(points[:, 0] - (x1 + x2) / 2, points[:, 1] - (y1 + y2) / 2) + 1e9 * (strides != stride)
        i = int(away.argmin())
        x, y = points[i]
        distances[i] = np.array([x - x1, y - y1, x2 - x, y2 - y]) / stride
        logits[i, label] = 5.0
    return GridOutputs(jnp.asarray(logits, jnp.float32), jnp.asarray(distances, jnp.float32))


def test_places_are_the_centres_of_the_cells():
    places = head().places((32, 24), [(4, 3), (2, 2)])
    assert [len(x) for x in places] == [12, 4]
    np.testing.assert_array_equal(places[0][:4], [[4, 4], [12, 4], [20, 4], [4, 12]])
    np.testing.assert_array_equal(places[1], [[8, 8], [24, 8], [8, 24], [24, 24]])
    for maps in ([(4, 3)], [(4, 4), (2, 2)]):
        with pytest.raises(ValueError, match=r"32x24 pixels have maps of 4x.* not fit the strides \(8, 16\)"):
            head().places((32, 24), maps)


@pytest.mark.parametrize("assignment", ["task_aligned", "sim_ota"])
def test_targets_and_losses_of_sure_and_right_outputs(assignment):
    """The points that predict the objects are given them; the loss is that of the formula, and small."""
    grid = head(assignment=assignment, points=1)
    places = grid.places((32, 32), [(4, 4), (2, 2)])
    boxes, labels = [[1.0, 1, 14, 14], [17, 3, 30, 12]], [2, 0]
    outputs = certain(places, boxes, labels, 8)
    instances = Instances(
        jnp.asarray([*boxes, [0.0] * 4]), jnp.asarray([*labels, 0], jnp.int32), jnp.array([True, True, False])
    )
    targets = jax.jit(grid.targets)(outputs, places, instances, SIZE)
    on = np.flatnonzero(np.asarray(targets.positive))
    assert len(on) == 2 and set(np.asarray(outputs.logits)[on].argmax(-1)) == {0, 2}
    np.testing.assert_allclose(np.asarray(targets.quality)[on], 1, atol=1e-5)
    np.testing.assert_array_equal(targets.labels[on], np.asarray(outputs.logits)[on].argmax(-1))
    np.testing.assert_allclose(np.sort(targets.boxes[on], 0), np.sort(boxes, 0))
    batch = jax.tree.map(lambda x: x[None], (outputs, targets))
    losses = jax.jit(grid.losses)(*batch, places)
    p = 1 / (1 + np.exp(-np.asarray(outputs.logits, np.float64)))
    yes = p > 0.5
    assert float(losses["class"]) == pytest.approx(-(np.log(p[yes]).sum() + np.log(1 - p[~yes]).sum()) / 2, rel=1e-4)
    assert float(losses["box"]) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("loss", ["giou", "diou"])
def test_boxes_count_by_quality(loss):
    """Two points of one object: the loss of boxes is the mean by quality, times its weight."""
    grid = head(box_loss=loss, points=2, box_weight=3.0)
    places = grid.places((32, 32), [(4, 4), (2, 2)])
    outputs = certain(places, [[2.0, 2, 10, 12]], [1], 8)
    outputs = outputs._replace(logits=outputs.logits.at[:, 1].add(4.0))
    object_ = [0.0, 0, 12, 12]
    instances = Instances(jnp.asarray([object_]), jnp.array([1], jnp.int32), jnp.array([True]))
    targets = jax.jit(grid.targets)(outputs, places, instances, SIZE)
    on = np.flatnonzero(np.asarray(targets.positive))
    assert len(on) == 2
    points, strides = np.concatenate(places)[on], np.repeat([8.0, 16.0], [16, 4])[on, None]
    d = np.asarray(outputs.distances)[on] * strides
    boxes = np.concatenate([points - d[:, :2], points + d[:, 2:]], 1)
    quality = np.asarray(targets.quality)[on]
    values = np.array([1 - getattr(oracles, loss)(box, object_) for box in boxes])
    assert quality.max() == pytest.approx(max(oracles.iou(box, object_) for box in boxes), rel=1e-5)
    losses = jax.jit(grid.losses)(*jax.tree.map(lambda x: x[None], (outputs, targets)), places)
    expected = 3 * (values * quality).sum() / max(quality.sum(), 1)
    assert float(losses["box"]) == pytest.approx(expected, rel=1e-4)


def test_decoding_finds_them_again_best_first_and_inside_the_image():
    grid = head(detections=4, score_threshold=0.1)
    places = grid.places((32, 32), [(4, 4), (2, 2)])
    boxes, labels = [[1.0, 1, 14, 14], [17, 3, 40, 12], [2, 17, 30, 31]], [2, 0, 0]
    outputs = certain(places, boxes, labels, 8)
    outputs = outputs._replace(logits=outputs.logits + jnp.linspace(0, 1, 20)[:, None])  # later ones are surer
    found = jax.jit(grid.decode)(outputs, places, SIZE)
    assert found.valid.tolist() == [True] * 3 + [False] and found.labels.tolist()[:3] == [0, 0, 2]
    np.testing.assert_allclose(found.boxes[:3], [boxes[2], [17, 3, 32, 12], boxes[0]], atol=1e-4)
    unsure = outputs._replace(objectness=jnp.full(20, -9.0))
    assert not jax.jit(grid.decode)(unsure, places, SIZE).valid.any()


@pytest.mark.parametrize("form", ["exp", "softplus", "distribution"])
def test_the_network_starts_with_small_sure_boxes_and_rare_classes(form, key):
    made = network(form=form, objectness=True)
    maps = [jnp.ones((2, 5, 3, 8)), jnp.ones((2, 3, 2, 8))]
    outputs, _ = jax.jit(made.init_with_output)(key, maps)
    chex.assert_shape((outputs.logits, outputs.distances, outputs.objectness), [(2, 21, 3), (2, 21, 4), (2, 21)])
    assert (outputs.bins is not None) == (form == "distribution")
    np.testing.assert_allclose(outputs.distances, START, rtol=0.1)
    # Logits of about unit size around that of one in a hundred: classes differ from the start, and all are rare.
    assert 0.003 < float(jnp.exp(jax.nn.log_sigmoid(outputs.logits).mean())) < 0.03
    assert float(jnp.abs(outputs.logits - outputs.logits.mean()).max()) < 4
    assert float(outputs.scores.max()) < 0.01


def test_levels_share_the_towers_or_not(key):
    maps = [jnp.ones((1, 4, 4, 8)), jnp.ones((1, 2, 2, 8))]
    shared, own = (jax.eval_shape(network(shared=s).init, key, maps)["params"] for s in (True, False))
    assert "class_tower0" in shared and {"class_tower0_level0", "class_tower0_level1"} <= set(own)
    assert {"class_tower0_norm0", "class_tower0_norm1", "scale0", "scale1"} <= set(shared) and "scale0" not in own


@pytest.mark.parametrize("size", [(64, 96), (50, 70), (33, 47)])
def test_maps_of_odd_sizes(size, key):
    """The backbone's maps are the image over the stride, rounded up, and the neck keeps their sizes."""
    backbone, neck = CSPNet((8,) * 5, (1,) * 4, stages=(1, 2, 3, 4)), PAN(8)
    maps = jax.eval_shape(lambda x: backbone.init_with_output(key, x)[0], jnp.zeros((1, *size, 3)))
    assert [x.shape[1:3] for x in maps] == [(-(-size[0] // s), -(-size[1] // s)) for s in backbone.strides]
    given = [jnp.zeros(x.shape) for x in maps]
    assert [x.shape for x in jax.eval_shape(lambda x: neck.init_with_output(key, x)[0], given)] == [
        (*x.shape[:3], 8) for x in maps
    ]


@pytest.mark.parametrize("assignment", ["task_aligned", "sim_ota"])
def test_it_overfits_a_batch(assignment):
    """As many detections as there are objects come first, one at each, of its class."""
    model = TINY.build(3) if assignment == "task_aligned" else one_map()
    batch = jax.tree.map(jnp.asarray, tiny.batch_of(tiny.TWO))
    variables, first, last = tiny.overfit(model, batch, steps=150)
    assert last["box"] < 0.15 * first["box"] and last["class"] < first["class"]
    found = jax.device_get(jax.jit(model.predict)(variables, batch.images, batch.sizes))
    for i, (boxes, labels) in enumerate(tiny.TWO):
        assert found.valid[i, : len(boxes)].all()
        for box, label in zip(boxes, labels):
            ious = [oracles.iou(box, found.boxes[i, k]) * (found.labels[i, k] == label) for k in range(len(boxes))]
            assert max(ious) > 0.8


@pytest.mark.parametrize("assignment", ["task_aligned", "sim_ota"])
@pytest.mark.parametrize("capacity", [0, 3])
def test_images_without_objects(assignment, capacity, key):
    """All is background; boxes have no loss, and no gradient that is not finite."""
    grid = head(assignment=assignment, class_loss="varifocal")
    places = grid.places((32, 32), [(4, 4), (2, 2)])
    logits, distances, objectness, bins = (
        jax.random.normal(k, shape) for k, shape in zip(jax.random.split(key, 4), [(20, 3), (20, 4), (20,), (20, 4, 5)])
    )
    outputs = GridOutputs(logits, jnp.exp(distances), objectness, bins)
    none = Instances(jnp.zeros((capacity, 4)), jnp.zeros(capacity, jnp.int32), jnp.zeros(capacity, bool))

    def total(outputs):
        targets = grid.targets(outputs, places, none, SIZE)
        terms = grid.losses(*jax.tree.map(lambda x: x[None], (outputs, targets)), places)
        return sum(terms.values()), terms

    (_, terms), slopes = jax.jit(jax.value_and_grad(total, has_aux=True))(outputs)
    chex.assert_tree_all_finite((terms, slopes))
    assert terms["box"] == terms["distribution"] == terms["class"] == 0 and terms["objectness"] > 1
    assert (slopes.objectness > 0).all() and not slopes.distances.any()


def test_the_whole_network_by_its_shapes(key):
    """The defaults, and a ResNet-50 with a feature pyramid, at 640x640."""
    batch = tiny.batch_of([([[5, 5, 90, 90]], [2])], side=640)
    for model, parts in (
        (gridnet(80), {"class", "box"}),
        (GridNet(backbone="resnet", neck="fpn", distances="distribution", objectness=True).build(80), None),
    ):
        variables = jax.eval_shape(model.init, key, batch)
        losses, after = jax.eval_shape(model.losses, variables, batch, key)
        assert set(losses) == (parts or {"class", "box", "distribution", "objectness"})
        assert jax.tree.structure(after) == jax.tree.structure(variables)
        images, sizes = jnp.asarray(batch.images), jnp.asarray(batch.sizes)
        boxes = jax.eval_shape(lambda *given: model.predict(*given).boxes, variables, images, sizes)  # noqa: B023
        assert boxes.shape == (1, 100, 4)


def test_bad_settings_are_one_sentence():
    with pytest.raises(ValueError, match="classes is 0; a detector needs at least one class"):
        gridnet(0)
    for field in ("assignment", "class_loss", "box_loss"):
        with pytest.raises(ValueError, match=f"{field} is 'l7'; choose"):
            settings = GridSettings()
            object.__setattr__(settings, field, "l7")  # as where annotations are not checked
            GridHead(network(), settings=settings)
    with pytest.raises(ValueError, match="form is 'distribution' and count 1; choose exp"):
        jax.eval_shape(network(form="distribution", count=1).init, jax.random.key(0), [jnp.ones((1, 2, 2, 8))])
    with pytest.raises(ValueError, match="give 5 and 4"):
        jax.eval_shape(CSPNet((8, 8), (1,)).init, jax.random.key(0), jnp.ones((1, 32, 32, 3)))
    with pytest.raises(ValueError, match=r"stages are \(5,\); choose some of 1, 2, 3, 4"):
        jax.eval_shape(CSPNet(stages=(5,)).init, jax.random.key(0), jnp.ones((1, 32, 32, 3)))
