"""COCO records for the tests of what reads them."""

import numpy as np

SQUARE = [[10, 10, 20, 10, 20, 20, 10, 20]]


def run_lengths(mask):
    """Uncompressed COCO run lengths of a mask, column by column, the first of them zeros."""
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [2]])))
    return {"size": list(mask.shape), "counts": np.diff(np.concatenate([[0], edges])).tolist()}


def annotation(annotation_id, image_id=1, category_id=3, bbox=(10, 10, 10, 10), **more):
    return {"id": annotation_id, "image_id": image_id, "category_id": category_id, "bbox": list(bbox), **more}


def only_fault(source, kind, image_id, annotation_id=None):
    """The single fault of a source, checked for naming what it is about."""
    (problem,) = source.problems
    assert (problem.kind, problem.image_id, problem.annotation_id) == (kind, image_id, annotation_id)
    assert f"image {image_id}" in problem.detail and source.problems.summary().startswith(f"1 x {kind}")
    assert annotation_id is None or f"annotation {annotation_id}" in problem.detail
    return problem
