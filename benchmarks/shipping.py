"""Make shipped weights of trained models: their mean, the scans that trained them, their registry's entry.

    python -m benchmarks.shipping t1c-v6 --scans STACKS/scans.csv
    python -m benchmarks.shipping t1c-v6-simulated --no-scans
    python -m benchmarks.shipping t1c-v6 --measured PATIENTS/*.npz --real STACKS.npz

writes into the metadata of registered weights ``docs/model_card.md`` and the salted hashes of the real scans
that trained them, or the head of the type that reads measured columns as well. It is learned from files of
``tumorsim embed`` by the same weights: of simulated patients that the network has not seen, and of real
tumors, which together weigh as much. Tensors and fingerprint stay; the registry gets the file's new SHA-256.
"""

import argparse
import json
import re
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tumorsim.exceptions import WeightsError
from tumorsim.io import atomic_path, content_key, load_embeddings
from tumorsim.manifest import build_manifest
from tumorsim.nn import Network
from tumorsim.training import fit_measured_head, hash_scans
from tumorsim.weights import (
    Weights,
    find_weights,
    fingerprint,
    head_aspects,
    load_model,
    load_registry,
    save_model,
)

__all__ = ["average_models", "beside", "describe_again", "learn_type", "register"]

MAX_BYTES = 6_000_000  # the wheel's limit

CARD = Path(__file__).parents[1] / "docs/model_card.md"

NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")  # a plain file name, on every system


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
    scans = [other.get("scans") for other in records]
    record["scans"] = None if None in scans else {salt: by[salt] for by in scans for salt in by}
    return first | {
        "classes": classes,
        "aspects": head_aspects(network),
        "measured": {},  # of features that are not these
        "scale": np.mean([config["scale"] for config in configs], axis=0),
        "fingerprint": fingerprint(network.state_dict(), first["preprocessing"]),
        "training": record | {"averaged": [config["fingerprint"] for config in configs]},
    }


