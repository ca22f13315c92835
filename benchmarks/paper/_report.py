"""Tidy rows → a Markdown report: tables with intervals, wins and losses, and what is missing."""

import re

import numpy as np
import pandas as pd

from benchmarks.paper._experiments import TABLES
from benchmarks.paper._label_free import CONTROLS
from benchmarks.paper._plan import ALL, pairs_of

__all__ = ["headline", "split_strengths", "write_report"]

TITLES = {
    "table3": "Table 3: tasks removed",
    "table2": "Table 2: channels",
    "table4": "Table 4: distorted boxes",
    "baselines": "Baselines",
    "missing_labels": "Missing labels",
    "cohort_size": "Cohort size",
    "contrastive": "Contrastive learning",
    "finetune": "Fine-tuning the pretrained weights against training from scratch",
    "fig4": "Fig. 4: how many neighbors",
    "fig5": "Fig. 5: a map",
    "fig6": "Fig. 6: queries and their neighbors",
    "real": "Real scans",
    "sites": "Data sets",
    "label_free": "Tests without labels",
}
SPACES = ("table3", "baselines")
TESTS = {  # of label_free, in the order of columns; others are in results.csv
    "other date": "other date", "other date: mirrored box": "the same, mirrored box",
    "transplant": "transplant", "transplant: own box": "transplant, own box",
    "mirror: side flips": "side flips", "mirror: type stays": "type stays",
    "mirror: distance": "mirror: distance", "rescan: overlap@5": "rescan: overlap@5",
    "pattern: partial Mantel r": "pattern: r",
}  # fmt: skip
NUMBERS = ("log_volume", "diameter_mm", "sphericity", "elongation")
MAIN = {"graded": "ndcg_at_k", "mask": "dice"} | dict.fromkeys(NUMBERS, "spearman")
COMPARED = ("balanced_accuracy", "average_precision", "spearman", "ndcg_at_k", "dice")
GRADED_K = 10
ABOUT = {
    "table3": "Which heads are trained. Cells: balanced accuracy of the vote of the k nearest training "
    "tumors (classes), Spearman's ρ of their mean (numbers), nDCG@10 (graded), Dice (masks), with the 95 % "
    "interval over test patients; k of each task was chosen on the validation patients.",
    "table2": "Numbers in an embedding.",
    "table4": "Queries in boxes whose sides are scaled, and that are shifted by a share of their sides; the "
    "gallery has exact boxes. Overlap: share of the ten nearest that are those of the exact box.",
    "baselines": "The same protocol for methods that no network is trained for.",
    "missing_labels": "Share of labels that were dropped, cell by cell, before training; masks stay.",
    "cohort_size": "Patients that the network saw, with as many steps. The gallery are the same patients, or "
    "(*gallery of all*) all training patients.",
    "contrastive": "A supervised-contrastive loss by type instead of the heads, or beside them.",
    "finetune": "Shipped weights (of simulated patients in heads other than the test patients'), as they are "
    "and trained further on a few patients, and the same network, trained as long on the same patients from "
    "the beginning. The gallery are all training patients.",
    "fig4": "Every k from 1 to 50.",
    "fig5": "Do schwannomas find those of their own side?",
    "real": "Nothing was trained on these scans. Five folds of contiguous blocks of case numbers within "
    "type; 5 nearest neighbors.",
    "label_free": "Mean reciprocal ranks of a tumor's other date, by its own box and by the mirrored box in "
    "the same head, and after both were pasted into another head at equal volume (seen through equal boxes, "
    "and through their own); share of predicted sides that flip and of types that stay when scans are "
    "mirrored, and how far a tumor moves then (1: as far as another tumor); neighbors that stay in a second "
    "scan (mean over four kinds); correlation with the enhancement pattern, given size and place. **A rank "
    "by itself shows nothing**: it says something of the tumor only where it is above those of the mirrored "
    "box, of place, of the head and of untrained networks (*controls*, the last rows). With few patients, no "
    "second decimal means anything. Empty: the test has no meaning for the method.",
    "sites": "A linear probe tells data sets apart from embeddings of unseen patients (column *dataset*). "
    "Then each data set's tumors are queries among those of all others: balanced accuracy of the vote of 5.",
}


def write_report(tidy, planned, about, figures):
    """Return the report as Markdown.

    Parameters
    ----------
    tidy : DataFrame
        Of `tabulate`, or read from its CSV.
    planned : dict of list of str
        Experiment → methods, finished or not.
    about : dict
        What ``results.json`` holds.
    figures : dict of list of (str, str)
        Experiment → captions and file names.
    """
    text = _head(about)
    for experiment, methods in planned.items():
        rows = headline(tidy[tidy["experiment"] == experiment])
        text += [f"## {TITLES[experiment]}", ""]
        text += [ABOUT[experiment], ""] if experiment in ABOUT else []
        if experiment == "table4":
            text += _strengths(rows, methods)
        elif experiment == "fig4":
            text += _curve(rows)
        elif experiment == "label_free":
            text += _label_free(rows, about)
        elif experiment != "fig6":
            text += _scores(rows, methods)
        for caption, name in figures.get(experiment, []):
            text += [f"![{caption}]({name})", ""]
        if experiment in SPACES:
            text += _spaces(tidy[tidy["experiment"] == experiment])
        if experiment in TABLES or experiment == "real":
            names = dict.fromkeys(tidy.loc[tidy["experiment"] == experiment, "method"])
            text += _outcomes(tidy, "paired_real" if experiment == "real" else "paired", names)
    text += _verdict(tidy, planned)
    return "\n".join(text).rstrip() + "\n"


