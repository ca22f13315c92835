"""What an answer says beyond its rows: closeness, aspects, votes and summaries, tables in, tables out."""

import numpy as np
import pandas as pd

from tumorsim._validation import check_integer, check_real, counted

__all__ = [
    "PLACE", "aspect_shares", "courses", "describe_aspects", "describe_closeness", "describe_course",
    "describe_disagreements", "describe_left_out", "describe_summary", "describe_training", "describe_volume",
    "describe_vote", "describe_where", "summarize", "votes",
]  # fmt: skip

UNUSUAL = 0.2  # p-value below which a tumor is called rather unusual
PLACE = ("hemisphere", "front_rear", "upper_lower", "region")  # tasks that make up the aspect "place"


def describe_closeness(neighbors, *, left_out=False):
    """Return how usual a query's distance to its nearest case is, in words; `left_out`: some were left out.

    Examples
    --------
    >>> describe_closeness(pd.DataFrame({"p_value": [0.62], "no_close_match": [False]}))
    'Usual among the tumors searched: 62 % of them have a more distant nearest neighbor.'
    """
    others = neighbors[neighbors["same"].isna()] if "same" in neighbors else neighbors
    if not len(others):
        other = "other " if left_out or len(neighbors) else ""
        return f"No {other}tumor of the archive meets the conditions."
    if "p_value" not in neighbors:
        return "How usual the query is was not asked for (alpha)."
    if pd.isna(neighbors["p_value"].iloc[0]):
        return "Too few patients to say whether the nearest case is close."
    p_value = float(neighbors["p_value"].iloc[0])
    share = f"{100 * p_value:.2g} %" if p_value < 0.1 else f"{100 * p_value:.0f} %"
    if neighbors["no_close_match"].iloc[0]:
        text = f"No close match: {share} of the tumors searched have a nearest neighbor as distant."
        return f"{text} Its neighbors are the least unlike, not like cases."
    start = "Usual" if p_value >= UNUSUAL else "Rather unusual"
    return f"{start} among the tumors searched: {share} of them have a more distant nearest neighbor."


def describe_left_out(left_out):
    """Return sentences that name what an answer leaves out, from one query's rows of ``Answer.left_out``.

    Examples
    --------
    >>> describe_left_out(pd.DataFrame({"tumor_id": ["a/1", "a/2"], "reason": ["same scan", "same scan"]}))
    ['Left out, same scan as the query: a/1, a/2.']
    """
    texts = []
    for reason, rows in left_out.groupby("reason", sort=False):
        ids = list(dict.fromkeys(rows["tumor_id"]))
        more = f" and {len(ids) - 5} more" if len(ids) > 5 else ""
        texts.append(f"Left out, {reason} as the query: {', '.join(ids[:5])}{more}.")
    return texts


def describe_disagreements(inferred, neighbors):
    """Return sentences on neighbors of one query whose label is not what the network infers, place aside.

    Of the query's rows: `inferred` of ``Answer.inferred``, `neighbors` of `TumorIndex.search`.

    Examples
    --------
    >>> seen = {"rank": [1], "task": ["type"], "label": ["glioma"], "probability": [0.8]}
    >>> labelled = pd.DataFrame({"rank": [1], "label_type": ["meningioma"]})
    >>> describe_disagreements(pd.DataFrame(seen), labelled)
    ['Neighbor 1, type: its label is meningioma, the network infers glioma (80 %).']
    """
    texts = []
    for row in neighbors.to_dict("records"):
        for seen in inferred[inferred["rank"] == row["rank"]].to_dict("records"):
            label = row.get(f"label_{seen['task']}")
            if seen["task"] not in PLACE and not pd.isna(label) and label != seen["label"]:
                network = f"the network infers {seen['label']} ({100 * seen['probability']:.0f} %)"
                texts.append(f"Neighbor {row['rank']}, {seen['task']}: its label is {label}, {network}.")
    return texts


def describe_aspects(neighbor):
    """Return how near a neighbor (a row of a search) is in each aspect: the share of random pairs farther.

    Examples
    --------
    >>> describe_aspects({"closer_than_type": 0.96, "closer_than_size": 0.4})
    'type 96 %, size 40 %'
    """
    shares = aspect_shares(neighbor).items()
    return ", ".join(f"{name.replace('_', ' ')} {100 * share:.0f} %" for name, share in shares)


