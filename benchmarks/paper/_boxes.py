"""Distorted boxes: too large or too small, and beside the tumor."""

import zlib

import numpy as np

from benchmarks.label_free._scans import copied
from benchmarks.shapes import rounded_box
from tumorsim.records import Cohort

__all__ = ["box_iou", "distort_boxes"]


def distort_boxes(cohort, scale, shift, *, random_state=0):
    """Return the same tumors in boxes whose sides are `scale` times as long, moved by `shift` of a side.

    Each is moved forward or back at random along each axis, the same way at every strength, so that strengths
    can be compared. Boxes are whole voxels, of at least one a side, inside the image.
    """
    made = []
    for tumor in cohort:
        rng = np.random.default_rng([random_state, zlib.crc32(tumor.tumor_id.encode())])
        side = (tumor.bbox[1] - tumor.bbox[0]).astype(float)
        center = tumor.bbox.mean(axis=0) + shift * side * rng.choice((-1.0, 1.0), 3)
        edges = np.stack([center - scale * side / 2, center + scale * side / 2])
        made.append(copied(tumor, tumor.case, rounded_box(edges, tumor.case.shape)))
    return Cohort(made)


def box_iou(boxes, others):
    """Return the overlap of pairs of boxes (n, 2, 3), intersection over union of their voxels; (n,)."""
    boxes, others = np.asarray(boxes, dtype=float), np.asarray(others, dtype=float)
    shared = np.minimum(boxes[:, 1], others[:, 1]) - np.maximum(boxes[:, 0], others[:, 0])
    shared = np.maximum(shared, 0).prod(axis=1)
    return shared / (
        (boxes[:, 1] - boxes[:, 0]).prod(axis=1) + (others[:, 1] - others[:, 0]).prod(axis=1) - shared
    )
