"""What a server holds: an index, a model, the scans that were sent, the answers and the changes."""

import contextlib
import itertools
import json
import secrets
import shutil
import threading
from dataclasses import replace
from datetime import datetime
from functools import partial
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image
from starlette.exceptions import HTTPException

from tumorsim._validation import check_choice, check_integer, check_text, printable
from tumorsim.answers import describe_vote
from tumorsim.geometry import crop_slices, ras_affine, spacing_from_affine, to_ras
from tumorsim.index import TumorIndex, where_mask
from tumorsim.io import file_stems, save_nifti
from tumorsim.manifest import tumors_from_case
from tumorsim.records import Case, Cohort, Tumor
from tumorsim.rendering import PLANES, outline_path
from tumorsim.report import map_archive
from tumorsim.retrieval import ACCEPTED, find_similar, neighbor_tumors, tumors_of
from tumorsim.serve._dicomweb import check_address, pull_study
from tumorsim.serve._uploads import Limits, read_scan, run_apart, write_seg

_KINDS = {"box": list, "lesions": list, "show": list, "labels": dict, "where": dict, "aspects": (dict, str)}
_KINDS |= {"exclude": (list, str), "lesion": int, "n_neighbors": int, "threshold": (int, float)}
_KINDS |= dict.fromkeys(("keep_same", "keep_scan"), bool)  # others are text


class Scan:
    """One scan that was sent: its voxels lie in `folder`, and are mapped from there."""

    def __init__(self, folder, known, notes, options):
        self.folder, self.known, self.notes, self.options = folder, known, notes, options
        affine = np.array(known["affine"])
        names = ("image", "mask")[: 1 + known["has_mask"]]
        arrays = [(np.load(folder / f"{name}.npy", mmap_mode="r"), affine) for name in names]
        self.case = Case(*arrays, case_id=known["case_id"], patient_id=known["patient_id"])
        self.hold(tumors_from_case(self.case) if self.case.has_mask else Cohort([]))

    def hold(self, tumors, *, proposed=False):
        """Take lesions over, and number their voxels for outlines."""
        self.tumors, self.proposed = tumors, proposed
        self._numbers = np.zeros(self.case.shape, np.uint8)
        for number, tumor in reversed(list(enumerate(tumors[:255], 1))):
            self._numbers[crop_slices(tumor.bbox)][tumor.load_mask()] = number

    def describe(self):
        """Return what the page needs, as JSON; boxes are in the file's voxels, as everywhere."""
        shape, affine = ras_affine(self.case.shape, self.case.affine)
        to_file = np.linalg.inv(self.case.affine) @ affine
        lesions = [
            {"number": i, "box": t.bbox.ravel().tolist(), "volume_mm3": float(t.measure()["volume_mm3"])}
            | {"confidence": t.metadata.get("confidence")}
            for i, t in enumerate(self.tumors, 1)
        ]
        shown = {"shape": list(self.case.shape), "planes": PLANES, "ras_shape": shape, "lesions": lesions}
        shown |= {"spacing": spacing_from_affine(affine).tolist(), "file_from_ras": to_file.round().tolist()}
        about = {"id": self.folder.name, "proposed": self.proposed, "notes": self.notes}
        return self.known | shown | about

    def _plane(self, array, plane, number):
        """Return one slice as a picture's rows and columns, in radiological display."""
        axis = 2 - PLANES.index(check_choice(plane, "plane", PLANES))
        array = to_ras(array, self.case.affine)
        if not 0 <= number < array.shape[axis]:
            raise ValueError(f"'number' must be from 0 to {array.shape[axis] - 1}. Got {number}.")
        return array.take(number, axis=axis)[::-1, ::-1].T

    def picture(self, plane, number, low=None, high=None):
        """Return one slice as PNG, black at `low` and white at `high`."""
        window = self.known["window"]
        low, high = window[0] if low is None else low, window[1] if high is None else high
        flat = self._plane(self.case.image[0], plane, number).astype(np.float32)
        gray = np.clip((flat - low) * (255 / max(high - low, 1e-9)), 0, 255).astype(np.uint8)
        Image.fromarray(gray).save(buffer := BytesIO(), "PNG", compress_level=1)
        return buffer.getvalue()

    def outlines(self, plane, number, **window):
        """Return number of a lesion → SVG path of its outline in one slice, in pixels."""
        flat = self._plane(self._numbers, plane, number)
        return {int(i): outline_path(flat == i) for i in np.unique(flat) if i}