def aspect_shares(neighbor):
    """Return aspect → share of random pairs that are farther, of a row of a search; place has its parts.

    Examples
    --------
    >>> aspect_shares({"closer_than_place": 0.96, "closer_than_region": 0.4, "distance": 1.5})
    {'place': 0.96}
    """
    shares = {
        str(name).removeprefix("closer_than_"): float(value)
        for name, value in neighbor.items()
        if str(name).startswith("closer_than_") and not pd.isna(value)
    }
    if "place" in shares:
        shares = {name: value for name, value in shares.items() if name not in PLACE}
    return shares


def describe_where(where):
    """Return the conditions of a search, `where` of `TumorIndex.search`, in words.

    Examples
    --------
    >>> describe_where({"type": ["glioma", "meningioma"], "volume_mm3": [(">=", 500.0), ("<", 9000)]})
    'type = glioma or meningioma, volume_mm3 >= 500, volume_mm3 < 9000'
    """
    parts = []
    for column, condition in where.items():
        several = isinstance(condition, list) and any(isinstance(one, tuple) for one in condition)
        for one in condition if several else [condition]:
            pair = isinstance(one, tuple) and len(one) == 2 and not str(one[0]).strip("<>=!")
            operator, value = one if pair else ("=", one)
            held = value if isinstance(value, list | tuple | set | frozenset | np.ndarray) else [value]
            texts = ["not known" if v is None else f"{v:g}" if isinstance(v, float) else str(v) for v in held]
            parts.append(f"{column} {operator.replace('==', '=')} {' or '.join(texts)}")
    return ", ".join(parts)


def votes(
    neighbors, archive_table, *, n_neighbors=None, tasks=None, min_labelled=3, min_share=0.6, calibration=None
):
    """Count the neighbors' labels, and abstain where they say little.

    Parameters
    ----------
    neighbors : DataFrame
        Of `TumorIndex.search`.
    archive_table : DataFrame
        ``index.metadata_``, of which base rates are taken; with a search's `where`, the rows that met it.
    n_neighbors : int, optional
        As in the search. If that is one or two, all of them must be labelled for a vote; fewer rows than
        `n_neighbors`, as a filter leaves them, are no reason to vote on less.
    tasks : sequence of str, optional
        Default: all with a column ``label_<task>`` in which the archive has a label.
    min_labelled : int, default=3
        Labelled neighbors below which there is no vote; `n_neighbors`, if that is less.
    min_share : float, default=0.6
        Share of the labelled neighbors below which the first label does not win.
    calibration : calibration.VoteCalibration, optional
        Fitted on held-out patients; without it no probability is given.

    Returns
    -------
    DataFrame
        One row per query and task: ``query``, ``task``, ``label`` (the most frequent; of equals, the
        nearest's), ``n_votes``, ``n_labelled``, ``n_neighbors``, ``n_patients`` (of the labelled),
        ``base_rate`` (share of the archive's labelled tumors with that label), ``counts`` (text),
        ``abstains`` (None, ``"few labels"``, ``"one label"`` where `archive_table` has no other, ``"far"`` or
        ``"mixed"``) and ``probability`` (NaN without `calibration` or where it abstains).

    Raises
    ------
    TypeError, ValueError
        If a parameter is malformed or a task is unknown.
    """
    needed = check_integer(min_labelled, "min_labelled", minimum=1)
    if n_neighbors is not None:
        needed = min(needed, check_integer(n_neighbors, "n_neighbors", minimum=1))
    min_share = check_real(min_share, "min_share", minimum=0, maximum=1)
    labels = [str(name) for name in archive_table if str(name).startswith("label_")]
    known = [name.removeprefix("label_") for name in labels if archive_table[name].notna().any()]
    unknown = [task for task in tasks or () if f"label_{task}" not in archive_table]
    if unknown:
        raise ValueError(f"'tasks' must be labels of the archive ({', '.join(known)}). Got {unknown[0]!r}.")
    rows = []
    for query, found in neighbors.groupby("query", sort=True):
        far = "no_close_match" in found and bool(found["no_close_match"].iloc[0])
        for task in known if tasks is None else tasks:
            row = {"query": query, "task": task} | _vote(found, archive_table[f"label_{task}"], task)
            reasons = {"one label": row["base_rate"] == 1, "few labels": row["n_labelled"] < needed}
            mixed = row["n_votes"] < min_share * row["n_labelled"] or row["tied"]
            reasons |= {"far": far, "mixed": mixed}
            row["abstains"] = next((reason for reason, holds in reasons.items() if holds), None)
            rows.append(row)
    names = ("label", "n_votes", "n_labelled", "n_neighbors", "n_patients", "base_rate", "counts", "abstains")
    table = _objects(rows, ["query", "task", *names], ("label", "counts", "abstains"))
    table["probability"] = np.nan
    if calibration is not None and len(table):
        given = table["abstains"].isna().to_numpy()
        table.loc[given, "probability"] = calibration.predict(table[given])
    return table