def register(path, name, version, *, license, description, card=None, default=True, registry_path=None):
    """Make a model file part of the package: copy it to the registry's folder and add an entry.

    Parameters
    ----------
    path : str or Path
        Model file, at most 6 MB; ``save_model(…, dtype="float16")`` halves one.
    name : str
        Small letters, digits, ``.``, ``_`` and ``-``; the file becomes ``tumorsim-<name>.safetensors``.
    version : str
    license : str
        Of the weights.
    description : str
        One sentence: trained on what, for what.
    card : str, optional
        Model card (Markdown), stored in the file's metadata as ``model_card``.
    default : bool, default=True
        Make these the weights that are used where no name is given.
    registry_path : str or Path, optional
        Default: the installed package's registry.

    Returns
    -------
    weights : Weights

    Raises
    ------
    WeightsError
        If the file is not a whole model file.
    ValueError
        If `name` cannot be a file name, or the file is too large.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"A name must match {NAME.pattern}, such as 't1c-v6'. Got {name!r}.")
    load_model(path)  # a file that cannot be loaded must not be shipped
    size = Path(path).stat().st_size
    if size > MAX_BYTES:
        raise ValueError(
            f"Shipped weights must have at most {MAX_BYTES} bytes. Got '{path}' with {size}. "
            "Save it with dtype='float16'."
        )
    registry = load_registry(registry_path)
    file = f"tumorsim-{name}.safetensors"
    with atomic_path(registry.path.parent / file) as temporary:
        if card is None:
            shutil.copyfile(path, temporary)
        else:
            with safe_open(path, framework="pt") as opened:
                tensors = {key: opened.get_tensor(key) for key in opened.keys()}
                save_file(tensors, temporary, metadata=opened.metadata() | {"model_card": card})
        sha256, size = content_key(temporary), Path(temporary).stat().st_size
    weights = Weights(name, str(version), file, sha256, size, license, description)
    content = json.loads(registry.path.read_text(encoding="utf-8"))
    content["weights"][name] = {key: value for key, value in asdict(weights).items() if key != "name"}
    if default:
        content["default"] = name
    with atomic_path(registry.path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return weights


def describe_again(name, cases=None, *, measured=None, card=None, registry_path=None):
    """Write anew what registered weights say: scans that trained them, measured heads, model card.

    Parameters
    ----------
    name : str
        Of the registry; the file lies beside it.
    cases : sequence of Case, optional
        The real scans; an empty one, where all of them were simulated. Default: what the file says.
    measured : dict of MeasuredHead, optional
        Task → head. Default: those of the file.
    card : str, optional
        Model card (Markdown). Default: the one that the file has.
    registry_path : str or Path, optional
        Default: the installed package's registry.

    Returns
    -------
    weights : Weights
        With the new SHA-256 and size. Tensors, preprocessing and so the fingerprint are what they were.
    """
    registry = load_registry(registry_path)
    old = registry.get(name)
    path = registry.path.parent / old.file
    with tempfile.TemporaryDirectory() as folder:
        with safe_open(path, framework="pt") as opened:
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}
            metadata = opened.metadata()
        config = json.loads(metadata["config"])
        if cases is not None:
            config["training"]["scans"] = hash_scans(cases)
        if measured is not None:
            config["measured"] = {task: head.to_dict() for task, head in measured.items()}
        made = Path(folder) / old.file
        save_file(tensors, made, metadata=metadata | {"config": json.dumps(config)})
        about = {"license": old.license, "description": old.description, "registry_path": registry.path}
        return register(made, name, old.version, card=card, default=registry.default == name, **about)


def learn_type(name, simulated, real=(), *, registry_path=None):
    """Return the measured head of the type of registered weights, from files of their embeddings."""
    registry = load_registry(registry_path)
    _, config = load_model(registry.path.parent / registry.get(name).file)
    files = [load_embeddings(path) for path in (*simulated, *real)]
    strange = [space for _, _, space in files if space["fingerprint"] != config["fingerprint"]]
    if strange:
        raise ValueError(f"Embeddings must be of '{name}'. Got {len(strange)} files of other weights.")
    table = pd.concat([pd.DataFrame(columns) for _, columns, _ in files], ignore_index=True)
    types, classes = table["label_type"].to_numpy(dtype=object), config["classes"]["type"]
    n_simulated = sum(len(X) for X, _, _ in files[: len(simulated)])
    X = np.concatenate([X for X, _, _ in files]).astype(np.float64)
    return fit_measured_head(X, table, types, classes, **beside(types, n_simulated, classes))


def beside(types, n_simulated, classes):
    """Return options of `fit_measured_head` for simulated tumors and the real ones behind them.

    Real ones together weigh as much as simulated ones. They are told apart from the types of their archive
    only, so that it does not speak against the others that an archive was collected of few types.
    """
    n_real = len(types) - n_simulated
    held = np.isin(classes, types[n_simulated:].astype(str))
    return {
        "sample_weight": np.repeat([1.0, n_simulated / max(n_real, 1)], [n_simulated, n_real]),
        "possible": np.repeat([np.ones(len(classes), dtype=bool), held], [n_simulated, n_real], axis=0),
    }


def main(arguments=None):
    """Write anew what registered weights say of their training scans, or their measured head."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name")
    about = parser.add_mutually_exclusive_group(required=True)
    about.add_argument("--scans", type=Path, help="scan table of the real scans that trained the weights")
    about.add_argument("--no-scans", action="store_true", help="no real scan trained them")
    about.add_argument("--measured", type=Path, nargs="+", help="embeddings of simulated patients")
    parser.add_argument("--real", type=Path, nargs="+", default=[], help="with --measured, of real tumors")
    options = parser.parse_args(arguments)
    cases, measured = [] if options.no_scans else None, None
    if options.scans is not None:
        with tempfile.TemporaryDirectory() as folder:
            cases = build_manifest(options.scans, Path(folder) / "scans.csv").cases
    if options.measured:
        measured = {"type": learn_type(options.name, options.measured, options.real)}
    card = CARD.read_text(encoding="utf-8")
    weights = describe_again(options.name, cases, measured=measured, card=card)
    print(f"{weights.file}: {weights.size} bytes, SHA-256 {weights.sha256}")


if __name__ == "__main__":
    main()
