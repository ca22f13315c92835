"""All baselines by name, with the settings that tables are made with."""

from benchmarks.baselines._crops import crop_features
from benchmarks.baselines._features import RandomVectors, TumorFeatures
from benchmarks.baselines._forest import ForestCodes
from benchmarks.baselines._measures import intensity_features, volume_place_features
from benchmarks.baselines._morphometry import morphometry_features
from benchmarks.baselines._networks import UntrainedEmbedder
from benchmarks.baselines._radiomics import radiomics_features

__all__ = ["BASELINES"]

N_COMPONENTS = 32  # as many numbers as an embedding has


def _figures(measure, **options):
    """Return a maker of `TumorFeatures`, which draw nothing at random."""
    return lambda random_state=0: TumorFeatures(measure, **options)


def _forest(measures):
    """Return a maker of `ForestCodes` over figures; trees do not need them scaled."""
    return lambda random_state=0: ForestCodes(
        TumorFeatures(measures, standardize=False), random_state=random_state
    )


BASELINES = {
    "random": lambda random_state=0: RandomVectors(random_state=random_state),
    "volume_place": _figures(volume_place_features, standardize=False),
    "intensity": _figures(intensity_features, n_components=N_COMPONENTS),
    "radiomics": _figures(radiomics_features, n_components=N_COMPONENTS),
    "crop_pca": _figures(crop_features, standardize=False, n_components=N_COMPONENTS),
    "morphometry": _figures(morphometry_features, n_components=N_COMPONENTS),
    "forest_codes": _forest((volume_place_features, intensity_features)),
    "forest_radiomics": _forest((volume_place_features, radiomics_features)),
    "untrained": lambda random_state=0: UntrainedEmbedder(random_state=random_state),
}
