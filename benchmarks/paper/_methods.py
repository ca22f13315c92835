"""Baselines that depend on the benchmark's own networks: their architecture, or what they have learned."""

from pathlib import Path

from benchmarks.paper._data import digest

__all__ = ["OF_NETWORK", "known_baselines", "make_baseline"]

SHAPE = ("architecture", "n_channels", "n_blocks", "spacing", "patch_size")


def known_baselines(names=None):
    """Return name → callable(random_state) → estimator, of `baselines.BASELINES` and those of this room.

    Parameters
    ----------
    names : sequence of str, optional
        Default all.
    """
    from benchmarks.baselines import BASELINES

    known = dict(BASELINES) | OF_NETWORK
    return {name: known[name] for name in names or known}


def make_baseline(config, out, baselines):
    """Return the unfitted estimator of a run's config.

    Parameters
    ----------
    config : dict
        ``baseline`` is its name, ``seed`` its seed; those of `OF_NETWORK` hold a network's config, too.
    out : Path
        Of the benchmark.
    baselines : dict of callable
    """
    make = (OF_NETWORK | baselines)[config["baseline"]]
    if make not in OF_NETWORK.values():
        return make(config["seed"])
    network = {name: value for name, value in config.items() if name != "baseline"}
    return make(network, Path(out))


def _untrained(network, out):
    """Return the benchmark's network at random weights."""
    from benchmarks.baselines import UntrainedEmbedder
    from tumorsim.embedder import TumorEmbedder

    make = TumorEmbedder.paper if network.get("paper") else TumorEmbedder
    shape = {name: value for name, value in network["parameters"].items() if name in SHAPE}
    return UntrainedEmbedder(make(**shape, cache_dir=out / "cache"), random_state=network["seed"])


def _forest(network, out):
    """Return forest neighborhoods over the embeddings of the network of all tasks."""
    from sklearn.frozen import FrozenEstimator

    from benchmarks.baselines import ForestCodes
    from tumorsim.embedder import TumorEmbedder

    path = out / "runs" / digest(network) / "model.safetensors"
    if not path.exists():
        raise ValueError("Forests over embeddings need the network of all tasks, which has not finished.")
    embedder = TumorEmbedder.load(path).set_params(cache_dir=out / "cache")
    return ForestCodes(FrozenEstimator(embedder), random_state=network["seed"])


OF_NETWORK = {"untrained": _untrained, "forest_embeddings": _forest}
