"""Labels of tumors ↔ class numbers: what the heads are trained on."""

import warnings

import numpy as np
import pandas as pd

from tumorsim._validation import check_real
from tumorsim.records import Cohort
from tumorsim.records.columns import clean_label

MISSING = -1
RESERVED = ("contrastive", "embedding", "mask", "total")  # names in the network and the history


def label_table(tumors, y=None, tasks=None):
    """Return a DataFrame of labels, one row per tumor, one column per task, None where missing.

    Parameters
    ----------
    tumors : list of Tumor
    y : DataFrame, dict or array-like of shape (n_tumors,), optional
        A table or dict replaces the tumors' labels; a 1-D array counts only where they carry none.
    tasks : sequence of str, optional
        Columns to keep.

    Raises
    ------
    TypeError
        If `tasks` is one name.
    ValueError
        If `y` has another length, or a task is not there or has a name that is taken.
    """
    if isinstance(tasks, str):
        raise TypeError(f"Parameter 'tasks' must be a sequence of names. Got {tasks!r}.")
    labels = Cohort(tumors).labels
    if isinstance(y, dict | pd.DataFrame):
        labels = pd.DataFrame(y).reset_index(drop=True).rename(columns=str)
    elif y is not None and labels.isna().to_numpy().all():
        labels = pd.DataFrame({"target": np.asarray(y)})
    if len(labels.columns) and len(labels) != len(tumors):
        raise ValueError(f"'y' must hold one row per tumor ({len(tumors)}). Got {len(labels)}.")
    if tasks is not None:
        unknown = [task for task in tasks if task not in labels]
        if unknown:
            known = ", ".join(labels) or "none"
            raise ValueError(f"'tasks' must be labels of the tumors: {known}. Got {unknown}.")
        labels = labels[list(dict.fromkeys(tasks))]
    for task in labels:
        if task in RESERVED:
            rule = f"A task must not be called {', '.join(RESERVED)}"
            raise ValueError(f"{rule}. Got '{task}'. Rename it, or leave it out with 'tasks'.")
    return labels.apply(lambda column: column.map(lambda v: clean_label(v, column.name)).astype(object))


def find_classes(labels):
    """Return task → sorted class names of a `label_table`; warn of tasks with fewer than two."""
    classes = {task: sorted(set(labels[task].dropna())) for task in labels}
    for task in [task for task, names in classes.items() if len(names) < 2]:
        reason = f"it needs two classes, got {classes.pop(task)}"
        warnings.warn(f"Task '{task}' is left out: {reason}.", stacklevel=5)  # of the caller of `fit`
    return classes


def encode_labels(labels, classes):
    """Return class numbers of a `label_table`, -1 where missing; int64 (n_tumors, n_tasks)."""
    codes = np.full((len(labels), len(classes)), MISSING, dtype=np.int64)
    for column, (task, names) in enumerate(classes.items()):
        numbers = {name: i for i, name in enumerate(names)}
        codes[:, column] = [numbers.get(value, MISSING) for value in labels[task]]
    return codes


def class_factors(codes, n_classes):
    """Return 1 over the root of each class's frequency, scaled to mean 1 over the labels; (n_classes,)."""
    count = np.bincount(codes[codes != MISSING], minlength=n_classes)
    factors = 1 / np.sqrt(np.maximum(count, 1))
    return factors * count.sum() / (factors * count).sum()


def head_weights(classes, given=None):
    """Return every head's factor in the loss, `given` (head → factor) before the defaults.

    `classes` is task → class names; ``mask`` is a head too. TypeError or ValueError: `given` is no dict,
    names another head, or has a negative factor.
    """
    if not isinstance(given, dict | None):
        raise TypeError(f"Parameter 'task_weights' must be a dict or None. Got {given!r}.")
    weights = {"mask": 6.0} | {task: 1 / 3 if len(names) == 2 else 1.0 for task, names in classes.items()}
    for name, value in (given or {}).items():
        if name not in weights:
            heads = ", ".join(weights)
            raise ValueError(f"'task_weights' must name heads of this fit: {heads}. Got {name!r}.")
        weights[name] = check_real(value, f"task_weights[{name!r}]", minimum=0)
    return weights
