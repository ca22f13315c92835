"""Which networks and baselines an experiment needs, in the order in which they are made."""

from dataclasses import dataclass

from benchmarks.paper._data import digest
from benchmarks.paper._methods import OF_NETWORK
from benchmarks.paper._presets import EXPERIMENTS, LOCALIZATION
from tumorsim.io import content_key

__all__ = ["ALL", "EXACT", "PRETRAINED", "Run", "pairs_of", "plan_runs"]

ALL = "all tasks"
EXACT = "all tasks, exact boxes only"
PRETRAINED = "pretrained, not trained further"
TUNED, SCRATCH = "fine-tuned on {} patients", "from scratch on {} patients"


@dataclass(frozen=True)
class Run:
    """One fit, and what for.

    Attributes
    ----------
    experiment, method : str
        Cell of the table that it fills.
    seed : int
    config : dict
        All that its result depends on, as JSON can hold it.
    """

    experiment: str
    method: str
    seed: int
    config: dict

    @property
    def key(self):
        """Name of its folder."""
        return digest(self.config)


def plan_runs(preset, data, *, experiments=EXPERIMENTS, baselines=()):
    """Return the runs of `experiments`: every one's first seed before any one's second.

    Parameters
    ----------
    preset : Preset
    data : Data
    experiments : sequence of str
    baselines : iterable of str
        Names of baselines, for experiment ``baselines``.

    Returns
    -------
    list of Run
        Several may share a config: then they are one fit.
    """
    labels = data.cohort[data.rows("train")].labels
    tasks = [task for task in labels if labels[task].nunique() > 1]
    made = []
    for experiment in experiments:
        for method, config in _variants(experiment, preset, tasks, baselines):
            n = preset.n_untrained if experiment == "label_free" and method != ALL else None
            for seed in range(n or preset.seeds.get(experiment, 1)):
                full = config | {"seed": seed, "data": digest(data.description)}
                made.append(Run(experiment, method, seed, full))
    order = {name: i for i, name in enumerate(EXPERIMENTS)}
    return sorted(made, key=lambda run: (run.seed, order[run.experiment]))


def _variants(experiment, preset, tasks, baselines):
    """Yield method and config of what an experiment compares."""
    default = _network(preset, tasks)
    if experiment == "table2":
        yield from ((f"{n} channels", _network(preset, tasks, n_channels=n)) for n in preset.channels)
        return
    if experiment == "finetune":
        yield from _tuned(preset, tasks)
        return
    yield ALL, default
    if experiment == "baselines":
        for name in baselines:
            yield name, {"baseline": name} | (default if name in OF_NETWORK else {})
    elif experiment == "label_free":
        yield "untrained", {"baseline": "untrained"} | default
    elif experiment == "table3":
        yield from _task_subsets(preset, tasks)
    elif experiment == "table4":
        yield EXACT, _network(preset, tasks, box_jitter=0.0)
    elif experiment == "missing_labels":
        for share in preset.drops:
            yield f"{share:.0%} of labels dropped", default | {"drop": share}
    elif experiment == "cohort_size":
        for n in preset.sizes:
            yield f"trained on {n} patients", default | {"n_patients": n}
    elif experiment == "contrastive":
        first = [task for task in tasks if task == "type"] or tasks[:1]
        none = {"mask": 0.0} | dict.fromkeys(first, 0.0)
        batches = _network(preset, first)["parameters"]
        larger = {"batch_size": 2 * batches.get("batch_size", 2)}  # pairs are found within a batch
        larger["batches_per_epoch"] = max(1, batches.get("batches_per_epoch", 200) // 2)
        yield "contrastive only", _network(preset, first, task_weights=none, contrastive=1.0, **larger)
        yield "all tasks and contrastive", _network(preset, tasks, contrastive=1.0)


def pairs_of(methods):
    """Return pairs of methods to compare, beside those with the network of all tasks.

    Parameters
    ----------
    methods : iterable of str
        What there is.
    """
    methods, start = list(methods), TUNED.partition("{")[0]
    found = []
    for name in methods:
        if name.startswith(start):
            scratch = SCRATCH.partition("{")[0] + name.removeprefix(start)
            found += [(name, other) for other in (scratch, PRETRAINED) if other in methods]
    return found


def _tuned(preset, tasks):
    """Yield pretrained weights, trained further on some patients, and as much training without them."""
    from tumorsim.training import Recipe
    from tumorsim.weights import find_weights

    weights = {"name": preset.weights, "sha256": content_key(find_weights(preset.weights))}
    yield PRETRAINED, {"weights": weights, "parameters": {}}
    same = {"tasks": list(tasks)} | preset.tuning
    starts = {
        TUNED: {"lr": Recipe.named("fine-tune").lr},
        SCRATCH: {"lr": Recipe().lr, "initial_weights": None},
    }
    for n in preset.tuned_sizes:
        for name, start in starts.items():
            yield name.format(n), {"weights": weights, "parameters": same | start, "n_patients": n}


def _task_subsets(preset, tasks):
    """Yield the rows of Table 3 beside that of all tasks, as far as the labels allow."""
    kinds = [task for task in tasks if task == "type"]
    places = [task for task in tasks if task in LOCALIZATION]
    no_mask = {"mask": 0.0}
    if kinds:
        yield "type only", _network(preset, kinds, task_weights=no_mask)
    yield "segmentation only", _network(preset, [])
    if places:
        yield "localization only", _network(preset, places, task_weights=no_mask)
    yield "all but segmentation", _network(preset, tasks, task_weights=no_mask)
    if kinds and len(tasks) > 1:
        yield "all but type", _network(preset, [t for t in tasks if t not in kinds])
    if places and len(places) < len(tasks):
        yield "all but localization", _network(preset, [t for t in tasks if t not in places])


def _network(preset, tasks, **parameters):
    """Return the config of a network of `tasks`."""
    recipe = {"paper": True} if preset.paper_recipe else {}
    return recipe | {"parameters": {"tasks": list(tasks)} | preset.parameters | parameters}
