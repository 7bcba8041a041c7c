"""What is drawn lies where it should, in the colour it should have, on a copy of the image."""

import base64
import io
import pathlib

import cv2
import numpy as np
import pytest
from PIL import Image

from segjax import visualize
from segjax.colours import class_colours

GREY = np.full((60, 80, 3), 100, np.uint8)
NO_BOXES = np.zeros((0, 4), np.float32)


def changed(image: np.ndarray, reference: np.ndarray = GREY) -> np.ndarray:
    return (image != reference).any(-1)


# Colours


def test_a_class_keeps_its_colour_however_many_follow() -> None:
    np.testing.assert_array_equal(class_colours(5), class_colours(91)[:5])
    assert class_colours(0).shape == (0, 3)
    assert class_colours(500).shape == (500, 3)


def as_deuteranope(rgb: np.ndarray) -> np.ndarray:
    """Red-green blindness by the cone responses of Viénot, Brettel and Mollon (1999), not the model that chose them."""
    to_cones = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
    long, _, short = to_cones @ (rgb**2.2).T
    seen = np.linalg.inv(to_cones) @ np.stack([long, 0.494207 * long + 1.24827 * short, short])
    return np.clip(seen.T, 0, 1) ** (1 / 2.2)


@pytest.mark.parametrize(("count", "least"), [(8, 15.0), (40, 10.0), (80, 6.0)])
def test_colours_differ_to_all_eyes(count: int, least: float) -> None:
    """In CIELAB, where 2.3 is about the least difference that is seen."""
    rgb = class_colours(count) / 255
    for seen in (rgb, as_deuteranope(rgb)):
        lab = cv2.cvtColor(seen[None].astype(np.float32), cv2.COLOR_RGB2LAB)[0]
        distance = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + 1e3 * np.eye(count)
        assert distance.min() > least


# Boxes


def test_box_edges_have_the_colour_of_the_class() -> None:
    drawn = visualize.draw_boxes(GREY, np.array([[10.0, 20, 50, 45]]), np.array([3]), classes=["a", "b", "c", ""])
    expected = np.zeros((60, 80), bool)
    expected[20:45, 10:50] = True
    expected[21:44, 11:49] = False
    np.testing.assert_array_equal(changed(drawn), expected)
    assert (drawn[expected] == class_colours(4)[3]).all()
    assert (GREY == 100).all()


def test_scale_enlarges_the_image_and_what_is_drawn() -> None:
    drawn = visualize.draw_boxes(GREY, np.array([[10.0, 20, 50, 45]]), scale=2.5)
    assert drawn.shape == (150, 200, 3)
    rows, columns = np.nonzero(changed(drawn, np.full_like(drawn, 100)))
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (25, 50, 125, 112)


@pytest.mark.parametrize(
    ("box", "extent"),
    [
        ((-20.0, -20.0, 30.0, 30.0), (0, 0, 30, 30)),
        ((70.0, 50.0, 1e9, 1e9), (70, 50, 80, 60)),
        ((100.0, 100.0, 120.0, 120.0), None),
        ((-9.0, -9.0, -1.0, -1.0), None),
        ((30.0, 30.0, 10.0, 10.0), None),
        ((5.0, 5.0, 5.0, 20.0), None),
        ((np.nan, 0.0, 10.0, 10.0), None),
        ((0.0, 0.0, np.inf, 10.0), None),
    ],
)
def test_boxes_outside_the_image_are_cut_or_left_out(box: tuple, extent: tuple | None) -> None:
    different = changed(visualize.draw_boxes(GREY, np.array([box])))
    rows, columns = np.nonzero(different)
    found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if len(rows) else None
    assert found == extent


@pytest.mark.parametrize("corner", [(0, 0), (70, 50), (0, 50), (70, 0), (40, 30)])
def test_names_and_scores_are_written_wherever_the_box_is(corner: tuple[int, int]) -> None:
    box = np.array([[*corner, corner[0] + 10, corner[1] + 10]], np.float32)
    plain = visualize.draw_boxes(GREY, box, np.array([4]), classes=[""] * 5)
    named = visualize.draw_boxes(GREY, box, np.array([4]), np.array([0.5]), classes=["a", "b", "c", "d", "cat"])
    plate = changed(named, plain)
    colour = (named == class_colours(5)[4]).all(-1)
    light = (named > 200).all(-1)  # the fifth colour is dark: white letters
    assert plate.sum() > 200 and (plate & colour).sum() > 100 and light.sum() > 10


