"""Size, shape, place and enhancement of tumors, measured while their scans are read to be embedded."""

import copy
from collections import Counter

import numpy as np

from tumorsim import geometry
from tumorsim.preprocessing import head_level
from tumorsim.records import Case, Cohort
from tumorsim.records.columns import IN_SCAN, MEASURES, is_blank

NAMES = (*MEASURES, *geometry.ENHANCEMENT)


class _MeasuredCase(Case):
    """A scan with a mask that measures its tumors when its image is read."""

    def __init__(self, case):
        vars(self).update(vars(case))
        self.tumors, self.measured = [], None

    def load_image(self):
        """Return the voxels, as `Case.load_image`."""
        image = super().load_image()
        if self.measured is None:
            self.measured = []  # not None: to read the mask may be to read the image again
            mask, case = self.load_mask(), (self.shape, self.affine)
            voxels, lesions = (geometry.to_ras(array, self.affine) for array in (image, mask))
            spacing = geometry.spacing_from_affine(geometry.ras_affine(*case)[1])
            air, least = head_level(voxels)
            margin = np.ceil(geometry.SURROUNDINGS_MM[1] / spacing).astype(np.int64) + 1
            for tumor in self.tumors:
                start, stop = geometry.ras_box(tumor.bbox, *case)
                box = geometry.crop_slices((np.maximum(start - margin, 0), stop + margin))
                inside = np.zeros(self.shape, dtype=bool)
                inside[geometry.crop_slices(tumor.bbox)] = tumor.select(mask)
                near, inside = voxels[box] - air, geometry.to_ras(inside, self.affine)[box]
                brain = (voxels[box] > least) & (lesions[box] == 0)
                known = tumor.metadata if tumor.metadata.keys() >= set(MEASURES) else tumor.measure(mask)
                found = known | geometry.lesion_enhancement(near, inside, spacing, brain=brain)
                self.measured.append([found[name] for name in NAMES])
        return image


def embed_measured(embedder, tumors):
    """Return embeddings of tumors, `trained_on` of them, and measures; each image and mask is read once.

    Measures are float64 (n_tumors, 10), the columns `NAMES`; NaN of tumors without a mask.
    """
    scans, watched = {}, [copy.copy(tumor) for tumor in tumors]
    for tumor, seen in zip(tumors, watched, strict=True):
        if tumor.case.has_mask:
            seen.case = scans.setdefault(id(tumor.case), _MeasuredCase(tumor.case))
            seen.case.tumors.append(tumor)
    X, trained = np.asarray(embedder.transform(watched)), embedder.trained_on(watched)
    measures = np.full((len(X), len(NAMES)), np.nan)
    for scan in scans.values():
        if scan.measured is None:  # its voxels came from a cache
            scan.load_image()
        measures[[tumor.case is scan for tumor in watched]] = scan.measured
    return X, trained, measures


def with_measures(tumors, measures, *, complete=False):
    """Return a Cohort of tumors whose tables have what was measured and is not in them already.

    Of a `complete` archive that is also the number of the scan's tumors, where nothing tells it.
    """
    found = [copy.copy(tumor) for tumor in tumors]
    in_scan = Counter((tumor.patient_id, tumor.case.case_id) for tumor in found)
    for tumor, row in zip(found, measures.tolist(), strict=True):
        known = {IN_SCAN: in_scan[tumor.patient_id, tumor.case.case_id]} if complete else {}
        known |= {} if np.isnan(row[0]) else dict(zip(NAMES, row, strict=True))
        tumor.metadata = known | {k: v for k, v in tumor.metadata.items() if k != IN_SCAN or not is_blank(v)}
    return Cohort(found)
