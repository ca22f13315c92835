"""Where in the brain a lesion lies: registration to MNI152, side, front or rear, upper or lower, area."""

from tumorsim.anatomy._areas import AreaMap, place_labels, region_at
from tumorsim.anatomy._fit import load_template
from tumorsim.anatomy._places import add_places, places_to_file, register_case
from tumorsim.anatomy._register import Registration, register_dates, register_to_mni

__all__ = [
    "AreaMap", "Registration", "add_places", "load_template", "place_labels", "places_to_file", "region_at",
    "register_case", "register_dates", "register_to_mni",
]  # fmt: skip
