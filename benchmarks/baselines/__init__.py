"""What an embedder must beat: chance, plain measurements, forests, simpler networks, frozen ones."""

from importlib import import_module

_HOMES = {
    "BASELINES": "_registry",
    "Baseline": "_features",
    "ForestCodes": "_forest",
    "FrozenEmbedder": "_crops",
    "RandomVectors": "_features",
    "TumorFeatures": "_features",
    "UntrainedEmbedder": "_networks",
    "crop_features": "_crops",
    "intensity_features": "_measures",
    "morphometry_features": "_morphometry",
    "radiomics_features": "_radiomics",
    "siamese": "_networks",
    "single_task": "_networks",
    "tumor_crops": "_crops",
    "volume_place_features": "_measures",
}

__all__ = sorted(_HOMES)


def __getattr__(name):
    """Import a name on first use, as `tumorsim.evaluation` does."""
    if name not in _HOMES:
        raise AttributeError(f"module 'benchmarks.baselines' has no attribute {name!r}")
    value = getattr(import_module(f"benchmarks.baselines.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return __all__
