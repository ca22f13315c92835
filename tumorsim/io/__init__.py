"""Files ↔ arrays with affines; knows no records."""

from tumorsim.io._embeddings import load_embeddings, save_embeddings
from tumorsim.io._files import (
    atomic_path,
    file_stems,
    locked,
    partial_file,
    remove_leftovers,
    remove_partial,
    save_tensors,
    write_array,
    write_text,
)
from tumorsim.io._images import (
    ORIENTATION_REMEDY,
    ORIENTATION_UNKNOWN,
    arrays_of_nibabel,
    content_key,
    load_image,
    read_geometry,
    save_nifti,
    states_orientation,
    voxel_key,
)

__all__ = [
    "ORIENTATION_REMEDY", "ORIENTATION_UNKNOWN", "arrays_of_nibabel", "atomic_path", "content_key",
    "file_stems", "load_embeddings", "load_image", "locked", "partial_file", "read_geometry",
    "remove_leftovers", "remove_partial", "save_embeddings", "save_nifti", "save_tensors",
    "states_orientation", "voxel_key", "write_array", "write_text",
]  # fmt: skip
