"""Errors that a user of tumorsim can act on; all are ``ValueError``."""

__all__ = [
    "BoxError", "CohortError", "DicomError", "GeometryError", "GridMismatchError", "IndexMismatchError",
    "ManifestError", "TrainingError", "WeightsError",
]  # fmt: skip


class GeometryError(ValueError):
    """An image, mask or box has a geometry that cannot be used."""


class BoxError(GeometryError):
    """A tumor's box is malformed, empty, or leaves the image."""


class GridMismatchError(GeometryError):
    """An image and its mask lie on different voxel grids."""


class DicomError(ValueError):
    """A DICOM file or series cannot be used; the message quotes no text of it, which may name a patient.

    Attributes
    ----------
    reason : str
        The message without the file's name.
    file : str or None
        The file at fault, where it is one.
    """

    def __init__(self, reason, file=None):
        super().__init__(reason if file is None else f"'{file}': {reason}")
        self.reason, self.file = reason, file


class ManifestError(ValueError):
    """A manifest or scan table has rows that cannot be used."""


class CohortError(ValueError):
    """Scans of a cohort cannot be used; the message lists all of them with file and reason."""


class WeightsError(ValueError):
    """A model file is missing, damaged, or not what it claims to be."""


class IndexMismatchError(ValueError):
    """Embeddings and index come from different embedders, or an index directory is damaged."""


class TrainingError(ValueError):
    """Training cannot go on, for instance because the loss is not finite."""
