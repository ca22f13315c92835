"""Files ↔ arrays with affines; knows no records."""

from tumorsim.io._files import atomic_path, content_key
from tumorsim.io._images import load_image, read_geometry, save_nifti

__all__ = ["atomic_path", "content_key", "load_image", "read_geometry", "save_nifti"]