def _head(about):
    """Return what was computed, on what, and how much of it is there."""
    done = {run["key"]: run for run in about["runs"] if run["state"] == "finished"}
    planned = {run["key"] for run in about["runs"]}
    minutes = sum(run["seconds"]["all"] for run in done.values()) / 60
    sides = ", ".join(f"{side} {text.removeprefix('Cohort')}" for side, text in about["sides"].items())
    lines = [
        f"Preset `{about['preset']}`: {sides}; {len(done)} of {len(planned)} runs have finished, "
        f"{minutes:.0f} minutes in all, on {about['hardware']['threads']} thread(s)"
        f"{' and ' + about['hardware']['cuda'] if about['hardware']['cuda'] else ''}. Intervals are of "
        f"{about['n_resamples']} resamples of patients. What has not finished is called missing."
    ]
    failed = {
        run["key"]: f"- {run['method']}: {run['error']}" for run in about["runs"] if run["state"] == "failed"
    }
    return [*lines, "", *(["Failed:", "", *failed.values(), ""] if failed else [])]


def headline(rows):
    """Return of each method, task and metric the pooled row, or the only seed's."""
    rows = rows.assign(order=pd.to_numeric(rows["seed"]).fillna(-1))
    kept = rows.sort_values("order", kind="stable").drop_duplicates(
        ["experiment", "method", "task", "metric", "k"]
    )
    return kept.sort_index().drop(columns="order")


def split_strengths(rows):
    """Return rows of Table 4 with ``base``, ``scale`` and ``shift``, from the method's name."""
    parts = rows["method"].str.extract(r"^(?P<base>.*); scale (?P<scale>[\d.]+), shift (?P<shift>[\d.]+)$")
    return rows.assign(
        base=parts["base"], scale=parts["scale"].astype(float), shift=parts["shift"].astype(float)
    )


def _main(rows):
    """Return the row of each method and task that its tables show."""
    metric = rows["task"].map(MAIN).fillna("balanced_accuracy")
    rows = rows[(rows["metric"] == metric) | (rows["task"].str.startswith("hemisphere of"))]
    k = pd.to_numeric(rows["k"])
    return rows[(rows["metric"] != "ndcg_at_k") | (k == GRADED_K)]


def _scores(rows, methods):
    """Return the table of main scores, one row per method; what is not there is missing."""
    rows = _main(rows)
    tasks = list(dict.fromkeys(rows["task"]))
    if not tasks:
        return ["*missing*", ""]
    names = list(dict.fromkeys([*methods, *(m for m in rows["method"] if m != "chance"), "chance"]))
    lines = []
    for name in names:
        line = {"method": name}
        for task in tasks:
            found = rows[(rows["method"] == name) & (rows["task"] == task)]
            line[_readable(task)] = (
                _cell(found.iloc[0]) if len(found) else ("missing" if not _any(rows, name) else "")
            )
        lines.append(line)
    return [*_markdown(lines), ""]


def _label_free(rows, about):
    """Return the table of tests without labels, one row per method, controls, and what is left out."""
    if not len(rows):
        return ["*missing*: no real scans were given for it, or no method has finished.", ""]
    names = [name for name in dict.fromkeys(rows["method"]) if name not in CONTROLS]
    lines = []
    for name in [*names, *CONTROLS]:
        part = rows[rows["method"] == name].drop_duplicates("task").set_index("task")
        if len(part):
            label = f"*{name}*" if name in CONTROLS else name
            cells = {text: _cell(part.loc[t]) if t in part.index else "" for t, text in TESTS.items()}
            lines.append({"method": label} | cells)
    text = [*_markdown(lines), ""]
    for method, tests in about.get("left_out", {}).items():
        for why in dict.fromkeys(tests.values()):
            missing = ", ".join(test for test, reason in tests.items() if reason == why)
            text.append(f"- {method}, not {missing}: {' '.join(why.split())}")
    return [*text, ""]


def _any(rows, name):
    """Return whether a method has any score."""
    return (rows["method"] == name).any()


def _strengths(rows, methods):
    """Return a table for each network: one row per strength."""
    text, rows = [], split_strengths(rows)
    for name in methods:
        part = rows[rows["base"] == name]
        text += [f"**{name}**", ""]
        if not len(part):
            text += ["*missing*", ""]
            continue
        lines = []
        for (shift, scale), cells in part.groupby(["shift", "scale"]):
            line = {"scale": f"{scale:g}", "shift": f"{shift:g}"}
            line |= {
                _readable(c.task) + (" ρ" if c.metric == "spearman" else ""): _cell(c)
                for c in cells.itertuples()
            }
            lines.append(line)
        text += [*_markdown(lines), ""]
    return text


