"""Training that begins with the weights of a model file."""

from tumorsim.preprocessing import Preprocessing
from tumorsim.weights._fetch import find_weights
from tumorsim.weights._model import load_model

__all__ = ["start_from_weights"]


def start_from_weights(network, source, classes, preprocessing, *, freeze=False):
    """Copy what a model has learned into a new network of the same shape, in place.

    Parameters
    ----------
    network : Network
    source : str or Path
        As `find_weights` takes it.
    classes : dict of list of str
        Task → class names of `network`.
    preprocessing : Preprocessing
        What is asked for.
    freeze : bool, default=False
        Keep the backbone as it is from now on.

    Returns
    -------
    preprocessing : Preprocessing
        That of the weights where the backbone is frozen, so that embeddings stay what they were.
    record : dict
        What the training record says of the start.

    Raises
    ------
    WeightsError
        If `source` cannot be had or read.
    ValueError
        If its architecture or spacing is another.
    """
    other, config = load_model(find_weights(source, progress=True))
    its_own = Preprocessing.from_dict(config["preprocessing"])
    wanted = network.config | {"spacing": preprocessing.spacing}
    found = other.config | {"spacing": its_own.spacing}
    unlike = [name for name in wanted if wanted[name] != found[name]]
    if unlike:
        differences = ", ".join(f"{name} {found[name]!r} instead of {wanted[name]!r}" for name in unlike)
        raise ValueError(
            f"'initial_weights' must have the architecture and spacing asked for. Got {differences}. "
            f"TumorEmbedder.from_pretrained() takes those of the weights: leave out {', '.join(unlike)}."
        )
    network.start_from(other, classes, config["classes"])
    if freeze:
        network.freeze_backbone()
        preprocessing = its_own
    return preprocessing, {"initial_weights": config["fingerprint"], "freeze_backbone": freeze}