def describe_training(table, consequence):
    """Return how many of a table's tumors (``in_training``) trained the model, and what follows; or None.

    Examples
    --------
    >>> describe_training(pd.DataFrame({"in_training": [True, False]}), "these scores flatter")
    '1 of 2 tumors trained this model: these scores flatter.'
    """
    known = table["in_training"].dropna() if "in_training" in table else ()
    if not any(value is True or value is np.True_ for value in known):
        return None
    least = "" if len(known) == len(table) else "At least "
    n = sum(bool(value) for value in known)
    return f"{least}{n} of {counted(len(table), 'tumor')} trained this model: {consequence}."


def describe_volume(tumor):
    """Return a tumor's volume in words, of its row; rounded where it is that of the ellipsoid in a box."""
    box, volume = tumor.get("measured_from") == "box", tumor["volume_mm3"] / 1000
    return f"about {float(f'{volume:.2g}'):g} ml, from the box" if box else f"{volume:.3g} ml"


def describe_vote(vote):
    """Return one row of `votes` in words.

    Examples
    --------
    >>> row = {"task": "type", "label": "meningioma", "n_votes": 4, "n_labelled": 5, "n_neighbors": 5}
    >>> row |= {"n_patients": 5, "base_rate": 0.4, "abstains": None, "probability": float("nan")}
    >>> describe_vote(row)
    'type: meningioma, 4 of 5 neighbors, 5 patients; base rate among the tumors searched 40 %'
    """
    task = str(vote["task"]).replace("_", " ")
    if vote["n_labelled"] == 0:
        return f"{task}: no vote, no neighbor has this label"
    label = str(vote["label"]).replace("_", " ")
    of = counted(vote["n_neighbors"], "neighbor")
    if vote["n_labelled"] < vote["n_neighbors"]:
        of = f"{counted(vote['n_labelled'], 'labelled neighbor')} (of {vote['n_neighbors']})"
    of = f"of {of}, {counted(vote['n_patients'], 'patient')}"
    text = f"{vote['n_votes']} {of}; base rate among the tumors searched {100 * vote['base_rate']:.0f} %"
    if vote["abstains"] is not None and not pd.isna(vote["abstains"]):
        if vote["abstains"] == "one label":
            return f"{task}: no vote (all labelled tumors that were searched are {label})"
        reason = {"far": "no close match", "mixed": "neighbors are mixed"}.get(vote["abstains"], "few labels")
        most = vote["n_votes"] > max(1, vote["n_labelled"] / 2)
        text = f"most are {label}, {text}" if most else f"{vote['counts'].replace('_', ' ')} {of}"
        return f"{task}: no vote ({reason}); {text}"
    if not pd.isna(vote["probability"]):
        text += f"; right in {100 * vote['probability']:.0f} % of such votes of held-out patients"
    return f"{task}: {label}, {text}"


def summarize(neighbors, columns):
    """Summarize columns such as treatment and outcome over each query's neighbors, without a recommendation.

    Parameters
    ----------
    neighbors : DataFrame
        Of `TumorIndex.search`.
    columns : sequence of str
        Columns of `neighbors`.

    Returns
    -------
    DataFrame
        One row per query and column: ``query``, ``column``, ``n`` (neighbors with a value), ``n_missing``,
        ``median``, ``minimum``, ``maximum`` (NaN but for numbers) and ``counts`` (text, most frequent first;
        None for numbers).

    Raises
    ------
    ValueError
        If a column is unknown.
    """
    unknown = [name for name in columns if name not in neighbors]
    if unknown:
        listed = ", ".join(map(str, neighbors.columns))
        raise ValueError(f"'columns' must be columns of the neighbors ({listed}). Got {unknown[0]!r}.")
    rows = []
    for query, found in neighbors.groupby("query", sort=True):
        for name in dict.fromkeys(columns):
            values = found[name].dropna()
            row = {"query": query, "column": name, "n": len(values), "n_missing": len(found) - len(values)}
            row |= {"median": np.nan, "minimum": np.nan, "maximum": np.nan, "counts": None}
            is_number, is_bool = pd.api.types.is_numeric_dtype, pd.api.types.is_bool_dtype
            if not is_number(neighbors[name]) or is_bool(neighbors[name]):
                row["counts"] = _counts(values)
            elif len(values):
                low, median, high = np.quantile(values.astype(float), (0, 0.5, 1))
                row |= {"median": median, "minimum": low, "maximum": high}
            rows.append(row)
    names = ("query", "column", "n", "n_missing", "median", "minimum", "maximum", "counts")
    return _objects(rows, names, ("counts",))


