"""Where a query and its neighbors lie in their archive: map, sizes and types, as numbers to be drawn."""

import numpy as np
import pandas as pd

from tumorsim.records.columns import is_missing, label_column
from tumorsim.rendering import COLORS, MISSING_COLOR, color_numbers

_N_SHOWN = 2000  # tumors of the archive on a map
_N_GROUPS = 6  # labels with a color of their own
_WIDTH, _HEIGHT, _EDGE = 340, 240, 14
_SIZE_HEIGHT, _N_BINS = 60, 24


class Neighborhood:
    """The archive behind an answer to queries `query_X`, shape (n_queries, n_features).

    At most 2,000 tumors of the index, drawn with a fixed seed, and the neighbors are shown. The distance of
    the map is the answer's: that of `aspects` (name → weight; empty: the plain distance), with the queries'
    measures in `query_table`, a row per query.
    """

    def __init__(self, index, query_X, *, query_table=None, aspects=None):
        query_X = np.asarray(query_X, dtype=np.float64)
        if query_X.ndim != 2 or query_X.shape[1] != index.n_features_in_:
            rule = f"Parameter 'query_X' must have {index.n_features_in_} features, as the index."
            raise ValueError(f"{rule} Got shape {query_X.shape}.")
        self.table = index.metadata_
        self._X = index.embeddings_
        self._index, self._aspects = index, dict(aspects or {}) or "embedding"
        rows = np.arange(len(self.table))
        if len(rows) > _N_SHOWN:
            rows = np.sort(np.random.default_rng(0).choice(rows, _N_SHOWN, replace=False))
        self._rows = rows
        X = self._points(rows)
        self._mean = X.mean(axis=0)
        _, spread, axes = np.linalg.svd(X - self._mean, full_matrices=False)
        self._axes = axes[:2]
        total = float((spread**2).sum())
        self._shares = [float(s**2) / total if total else 0.0 for s in spread[:2]]
        self._shown = (X - self._mean) @ self._axes.T
        queries = index.coordinates(query_X, metadata=query_table, aspects=self._aspects)
        self._queries = (queries - self._mean) @ self._axes.T
        self._row_of = {tumor_id: row for row, tumor_id in enumerate(self.table.get("tumor_id", ()))}

    def map(self, query, neighbors, task):
        """Return the map of one query as SVG coordinates, or None where there is no plane to draw on."""
        if len(self._axes) < 2 or len(self._rows) < 3:
            return None
        ranked = zip(neighbors["tumor_id"], neighbors["rank"], strict=True)
        ranks = [(self._row_of[i], int(rank)) for i, rank in ranked if i in self._row_of]
        found = (self._points([row for row, _ in ranks]) - self._mean) @ self._axes.T
        everything = np.concatenate([self._shown, self._queries[[query]], found])
        low, high = everything.min(axis=0), everything.max(axis=0)
        inner = np.array([_WIDTH, _HEIGHT]) - 2 * _EDGE
        factor = inner / np.where(high > low, high - low, 1)

        def place(points):
            x, y = ((points - low) * factor + _EDGE).T
            return np.round(np.stack([x, _HEIGHT - y], axis=1), 1)

        labels, points = self._labels(task), place(self._shown)
        groups, numbers = [], color_numbers(self._named(task))
        for name in self.groups(task):
            rows = np.flatnonzero(labels[self._rows] == name)
            path = "".join(f"M{x:g} {y:g}h0" for x, y in points[rows])
            color = f"color{numbers[name]}" if name in numbers else "gray"
            groups.append({"name": name, "n": len(rows), "path": path, "color": color})
            groups[-1] |= {"points": points[rows].tolist(), "rows": self._rows[rows]}
        places = zip(place(found).tolist(), ranks, strict=True)
        marks = [{"x": x, "y": y, "rank": rank} for (x, y), (_, rank) in places]
        x, y = place(self._queries[[query]])[0]
        shares = [f"{100 * share:.0f} %" for share in self._shares]
        drawn = {"width": _WIDTH, "height": _HEIGHT, "groups": groups, "marks": marks, "shares": shares}
        return drawn | {"query": {"x": x, "y": y}, "n": len(self._rows), "n_all": len(self.table)}

    def sizes(self, volume_mm3, neighbors):
        """Return the archive's volumes as a curve, with query and neighbors, as SVG coordinates; or None."""
        if "volume_mm3" not in self.table:
            return None
        archive = self.table["volume_mm3"].to_numpy(dtype=np.float64)
        archive = archive[archive > 0]
        sized = neighbors[neighbors["volume_mm3"] > 0]
        ranked = [(float(v), int(rank)) for v, rank in zip(sized["volume_mm3"], sized["rank"], strict=True)]
        query = float(volume_mm3) if volume_mm3 and volume_mm3 > 0 else None
        shown = [v for v, _ in ranked] + ([] if query is None else [query])
        if not len(archive) or not shown:
            return None
        low = np.log10(min(archive.min(), *shown)) - 0.05
        high = np.log10(max(archive.max(), *shown)) + 0.05

        def place(volume):
            return round(float(_EDGE + (np.log10(volume) - low) / (high - low) * (_WIDTH - 2 * _EDGE)), 1)

        counts, edges = np.histogram(np.log10(archive), bins=np.linspace(low, high, _N_BINS + 1))
        tops = _SIZE_HEIGHT * (1 - 0.9 * counts / counts.max())
        at = [place(10**edge) for edge in edges]
        steps = "".join(f"H{a:g}V{top:.1f}H{b:g}" for a, b, top in zip(at, at[1:], tops, strict=False))
        decades = 10.0 ** np.arange(np.ceil(low), np.floor(high) + 1)
        drawn = {"width": _WIDTH, "height": _SIZE_HEIGHT, "query": None if query is None else place(query)}
        drawn["area"] = f"M{at[0]:g} {_SIZE_HEIGHT}{steps}V{_SIZE_HEIGHT}Z"
        drawn["ticks"] = [{"x": place(v), "text": f"{v / 1000:g} ml"} for v in decades]
        return drawn | {"marks": [{"x": place(v), "rank": rank} for v, rank in ranked]}

    def types(self, neighbors, task):
        """Return label, neighbors with it and share of the archive's labelled tumors, most frequent first."""
        column = label_column(task)
        if column not in self.table:
            return []
        shares = self.table[column].value_counts(normalize=True)
        counts = neighbors[column].value_counts()
        names = [*counts.index, *(name for name in shares.index[:_N_GROUPS] if name not in counts.index)]
        return [
            {"name": str(name), "n": int(counts.get(name, 0)), "share": round(100 * shares.get(name, 0))}
            for name in names
        ]

    def lesions(self, row):
        """Return number and total volume (mm³ or None) of the archive's tumors of a row's scan."""
        if "case_id" not in self.table or row.get("case_id") is None:
            return None
        same = self.table["case_id"] == row["case_id"]
        if "patient_id" in self.table:
            same &= self.table["patient_id"] == row.get("patient_id")
        volume = self.table.loc[same, "volume_mm3"] if "volume_mm3" in self.table else None
        known = volume is not None and len(volume) and volume.notna().all()
        return int(same.sum()), float(volume.sum()) if known else None

    def groups(self, task):
        """Return the labels that have a color, most frequent first; then what is left."""
        labels = self._labels(task)
        return [name for name in (*self._named(task), "other", "not known") if (labels == name).any()]

    def _points(self, rows):
        """Return points of rows of the archive, whose distances are the answer's."""
        return self._index.coordinates(self._X[rows], metadata=self.table.iloc[rows], aspects=self._aspects)

    def _named(self, task):
        column = label_column(task)
        counts = self.table[column].value_counts() if column in self.table else pd.Series()
        return [str(name) for name in counts.index[:_N_GROUPS]]

    def _labels(self, task):
        """Return each row's label as text, shape (n_tumors,): rare ones are "other"."""
        values, named = self.table.get(label_column(task), [None] * len(self.table)), self._named(task)
        known = (None if is_missing(value) else str(value) for value in values)
        return np.array([n if n in named else "other" if n else "not known" for n in known], dtype=object)


def map_archive(index, task="type"):
    """Return the map of an archive's tumors, drawn by their distance, as JSON; None where there is no plane.

    ``width``, ``height``, ``n`` of ``n_all`` tumors, ``shares`` of the spread that the axes have, and
    ``groups``: ``name`` of the label, ``color``, ``points`` (x, y) and ``tumor_ids``.
    """
    first, colors = index.metadata_[:1], {f"color{number}": color for number, color in enumerate(COLORS)}
    around = Neighborhood(index, index.embeddings_[:1], query_table=first, aspects=index.aspect_weights())
    drawn = around.map(0, first.assign(rank=1), task)
    for group in drawn["groups"] if drawn else ():
        group["color"] = colors.get(group["color"], MISSING_COLOR)
        group["tumor_ids"] = around.table["tumor_id"].iloc[group.pop("rows")].tolist()
    return drawn and {n: drawn[n] for n in ("width", "height", "n", "n_all", "shares", "groups")}
