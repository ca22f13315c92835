"""Training that starts from the weights of a model, and the mean of several models that did."""

import numpy as np

from tumorsim.exceptions import WeightsError
from tumorsim.weights._fetch import find_weights
from tumorsim.weights._model import fingerprint, head_aspects, load_model, save_model

__all__ = ["average_models", "start_from_weights"]


def start_from_weights(network, source, classes, preprocessing, *, freeze=False):
    """Copy the weights of a model into a new network of the same architecture, in place.

    Parameters
    ----------
    network : Network
    source : str or Path
        As `find_weights` takes it.
    classes : dict of list of str
        Task → class names of `network`.
    preprocessing : Preprocessing
        The one that training asks for.
    freeze : bool, default=False
        Do not train the backbone.

    Returns
    -------
    preprocessing : Preprocessing
        That of the weights if the backbone is frozen, so that embeddings do not change; else the one given.
    record : dict
        Entries for the training record.

    Raises
    ------
    WeightsError
        If `source` cannot be found or read.
    ValueError
        If its architecture or spacing differs.
    """
    from tumorsim.preprocessing import Preprocessing

    other, config = load_model(find_weights(source, progress=True))
    its_own = Preprocessing.from_dict(config["preprocessing"])
    wanted = network.config | {"spacing": preprocessing.spacing}
    found = other.config | {"spacing": its_own.spacing}
    unlike = [name for name in wanted if wanted[name] != found[name]]
    if unlike:
        differences = ", ".join(f"{name} {found[name]!r} instead of {wanted[name]!r}" for name in unlike)
        raise ValueError(
            f"'initial_weights' must have the architecture and spacing asked for. Got {differences}. "
            f"TumorEmbedder.from_pretrained() uses those of the weights: leave out {', '.join(unlike)}."
        )
    network.start_from(other, classes, config["classes"])
    if freeze:
        network.freeze_backbone()
        preprocessing = its_own
    return preprocessing, {"initial_weights": config["fingerprint"], "freeze_backbone": freeze}


def average_models(models, path):
    """Write the mean of models that were fine-tuned from the same weights.

    Networks that start from the same network stay close enough to each other for the mean of their weights to
    be a working network, which often errs less than each of them and costs no more than one [1]_. Class names
    may differ: a row of a head is the mean over the models that know its class.

    Parameters
    ----------
    models : sequence of str or Path
        Two or more, as `find_weights` takes them, with the same ``initial_weights`` in their training record
        and the same architecture, preprocessing and tasks. Parameters and history are taken from the first,
        the training record from the run with most tumors.
    path : str or Path
        The model file to write, atomically.

    Raises
    ------
    ValueError
        If there are fewer than two models.
    WeightsError
        If one cannot be read, or they do not belong together.

    References
    ----------
    .. [1] Wortsman M, et al. "Model soups: averaging weights of multiple fine-tuned models improves accuracy
           without increasing inference time". ICML 2022. arXiv:2203.05482.
    """
    from tumorsim.nn import Network

    if len(models) < 2:
        raise ValueError(f"Parameter 'models' must hold two or more models. Got {len(models)}.")
    networks, configs = zip(*(load_model(find_weights(model)) for model in models), strict=True)
    _check_kin(models, configs)
    tasks = networks[0].tasks
    classes = {task: sorted(set().union(*(c["classes"][task] for c in configs))) for task in tasks}
    network = Network({task: len(names) for task, names in classes.items()}, **networks[0].config)
    states = [network.state_dict() for network in networks]
    mean = {
        name: _mean([state[name] for state in states])
        for name in states[0]
        if not name.startswith("heads.")  # whose rows belong to classes
    }
    for number, task in enumerate(tasks):
        known = [config["classes"][task] for config in configs]
        heads = [other.heads[other.tasks.index(task)].state_dict() for other in networks]
        for part in ("weight", "bias"):
            rows = _mean_rows([head[part] for head in heads], known, classes[task])
            mean[f"heads.{number}.{part}"] = rows
    network.load_state_dict(mean)
    save_model(path, network.eval(), _mean_config(network, configs, classes))


def _check_kin(models, configs):
    """Raise unless all models share start, architecture, preprocessing and tasks."""
    for model, config in zip(models, configs, strict=True):
        if config["training"].get("initial_weights") is None:
            raise WeightsError(
                "Models to average must be fine-tuned from the same weights. "
                f"'{model}' was trained without initial weights."
            )
    facts = [
        {
            "initial_weights": config["training"]["initial_weights"],
            "architecture": config["architecture"],
            "preprocessing": config["preprocessing"],
            "tasks": sorted(config["classes"]),
        }
        for config in configs
    ]
    for model, its_own in zip(models, facts, strict=True):
        for what, first in facts[0].items():
            if its_own[what] != first:
                raise WeightsError(
                    f"Models to average must have the same {what}. '{model}' has {its_own[what]!r}, "
                    f"'{models[0]}' has {first!r}."
                )


def _mean(tensors):
    """Return the mean in double precision; integers (numbers of batches) are taken from the first."""
    if not tensors[0].is_floating_point():
        return tensors[0]
    return (sum(tensor.double() for tensor in tensors) / len(tensors)).to(tensors[0].dtype)


def _mean_rows(tensors, known, names):
    """Return the mean of a head's rows by class name, less each model's mean row, which softmax drops."""
    import torch

    shared = set(names).intersection(*known)
    rows = {name: [] for name in names}
    for tensor, its_own in zip(tensors, known, strict=True):
        which = [its_own.index(name) for name in its_own if name in shared] or list(range(len(its_own)))
        tensor = tensor.double()
        for name, row in zip(its_own, tensor - tensor[which].mean(dim=0), strict=True):
            rows[name].append(row)
    return torch.stack([_mean(rows[name]) for name in names]).to(tensors[0].dtype)


def _mean_config(network, configs, classes):
    """Return the configuration of the mean: that of the first, with means of what was estimated."""
    first = configs[0]
    records = [config["training"] for config in configs]
    record = dict(max(records, key=lambda record: record["n_tumors"]))
    for key in ("data", "licenses"):
        record[key] = sorted(set().union(*(record.get(key, []) for record in records)))
    return first | {
        "classes": classes,
        "aspects": head_aspects(network),
        "scale": np.mean([config["scale"] for config in configs], axis=0),
        "fingerprint": fingerprint(network.state_dict(), first["preprocessing"]),
        "training": record | {"averaged": [config["fingerprint"] for config in configs]},
    }