def describe_summary(summary):
    """Return one row of `summarize` in words.

    Examples
    --------
    >>> row = {"column": "dose_gy", "n": 4, "n_missing": 1, "median": 18.0, "minimum": 12.0, "maximum": 24.0}
    >>> describe_summary(row | {"counts": None})
    'dose_gy: median 18, range 12 to 24 (n = 4, 1 not known)'
    """
    missing = f", {summary['n_missing']} not known" if summary["n_missing"] else ""
    if summary["n"] == 0:
        return f"{summary['column']}: not known of any neighbor"
    if isinstance(summary["counts"], str):
        return f"{summary['column']}: {summary['counts']} (n = {summary['n']}{missing})"
    low, high = summary["minimum"], summary["maximum"]
    text = f"median {summary['median']:.4g}, range {low:.4g} to {high:.4g}"
    return f"{summary['column']}: {text} (n = {summary['n']}{missing})"


def courses(neighbors, archive):
    """Return the volumes over time of neighbors whose lesion an archive holds at several dates.

    Parameters
    ----------
    neighbors : DataFrame
        Of `TumorIndex.search`, with ``lesion_id``.
    archive : DataFrame
        Metadata with ``lesion_id``, ``volume_mm3``, and ``date`` or ``visit``.

    Returns
    -------
    DataFrame
        ``query``, ``rank``, ``lesion_id``, ``time`` and ``volume_mm3`` (of all pieces together), by time.

    Examples
    --------
    >>> known = {"lesion_id": ["L1", "L1"], "date": ["2024-01-08", "2024-05-02"], "volume_mm3": [400, 800]}
    >>> archive = pd.DataFrame(known)
    >>> found = courses(archive[:1].assign(query=0, rank=1), archive)
    >>> describe_course(found)
    '2024-01-08: 0.4 ml, 2024-05-02: 0.8 ml, +100 % in all'
    """
    names = ["query", "rank", "lesion_id", "time", "volume_mm3"]
    time = next((name for name in ("date", "visit") if name in archive), None)
    if time is None or not {"lesion_id", "volume_mm3"} <= set(archive) or "lesion_id" not in neighbors:
        return pd.DataFrame(columns=names)
    lesion = [c for c in ("patient_id", "lesion_id") if c in archive and c in neighbors]
    known = archive[[*lesion, time, "volume_mm3"]].dropna().rename(columns={time: "time"})
    known = known[known["lesion_id"].isin(neighbors["lesion_id"])]
    known = known.groupby([*lesion, "time"], as_index=False)["volume_mm3"].sum()
    known = known[known.duplicated(lesion, keep=False)]
    return neighbors[["query", "rank", *lesion]].merge(known, on=lesion)[names]


def describe_course(course):
    """Return the rows of one neighbor of `courses` in words, with the change from the first to the last."""
    texts = [f"{row.time}: {row.volume_mm3 / 1000:.2g} ml" for row in course.itertuples()]
    change = 100 * (course["volume_mm3"].iloc[-1] / course["volume_mm3"].iloc[0] - 1)
    return f"{', '.join(texts)}, {change:+.0f} % in all"


def _vote(found, archive_labels, task):
    """Return the counts of one query's neighbors for one task; `tied` tells whether two labels are first."""
    column = f"label_{task}"
    labels = found[column] if column in found else pd.Series([None] * len(found), index=found.index)
    labelled = labels.dropna()
    counts = labelled.value_counts()
    row = {"label": None, "n_votes": 0, "n_labelled": len(labelled), "n_neighbors": len(found)}
    row |= {"n_patients": 0, "base_rate": np.nan, "counts": _counts(labelled), "tied": False}
    if len(labelled):
        most, of = counts.max(), found.loc[labelled.index]
        first = next(value for value in labelled if counts[value] == most)  # rows are by distance
        n_patients = of["patient_id"].nunique() if "patient_id" in of else len(of)
        row |= {"label": first, "n_votes": int(most), "n_patients": int(n_patients)}
        row |= {"tied": bool((counts == most).sum() > 1)}
        row["base_rate"] = float((archive_labels.dropna() == first).mean())
    return row


def _counts(values):
    """Return values and how often each occurs, most frequent first, as text; None without values."""
    if not len(values):
        return None
    return ", ".join(f"{value} {n}" for value, n in values.value_counts().items())


def _objects(rows, names, objects):
    """Return dicts as a table, columns `objects` as they are: what is missing there is None."""
    table = pd.DataFrame(rows, columns=list(names))
    for name in objects:
        table[name] = pd.Series([row[name] for row in rows], dtype=object, index=table.index)
    return table