class Desk:
    """All that requests share; every method may be called from several threads."""

    def __init__(
        self, directory, embedder, folder, *, limits=None, dicomweb=None, key_file=None, model_name=None
    ):
        self.directory, self.embedder, self.dicomweb = Path(directory), embedder, check_address(dicomweb)
        self.folder, self.limits = Path(folder), limits or Limits()
        self.key_file, self.names = key_file, {"archive_name": self.directory.name, "model_name": model_name}
        self.scans, self.queries, self.changes = {}, {}, []
        self._working, self._waiting = threading.Lock(), threading.BoundedSemaphore(self.limits.n_waiting)
        self._stamp, self._map, self._numbers = None, (None, None), itertools.count(1)
        self.index()

    def index(self):
        """Return the index as it is on disk now: others may change it."""
        about = self.directory / "manifest.json"
        stamp = (about.stat().st_mtime_ns, about.stat().st_ino) if about.exists() else None
        if self._stamp is None or stamp != self._stamp:
            self._index, self._stamp = TumorIndex.load(self.directory), stamp
            self._index.check_space(self.embedder.space_)
        return self._index

    def describe(self):
        """Return what the archive holds: columns to filter by, and aspects."""
        index, columns = self.index(), {}
        table = index.metadata_.drop(columns=["image", "mask"], errors="ignore")
        for name in table:
            known = table[name].dropna()
            numeric = known.dtype.kind in "iuf" and len(known)
            columns[name] = {"min": float(known.min()), "max": float(known.max())} if numeric else {}
            if not numeric and known.nunique() <= 30:
                values = sorted(known.unique().tolist(), key=str)
                columns[name] = {"values": [one if isinstance(one, bool) else str(one) for one in values]}
        about = {
            "n_tumors": index.n_samples_fit_,
            "name": self.directory.name,
            "n_changes": len(self.changes),
            "pulls": self.dicomweb is not None,
        }
        weights = dict.fromkeys(index.aspects_, 0) | index.aspect_weights()
        return about | {"aspects": weights, "columns": columns}

    def tumors(self, where="{}", offset=0, limit=200, **unknown):
        """Return the rows of the archive that meet conditions."""
        table = self.index().metadata_
        try:
            where, offset, limit = json.loads(where), int(offset), int(limit)
        except ValueError as err:
            raise ValueError("'where' must be JSON, 'offset' and 'limit' must be whole numbers.") from err
        table = table[where_mask(table, _where(where))]
        return {"n": len(table), "tumors": _rows(table.iloc[max(offset, 0) :][: max(min(limit, 1000), 0)])}

    def map(self, task="type"):
        """Return the map of the archive, colored by a label; it takes seconds, so the last one is kept."""
        index, held = self.index(), self._map
        if held[:2] != (index, task):
            held = self._map = index, task, map_archive(index, task)
        return {"task": task, "map": held[2]}

    def tumor(self, tumor_id):
        """Return a tumor and its nearest, of other patients where those are known."""
        index, row = self.index(), self.row(tumor_id)
        options = {"query_metadata": row.reset_index(drop=True), "space": index.space_}
        options["exclude"] = "same_patient" if "patient_id" in row else [tumor_id]
        near = index.search(index.embeddings_[row.index], 5, **options)
        return {"tumor": _rows(row)[0], "nearest": _rows(near.drop(columns="query"))}

    @contextlib.contextmanager
    def turn(self):
        """Let one request use the model at a time, and a few wait."""
        if not self._waiting.acquire(blocking=False):
            raise HTTPException(503, "The server is busy. Try again in a moment.", {"Retry-After": "2"})
        try:
            with self._working:
                yield
        finally:
            self._waiting.release()

    def held(self, table, key):
        """Return a scan or a query by its id."""
        if key not in table:
            raise HTTPException(404, "There is no such scan or query, or it was dropped for newer ones.")
        return table[key]

    def add_scan(self, folder, options):
        """Read what was sent into a folder; return the scan."""
        names = ("patient_id", "series", "include", "exclude")
        options = {name: options.get(name) for name in names}
        options["key_file"] = self.key_file and str(self.key_file)
        known, notes = run_apart(read_scan, str(folder), self.limits, options, limits=self.limits)
        known["scan_number"] = next(self._numbers)
        self.scans[folder.name] = scan = Scan(folder, known, notes, options)
        for key in list(self.scans)[: -self.limits.n_scans]:
            self.drop_scan(key)
        return scan.describe()

    def pull_scan(self, folder, request):
        """Bring a study from the DICOMweb server into a folder; return its scan."""
        if self.dicomweb is None:
            raise ValueError("This server pulls no studies. Start it with --dicomweb.")
        names = ("study", "patient_id", "series", "include", "exclude")
        options = {name: check_text(value, name) for name, value in _fields(request, *names).items() if value}
        about = (self.dicomweb, options.pop("study", ""), options.get("series"), self.limits)
        limits = replace(self.limits, read_seconds=self.limits.upload_seconds)
        run_apart(pull_study, str(folder), *about, limits=limits)
        return self.add_scan(folder, options)

    def drop_scan(self, key):
        """Delete a scan, its queries and its folder."""
        scan = self.held(self.scans, key)
        self._drop_queries([name for name, one in list(self.queries.items()) if one.scan is scan])
        self.scans.pop(key, None)
        shutil.rmtree(scan.folder, ignore_errors=True)

    def _drop_queries(self, keys):
        """Forget answers, and the files that were written of them."""
        for key in keys:
            self.queries.pop(key, None)
            for path in self.folder.glob(f"answer-{key}.*"):
                path.unlink(missing_ok=True)

    def propose(self, scan, request):
        """Let the model propose lesions; nobody has accepted them yet."""
        case = Case(scan.case.image, case_id=scan.case.case_id, patient_id=scan.case.patient_id)
        options = {"embedder": self.embedder, "threshold": 0.5} | _fields(request, "threshold")
        with self.turn():
            scan.hold(tumors_of(case, box=None, max_lesions=20, **options), proposed=True)
        return scan.describe()

    def ask(self, request):
        """Answer a query: of a box, of lesions of the scan, or of a tumor of the archive."""
        names = ("n_neighbors", "exclude", "aspects", "show", "keep_same")
        request = _fields(request, "scan", "tumor", "box", "lesions", "patient_id", "where", *names)
        scan, tumor_id, box = (request.get(name) for name in ("scan", "tumor", "box"))
        lesions, patient = request.get("lesions"), request.get("patient_id")
        if box is not None and len(box) != 6:
            raise ValueError(f"'box' is six numbers: x0 y0 z0 x1 y1 z1. Got {len(box)}.")
        options = {name: request[name] for name in names if name in request}
        options["where"] = _where(request.get("where", {})) or None
        index = self.index()
        if tumor_id is not None:
            query, scan = neighbor_tumors(self.row(tumor_id)), None
            if not len(query):
                raise ValueError("The index names no scan of this tumor, so there is nothing to look at.")
        else:
            scan = self.held(self.scans, scan)
            query = scan.case
            if patient:
                query = Case(query.image, query.mask, case_id=query.case_id, patient_id=patient)
            if box is None:
                query = self._lesions(scan, query, lesions)
        with self.turn():
            answer = find_similar(self.embedder, index, query, box=box, **options)
        answer.settings |= ACCEPTED if "confidence" in answer.queries[0].metadata else {}
        about = {"id": (key := secrets.token_hex(8)), "scan_number": scan and scan.known["scan_number"]}
        about |= {"time": datetime.now().astimezone().isoformat(timespec="seconds")}
        about |= {"tumor_ids": list(answer.queries.tumor_ids), "settings": dict(answer.settings)}
        about["votes"] = [describe_vote(row) for _, row in answer.votes.iterrows()]
        seg = scan is not None and scan.known["dicom"] and answer.queries[0].case.has_mask
        about["kinds"] = ["html", "csv", "json", *(["seg"] if seg else [])]
        self.queries[key] = SimpleNamespace(answer=answer, scan=scan, about=about)
        self._drop_queries(list(self.queries)[: -self.limits.n_queries])
        return about | answer.to_dict()

    def history(self):
        """Return what is known of the answers that are held, the newest first."""
        return {"queries": [one.about for one in reversed(list(self.queries.values()))]}

    @staticmethod
    def _lesions(scan, case, numbers):
        """Return the chosen lesions of a scan, or all; proposed ones only where a person chose them."""
        if not len(scan.tumors) or (scan.proposed and not numbers):
            raise ValueError("A query needs a box, a mask, or proposed lesions that a person accepted.")
        numbers = list(dict.fromkeys(numbers or range(1, len(scan.tumors) + 1)))
        if not all(isinstance(i, int) and 0 < i <= len(scan.tumors) for i in numbers):
            raise ValueError(f"'lesions' are numbers from 1 to {len(scan.tumors)}. Got {numbers}.")
        chosen, mask = [scan.tumors[i - 1] for i in numbers], scan.tumors[0].case.mask
        case = Case(case.image, mask, case_id=case.case_id, patient_id=case.patient_id)
        return Cohort(
            Tumor(case, t.bbox, tumor_id=t.tumor_id, mask_value=t.mask_value, metadata=t.metadata)
            for t in chosen
        )

    def file(self, key, kind):
        """Write an answer as html, csv or seg; return the file."""
        asked = self.held(self.queries, key)
        path = self.folder / f"answer-{key}.{kind}"
        if kind == "html":
            with self.turn():
                return asked.answer.save_html(path, **self.names)
        if kind == "csv":
            return asked.answer.save_csv(path)
        scan, tumors = asked.scan, asked.answer.queries
        if kind not in asked.about["kinds"]:
            raise ValueError("A SEG needs DICOM and lesions with voxels. Got another file, or only a box.")
        mask = np.zeros(scan.case.shape, bool)
        for tumor in tumors:
            mask[crop_slices(tumor.bbox)] |= tumor.load_mask()
        np.save(scan.folder / "seg.npy", mask)
        run_apart(write_seg, str(scan.folder), scan.options, limits=self.limits)
        return scan.folder / "seg.dcm"

    def row(self, tumor_id):
        """Return a tumor's row of the archive as a table of one row."""
        table = self.index().metadata_
        row = table[table["tumor_id"] == tumor_id]
        if row.empty:
            raise HTTPException(404, "The index holds no tumor of this id.")
        return row

    def add_tumor(self, request):
        """Add a query's tumor, with labels, to the index, and its scan to the folder beside the index."""
        names = ("query", "lesion", "labels", "patient_id", "case_id", "tumor_id", "keep_scan")
        request = _fields(request, *names)
        asked = self.held(self.queries, request.get("query"))
        number = check_integer(request.get("lesion", 1), "lesion", minimum=1) - 1
        if number >= len(asked.answer.queries):
            raise ValueError(f"'lesion' is from 1 to {len(asked.answer.queries)}. Got {number + 1}.")
        old, X = asked.answer.queries[number], asked.answer.X[[number]]
        ids = {name: request.get(name) or getattr(old.case, name) for name in ("case_id", "patient_id")}
        if ids["patient_id"] == "unknown":
            raise ValueError("A tumor of the archive needs its patient. Give patient_id.")
        folder = self.directory.resolve().with_name(f"{self.directory.resolve().name}_files")
        stem = f"{file_stems([ids['case_id']])[0]}-{secrets.token_hex(4)}"
        names = ("image", "mask")[: 1 + old.case.has_mask] if request.get("keep_scan", True) else ()
        paths = [folder / f"{stem}_{name}.nii.gz" for name in names]
        tumor_id = request.get("tumor_id") or f"{ids['case_id']}/{old.tumor_id.rpartition('/')[2]}"
        metadata = {name: value for name, value in old.metadata.items() if name != "confidence"}
        known = {"labels": request.get("labels"), "mask_value": old.mask_value, "metadata": metadata}
        tumor = Tumor(
            Case(*(paths or [old.case.image, old.case.mask]), **ids), old.bbox, tumor_id=tumor_id, **known
        )

        def keep(index):
            for name, path in zip(names, paths, strict=True):
                folder.mkdir(0o700, exist_ok=True)
                save_nifti(path, *getattr(old.case, name))
                path.chmod(0o600)
            index.add(X, metadata=Cohort([tumor]).table, space=self.embedder.space_)

        def forget(index=None):
            if index is not None:
                index.remove(tumor_id)
            for path in paths:
                path.unlink(missing_ok=True)

        try:
            self._change(f"added {tumor_id}", keep, forget)
        except Exception:
            forget()  # no copy of a scan stays that the index does not name
            raise
        return {"tumor_id": tumor_id}

    def remove_tumor(self, tumor_id):
        """Drop a tumor from the index; its files stay."""
        row, index = self.row(tumor_id), self.index()
        X = np.array(index.embeddings_[row.index])
        back = partial(TumorIndex.add, X=X, metadata=row, space=self.embedder.space_)
        self._change(f"removed {tumor_id}", lambda index: index.remove(tumor_id), back)

    def undo(self):
        """Take the last change of this session back; return what it was."""
        with self._working:
            if not self.changes:
                raise ValueError("Nothing was changed in this session, so there is nothing to undo.")
            words, back = self.changes[-1]
            with TumorIndex.edit(self.directory) as index:
                back(index)
            self.changes.pop()
        return {"undone": words}

    def _change(self, words, change, back):
        """Change the index under its lock, and remember how to undo it."""
        with self._working:
            with TumorIndex.edit(self.directory) as index:
                change(index)
            self.changes.append((words, back))


def _fields(request, *names):
    """Return the fields of a request that hold something; none is unknown or of a wrong type."""
    for name, value in request.items():
        if name not in names:
            raise ValueError(f"The request has no field '{printable(name)}'. Leave it out.")
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        plain = name == "where" or all(isinstance(one, str | int | float) for one in parts)
        if value is not None and not (isinstance(value, _KINDS.get(name, str)) and plain):
            raise ValueError(f"Field '{name}' has a value of a wrong type. See openapi.json.")
    return {name: value for name, value in request.items() if value is not None}


def _where(given):
    """Return conditions of JSON as `TumorIndex.search` takes them: ``[[">=", 5], …]`` are comparisons."""
    if not isinstance(given, dict):
        raise ValueError("'where' maps a column to a value, a list of values or of [operator, value].")
    lists = {name: one for name, one in given.items() if isinstance(one, list)}
    return given | {k: [tuple(v) if isinstance(v, list) else v for v in one] for k, one in lists.items()}


def _rows(table):
    """Return the rows of a table as dicts for JSON, without paths."""
    table = table.drop(columns=["image", "mask"], errors="ignore")
    return json.loads(table.to_json(orient="records", date_format="iso"))
