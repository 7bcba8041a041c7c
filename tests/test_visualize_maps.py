"""Error maps, sheets and palette files: the colours are where they should be."""

import numpy as np
import pytest
from PIL import Image

from segjax import visualize_maps
from segjax.colours import class_colours
from segjax.types import IGNORE
from segjax.visualize import draw_segmentation, with_legend
from segjax.visualize_maps import IGNORED, VOID, WRONG, draw_errors, error_sheet, map_colours, save_palette

NAMES = ("background", "disc", "square")


def maps():
    truth = np.zeros((40, 60), np.uint8)
    truth[:, 20:40], truth[:10] = 1, IGNORE
    predicted = np.zeros((40, 60), np.uint8)
    predicted[:, 30:50] = 1
    return truth, predicted


def test_colours_are_the_data_sets_or_ours_with_a_black_background():
    np.testing.assert_array_equal(map_colours(NAMES), [[0, 0, 0], *class_colours(2)])
    np.testing.assert_array_equal(map_colours(("sky", "road")), class_colours(2))
    np.testing.assert_array_equal(map_colours(("sky", "road"), ((1, 2, 3), (4, 5, 6))), [[1, 2, 3], [4, 5, 6]])
    with pytest.raises(ValueError, match="there are 1 colours for 2 classes"):
        map_colours(("sky", "road"), ((1, 2, 3),))
    drawn = draw_segmentation(None, maps()[1], NAMES[:2], background=False, colours=np.uint8([[9, 8, 7], [3, 2, 1]]))
    assert (drawn[0, 0] == (9, 8, 7)).all() and (drawn[0, 35] == (3, 2, 1)).all()


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_errors_are_where_labelled_pixels_differ(scale):
    truth, predicted = maps()
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    drawn = draw_errors(image, truth, predicted, scale=scale)
    step = int(scale)
    wrong, ignored = ((drawn == colour).all(-1)[::step, ::step] for colour in (WRONG, IGNORED))
    np.testing.assert_array_equal(ignored, truth == IGNORE)
    np.testing.assert_array_equal(wrong, (truth != IGNORE) & (truth != predicted))
    right = drawn[::step, ::step][~wrong & ~ignored].astype(int)
    assert right.min() >= 160 and (right == right[:, :1]).all(), "pale and grey"
    assert right.std() > 5, "the image can still be seen"


def test_maps_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"must have one size, got \[\(2, 2\), \(40, 60\), \(40, 60\)\]"):
        draw_errors(np.zeros((2, 2, 3), np.uint8), *maps())


@pytest.mark.parametrize("shape", [(40, 60), (900, 300), (1200, 1600)])
def test_sheet_fits_a_report_and_names_what_occurs(shape, monkeypatch):
    named = []
    monkeypatch.setattr(
        visualize_maps, "with_legend", lambda sheet, rows: named.append(rows) or with_legend(sheet, rows)
    )
    truth, predicted = np.zeros((2, *shape), np.uint8)
    truth[:10], predicted[:, :20] = IGNORE, 1
    sheet = error_sheet(np.full((*shape, 3), 90, np.uint8), truth, predicted, NAMES)
    assert sheet.shape[1] <= 1200 and 150 < sheet.shape[0] <= 480
    assert [name for name, _ in named[0]] == ["disc", "wrong", "ignored"]
    np.testing.assert_array_equal(named[0][0][1], class_colours(1)[0])


def test_palette_file_holds_class_ids(tmp_path):
    truth, _ = maps()
    path = save_palette(tmp_path / "a" / "map.png", truth, map_colours(NAMES))
    back = Image.open(path)
    assert back.mode == "P"
    np.testing.assert_array_equal(np.asarray(back), truth)
    seen = np.asarray(back.convert("RGB"))
    assert (seen[0, 0] == VOID).all() and (seen[20, 30] == class_colours(1)[0]).all() and not seen[20, 0].any()
