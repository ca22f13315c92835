"""Baselines that depend on the benchmark's own networks: their architecture, or what they have learned."""

from pathlib import Path

from benchmarks.paper._data import digest

__all__ = ["OF_NETWORK", "known_baselines", "make_baseline", "new_embedder", "spelled"]

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


def new_embedder(paper=False):
    """Return an embedder of the paper's recipe or the default one, whose recipe can be changed by name."""
    from tumorsim import TumorEmbedder
    from tumorsim.training import Recipe

    return TumorEmbedder(recipe=Recipe.named("paper" if paper else "default"))


def spelled(parameters):
    """Return flat parameters with the names that ``set_params`` of an embedder knows them by."""
    from tumorsim import TumorEmbedder

    own = TumorEmbedder().get_params()
    return {name if name in own else f"recipe__{name}": value for name, value in parameters.items()}


def _untrained(network, out):
    """Return the benchmark's network at random weights."""
    from benchmarks.baselines import UntrainedEmbedder

    shape = {name: value for name, value in network["parameters"].items() if name in SHAPE}
    embedder = new_embedder(network.get("paper")).set_params(**spelled(shape), cache_dir=out / "cache")
    return UntrainedEmbedder(embedder, random_state=network["seed"])


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