def _curve(rows):
    """Return values at a few k."""
    rows = rows[(rows["metric"] == rows["task"].map(MAIN).fillna("balanced_accuracy"))]
    if not len(rows):
        return ["*missing*: the run of all tasks has not finished.", ""]
    lines = []
    for k in (1, 3, 5, 10, 20, 50):
        at = rows[(pd.to_numeric(rows["k"]) == k) & (rows["method"] == ALL)]
        lines.append({"k": str(k)} | {_readable(row.task): _cell(row) for row in at.itertuples()})
    return [*_markdown(lines), ""]


def _spaces(rows):
    """Return what the spaces are like, one row per method, the mean over its seeds."""
    rows = rows[rows["task"] == "space"]
    if not len(rows):
        return []
    means = rows.groupby(["method", "metric"], sort=False)["value"].mean()
    lines = []
    for name in dict.fromkeys(rows["method"]):
        found = {_readable(metric): f"{value:.2f}" for metric, value in means[name].items()}
        lines.append({"space of": name} | found)
    return [*_markdown(lines), ""]


def _outcomes(tidy, paired, methods):
    """Return wins, ties and losses of the network of all tasks against other methods, and of other pairs."""
    tables = {}
    for first, other in [*((ALL, name) for name in methods), *pairs_of(methods)]:
        found = _differences(tidy, other, paired, first)
        if len(found):
            tables.setdefault(first, []).append({f"{first} against": other} | _listed(found))
    if not tables:
        return []
    text = ["Paired differences (same test patients, same resamples):", ""]
    return text + [line for lines in tables.values() for line in (*_markdown(lines), "")]


def _differences(tidy, name, paired="paired", first=ALL):
    """Return the paired differences that are compared, with their outcome."""
    rows = tidy[(tidy["experiment"] == paired) & (tidy["method"] == f"{first} − {name}")]
    rows = rows[rows["metric"].isin(COMPARED)]
    rows = rows[(rows["metric"] != "ndcg_at_k") | (pd.to_numeric(rows["k"]) == GRADED_K)]
    outcome = np.select([rows["ci_low"] > 0, rows["ci_high"] < 0], ["wins", "losses"], "ties")
    return rows.assign(outcome=outcome)


def _listed(found):
    """Return wins, ties and losses as cells, with numbers where they are not ties."""
    cells = {}
    for outcome in ("wins", "losses"):
        part = found[found["outcome"] == outcome]
        texts = [
            f"{r.task if r.metric == 'dice' else _readable(r.task)} {_SHORT[r.metric]} {_signed(r)}"
            for r in part.itertuples()
        ]
        cells[outcome] = "; ".join(texts) or "none"
    return cells | {"ties": str(int((found["outcome"] == "ties").sum()))}


def _verdict(tidy, planned):
    """Return what the paired differences say of the paper's claim, in words."""
    text = ["## Does multitask learning carry more?", ""]
    lines = []
    for name in planned.get("table3", []):
        found = _differences(tidy, name)
        if len(found):
            counts = found["outcome"].value_counts()
            numbers = {word: str(int(counts.get(word, 0))) for word in ("wins", "ties", "losses")}
            lines.append({"all tasks against": name} | numbers)
    if not lines:
        return [*text, "*missing*: no two networks have finished.", ""]
    scores = ", ".join(_SHORT[metric] for metric in COMPARED)
    about = f"Scores that the network of all tasks wins, ties and loses ({scores}); a win or a loss is an "
    about += "interval on one side of 0, not corrected for their number:"
    return [*text, about, "", *_markdown(lines), ""]


_SHORT = {
    "balanced_accuracy": "balanced accuracy",
    "average_precision": "mAP",
    "spearman": "ρ",
    "ndcg_at_k": "nDCG@10",
    "dice": "Dice",
}
_NAMES = {
    "log_volume": "volume",
    "diameter_mm": "diameter",
    "front_rear": "front/rear",
    "upper_lower": "upper/lower",
    "mask": "mask (Dice)",
    "neighbors": "overlap@10",
    "box": "IoU",
}


def _readable(name):
    """Return a task's name for people."""
    return _NAMES.get(name, name.replace("_", " "))


def _cell(row):
    """Return a value and its interval as text."""
    if pd.isna(row.value):
        return "undefined"  # all predictions are the same, say
    if pd.isna(row.ci_low):
        return f"{row.value:.2f}"
    return f"{row.value:.2f} ({row.ci_low:.2f}–{row.ci_high:.2f})"


def _signed(row):
    """Return a difference and its interval as text."""
    return f"{row.value:+.2f} ({row.ci_low:+.2f} to {row.ci_high:+.2f})"


def _markdown(lines):
    """Return a list of dicts as a Markdown table."""
    columns = list(dict.fromkeys(name for line in lines for name in line))
    head = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return head + [
        "| " + " | ".join(re.sub(r"\|", "/", str(line.get(c, ""))) for c in columns) + " |" for line in lines
    ]
