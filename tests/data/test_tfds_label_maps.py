"""Label maps out of a small data set that tensorflow-datasets itself prepares here, without TensorFlow."""

import concurrent.futures
import io
import pickle

import numpy as np
import pytest
from PIL import Image

from segjax.data.mask_codes import IdCode
from segjax.data.source import DataError, LabelMapSource
from segjax.data.tfds_label_maps import TfdsLabelMaps
from segjax.types import IGNORE


def png(pixels, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, options.pop("format", "PNG"), **options)
    file.seek(0)
    return file


def pixels(i):
    """Image i and its mask, of a size of its own; tensorflow-datasets shuffles, so the level tells which it is."""
    rows, columns = np.mgrid[: 20 + i, :30]
    return np.full((20 + i, 30, 3), 10 * i, np.uint8), ((rows + columns + i) % 2).astype(np.uint8)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    tfds = pytest.importorskip("tensorflow_datasets")

    class SegjaxStreets(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = code_path = None  # no package that could hold checksums of downloads

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "segmentation_mask": tfds.features.LabeledImage(labels=["sky", "road"], shape=(None, None, 1)),
                "numbers": tfds.features.Tensor(shape=(None, None), dtype=np.uint8, encoding="zlib"),
                "label": tfds.features.ClassLabel(names=["day", "night"]),
                "wide": tfds.features.Image(shape=(None, None, 1)),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, manager):
            del manager
            return {"train": self._generate_examples(range(6)), "test": self._generate_examples(range(2))}

        def _generate_examples(self, which):
            for i in which:
                image, mask = pixels(i)
                wide = mask if i else mask[:, :-1]
                yield (
                    i,
                    {
                        "image": png(image),
                        "segmentation_mask": png(mask),
                        "numbers": mask + 7,
                        "label": 0,
                        "wide": png(wide),
                    },
                )

    root = tmp_path_factory.mktemp("tfds")
    SegjaxStreets(data_dir=root, file_format="array_record").download_and_prepare()
    return root


@pytest.fixture(scope="module")
def source(prepared):
    return TfdsLabelMaps("segjax_streets", split="train", data_dir=prepared)


def check(source, index):
    image, info = source.image(index), source.info(index)
    i = int(image[0, 0, 0]) // 10
    expected, mask = pixels(i)
    assert (info.height, info.width) == mask.shape
    np.testing.assert_array_equal(image, expected)
    np.testing.assert_array_equal(source.label_map(index), mask)
    return i


def test_images_and_maps_are_those_that_were_written(source):
    assert isinstance(source, LabelMapSource) and source.classes == ("sky", "road") and len(source) == 6
    assert sorted(check(source, i) for i in range(6)) == list(range(6)) and not len(source.problems)
    assert not len(source.annotations(3).labels) and source.info(3).image_id == 3


def test_a_part_of_a_split(prepared):
    assert len(TfdsLabelMaps("segjax_streets", split="train[:50%]", data_dir=prepared)) == 3


def test_threads_read_at_the_same_time(source):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: (i % 6, check(source, i % 6)), range(240)))
    assert len(set(found)) == 6


def test_it_travels_to_other_processes(source):
    other = pickle.loads(pickle.dumps(source))
    assert [check(other, i) for i in range(6)] == [check(source, i) for i in range(6)]


def test_masks_may_be_arrays_of_numbers_of_any_meaning(prepared, source):
    code = IdCode(ids=(8,), ignore=(7,))
    options = {"label_key": "numbers", "classes": ("road",), "code": code}
    other = TfdsLabelMaps("segjax_streets", split="train", data_dir=prepared, **options)
    for i in range(6):
        np.testing.assert_array_equal(other.label_map(i), np.where(source.label_map(i) == 1, 0, IGNORE))
    wrong = TfdsLabelMaps("segjax_streets", split="train", data_dir=prepared, **options | {"code": IdCode((8,))})
    with pytest.raises(DataError, match=r"'numbers' of example 0 of segjax_streets\[train\] has ids of no class: 7"):
        wrong.label_map(0)


def test_an_array_without_channels_is_a_grey_image(prepared, source):
    options = {"image_key": "numbers", "classes": ("sky", "road")}
    other = TfdsLabelMaps("segjax_streets", split="train", data_dir=prepared, **options)
    np.testing.assert_array_equal(other.image(0), np.repeat(source.label_map(0)[..., None] + 7, 3, axis=2))


def test_a_mask_of_another_size_is_left_out(prepared):
    found = TfdsLabelMaps("segjax_streets", split="train", data_dir=prepared, label_key="wide", classes=("a", "b"))
    (problem,) = found.problems
    assert (
        len(found) == 5
        and problem.kind == "label map of another size"
        and "29x20 pixels, its image 30x20" in str(problem)
    )
    np.testing.assert_array_equal(
        [found.info(i).height for i in range(5)], [found.label_map(i).shape[0] for i in range(5)]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "segjax_street"}, "tensorflow-datasets has no 'segjax_street' in '.*': .*not found"),
        ({"split": "val"}, "segjax_streets has no split 'val'; there are: train, test"),
        ({"label_key": "mask"}, "no feature 'mask'; there are: image, label, numbers"),
        ({"label_key": "numbers"}, "does not name the classes of 'numbers'; name them"),
        ({"label_key": "label"}, "'label' of example 0 .* is no image"),
        ({"name": "oxford_iiit_pet"}, r'is not prepared in .*file_format="array_record"\)\.download_and_prepare\(\)'),
    ],
)
def test_what_is_not_there_is_said(prepared, changes, message):
    options = {"name": "segjax_streets", "split": "train", "data_dir": prepared} | changes
    with pytest.raises(DataError, match=message):
        TfdsLabelMaps(options.pop("name"), **options)


def test_files_that_only_tensorflow_reads(prepared, tmp_path):
    folder = tmp_path / "segjax_streets" / "1.0.0"
    folder.mkdir(parents=True)
    for file in (prepared / "segjax_streets" / "1.0.0").iterdir():
        content = file.read_bytes().replace(b"array_record", b"tfrecord") if file.suffix == ".json" else b""
        (folder / file.name.replace("array_record", "tfrecord")).write_bytes(content or file.read_bytes())
    with pytest.raises(DataError, match="is prepared as tfrecord, which only TensorFlow reads. Prepare it once more"):
        TfdsLabelMaps("segjax_streets", split="train", data_dir=tmp_path)
