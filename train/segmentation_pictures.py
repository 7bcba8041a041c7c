"""What a segmenter made of images, drawn: the best and the worst ones for a report."""

from collections.abc import Sequence

from segjax.evaluation.segmentation_evaluator import KeptImage, SegmentationEvaluator
from segjax.visualize_maps import error_sheet
from train.report import Picture, Rows, Section, Text

NOTE = (
    "Errors are labelled pixels of which another class was predicted; pixels without a label count nowhere. "
    "The mean IoU is over the classes that the image has in truth or prediction."
)


def picture_sections(evaluator: SegmentationEvaluator) -> list[Section]:
    """The images of lowest and of highest mean IoU: image, ground truth, prediction and errors."""
    best, worst = evaluator.best_and_worst()
    return [
        Section(title, [Text(NOTE), Rows([error_picture(evaluator, image) for image in images])])
        for title, images in (("Worst images", worst), ("Best images", best))
        if images
    ]


def error_picture(evaluator: SegmentationEvaluator, kept: KeptImage) -> Picture:
    """An image with its truth, its prediction and its errors, and its scores in words."""
    source, (sample, miou, wrong) = evaluator.source, kept.score
    names: Sequence[str] = source.classes
    maps = source.label_map(sample), kept.label_map
    sheet = error_sheet(source.image(sample), *maps, names, colours=source.colours)
    return Picture(sheet, f"Image {source.info(sample).image_id}: mean IoU {miou:.3f}, {wrong:.1%} of pixels wrong")