def test_numbers_stand_in_for_missing_names() -> None:
    box = np.array([[30.0, 30, 60, 50]])
    one, two = (visualize.draw_boxes(GREY, box, np.array([i])) for i in (101, 102))
    assert changed(one, two).any()


def test_notes_follow_the_score() -> None:
    box, score = np.array([[10.0, 30, 60, 50]]), np.array([0.5])
    plain, noted = (visualize.draw_objects(GREY, box, scores=score, notes=n) for n in (None, ["angle=31"]))
    wider = np.flatnonzero(changed(plain, noted).any(0))
    assert len(wider) > 30 and (visualize.draw_objects(GREY, box, scores=score, notes=[""]) == plain).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": np.array([0])}, "got 1 for 2"),
        ({"labels": np.array([0, -1])}, "got -1"),
        ({"labels": np.array([0, 2]), "classes": ["a", "b"]}, r"0\.\.1 \(2 classes\), got 2"),
        ({"scores": np.array([0.5])}, "got 1 for 2"),
        ({"notes": ["one"]}, "notes must have one entry for each box: got 1 for 2"),
    ],
)
def test_labels_and_scores_that_do_not_match_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        visualize.draw_boxes(GREY, np.array([[0.0, 0, 9, 9], [5, 5, 20, 20]]), **arguments)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_scale_must_be_positive(scale: float) -> None:
    with pytest.raises(ValueError, match="scale"):
        visualize.enlarge(GREY, scale)


@pytest.mark.parametrize(
    ("size", "scale"), [((128, 160), 4.0), ((448, 448), 1.0), ((2000, 1000), 1.0), ((1, 1), 448.0)]
)
def test_readable_scale(size: tuple[int, int], scale: float) -> None:
    assert visualize.readable_scale(*size) == scale


# Masks, joints, label maps


def test_masks_are_tinted_inside_and_outlined() -> None:
    mask = np.zeros((1, 60, 80), bool)
    mask[0, 10:40, 20:60] = True
    drawn = visualize.draw_masks(GREY, mask, np.array([2]), opacity=0.5)
    colour = class_colours(3)[2]
    np.testing.assert_array_equal(changed(drawn), mask[0])
    np.testing.assert_array_equal(drawn[10, 20:60], np.broadcast_to(colour, (40, 3)))
    np.testing.assert_allclose(drawn[25, 40], (colour + 100.0) / 2, atol=0.5)
    assert visualize.draw_masks(GREY, mask, scale=2.0).shape == (120, 160, 3)


def test_masks_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="size"):
        visualize.draw_masks(GREY, np.zeros((1, 80, 60), bool))


def test_joints_and_bones_follow_visibility() -> None:
    points = np.array([[[20.0, 20, 2], [60, 20, 2], [20, 50, 1], [60, 50, 0]]])
    drawn = visualize.draw_keypoints(GREY, points, [(0, 1), (2, 3)])
    assert (drawn[20, 20] == class_colours(4)[0]).all()
    assert (drawn[50, 20] == 255).all()
    different = changed(drawn)
    assert different[20, 25:55].all(), "the bone between two joints"
    assert not different[40:, 30:].any(), "neither an unlabelled joint nor its bone"


def test_joints_far_outside_do_no_harm() -> None:
    points = np.array([[[-1e30, 5, 2], [np.nan, 5, 2], [1e4, 5, 2], [500, -300, 2]]])
    np.testing.assert_array_equal(visualize.draw_keypoints(GREY, points, [(0, 1), (0, 2)]), GREY)


def test_a_skeleton_with_a_joint_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got \(0, 4\)"):
        visualize.draw_keypoints(GREY, np.zeros((0, 4, 3)), [(0, 4)])


def test_label_map_on_black_and_over_an_image() -> None:
    labels = np.zeros((60, 80), np.uint8)
    labels[:20], labels[40:] = 2, 255
    colours = class_colours(3)
    alone = visualize.draw_segmentation(None, labels, ["background", "a", "b"], legend=False)
    assert (alone[:20] == colours[1]).all() and (alone[20:40] == 0).all() and (alone[40:] == 128).all()
    over = visualize.draw_segmentation(GREY, labels, ["background", "a", "b"], legend=False, opacity=0.5)
    np.testing.assert_allclose(over[:20], np.broadcast_to((colours[1] + 100.0) / 2, (20, 80, 3)), atol=0.5)
    assert (over[20:] == 100).all()
    every = visualize.draw_segmentation(None, labels, ["a", "b", "c"], background=False, legend=False)
    assert (every[:20] == colours[2]).all() and (every[20:40] == colours[0]).all()


def test_legend_names_the_classes_that_occur() -> None:
    labels = np.zeros((60, 80), np.int64)
    empty = visualize.draw_segmentation(GREY, labels, ["background", "a", "b"])
    assert empty.shape == GREY.shape
    labels[0, 0] = 2
    strip = visualize.draw_segmentation(GREY, labels, ["background", "a", "b"])[60:]
    assert strip.shape[0] > 10
    assert (strip == class_colours(2)[1]).all(-1).sum() > 50 and not (strip == class_colours(1)[0]).all(-1).any()
    labels[0, 1] = 1
    both = visualize.draw_segmentation(GREY, labels, ["background", "a long name", "b"])[60:]
    assert len(both) > len(strip), "a second row where one is too narrow"


def test_a_label_map_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="size"):
        visualize.draw_segmentation(GREY, np.zeros((6, 8), np.uint8), ["background"])


# All together


@pytest.mark.parametrize("with_parts", [False, True])
def test_an_image_without_objects_is_only_enlarged(with_parts: bool) -> None:
    nothing = {"masks": np.zeros((0, 60, 80), bool), "keypoints": np.zeros((0, 5, 3)), "skeleton": [(0, 1)]}
    labels, scores = np.zeros(0, np.int64), np.zeros(0, np.float32)
    drawn = visualize.draw_objects(GREY, NO_BOXES, labels, scores, **(nothing if with_parts else {}))
    assert drawn.shape == (60 * 7, 80 * 7, 3) and (drawn == 100).all()


def test_objects_are_drawn_in_one_frame() -> None:
    mask = np.zeros((1, 60, 80), bool)
    mask[0, 20:40, 20:60] = True
    drawn = visualize.draw_objects(
        GREY,
        np.array([[20, 20, 60, 40]]),
        masks=mask,
        keypoints=np.array([[[30, 30, 2]]]),
        scale=3.0,
    )
    different = changed(drawn, np.full_like(drawn, 100))
    rows, columns = np.nonzero(different)
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (60, 60, 180, 120)
    assert (drawn[90, 90] == class_colours(1)[0]).all()


def test_contact_sheet_places_images_in_rows() -> None:
    images = [np.full((10 + i, 20, 3), 40 * i, np.uint8) for i in range(5)]
    sheet = visualize.contact_sheet(images, columns=2, gap=4)
    assert sheet.shape == (3 * (14 + 4) + 4, 2 * (20 + 4) + 4, 3)
    for i, image in enumerate(images):
        y, x = 4 + i // 2 * 18, 4 + i % 2 * 24
        np.testing.assert_array_equal(sheet[y : y + len(image), x : x + 20], image)
    assert (sheet[-4:] == 255).all()


def test_captions_take_room_of_their_own_and_are_cut_to_fit() -> None:
    black = np.zeros((40, 60, 3), np.uint8)
    sheet = visualize.contact_sheet([black, black], captions=["a caption much too long to fit", ""])
    strip = sheet[8 + 40 :]
    assert (strip[:, 8:68] < 128).any() and (strip[:, 68:] == 255).all()
    assert visualize.side_by_side(black, black).shape == sheet.shape


def test_contact_sheet_of_nothing_and_of_bad_arguments() -> None:
    assert (visualize.contact_sheet([]) == 255).all()
    with pytest.raises(ValueError, match="columns"):
        visualize.contact_sheet([GREY], columns=0)
    with pytest.raises(ValueError, match="captions"):
        visualize.contact_sheet([GREY], captions=[])


def test_files_and_addresses_hold_the_image(tmp_path: pathlib.Path, rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (9, 11, 3), dtype=np.uint8)
    path = visualize.save_png(tmp_path / "new" / "picture.png", image)
    np.testing.assert_array_equal(np.array(Image.open(path)), image)
    head, data = visualize.data_uri(image).split(",")
    assert head == "data:image/png;base64" and base64.b64decode(data) == path.read_bytes()
    head, data = visualize.data_uri(GREY, quality=90).split(",")
    decoded = np.array(Image.open(io.BytesIO(base64.b64decode(data))))
    assert head == "data:image/jpeg;base64" and np.abs(decoded.astype(int) - GREY).max() < 3
