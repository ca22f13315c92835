"""The whole way in one call: new tumors in, the most similar tumors of an archive out."""

from pathlib import Path

import numpy as np

from tumorsim._validation import check_box, check_integer
from tumorsim.io import atomic_path, content_key, partial_file, remove_partial, save_embeddings
from tumorsim.records import Case, Cohort, Tumor, group_by_case

__all__ = [
    "embed_archive",
    "embed_to_file",
    "find_similar",
    "neighbor_tumors",
    "query_tumors",
]

UNKNOWN_PATIENT = "unknown"
_BOX = ("x0", "y0", "z0", "x1", "y1", "z1")


def find_similar(embedder, index, tumors, n_neighbors=5, **search):
    """Find the tumors of an archive that are most like new ones.

    Parameters
    ----------
    embedder : TumorEmbedder
        Fitted; the one whose embeddings the index holds.
    index : TumorIndex
        The archive.
    tumors : Cohort or sequence of Tumor
        The new tumors.
    n_neighbors : int, default=5
        Rows a tumor; fewer where fewer tumors are left.
    **search
        ``where``, ``exclude``, ``aspects``, ``max_per_patient``, ``alpha``, ``calibration`` of
        `TumorIndex.search`.

    Returns
    -------
    DataFrame
        ``query`` (row of `tumors`), ``rank`` (from 1), ``distance``, how close it is in each aspect,
        ``p_value`` and ``no_close_match``, then the neighbor's metadata; see `TumorIndex.search`.

    Raises
    ------
    IndexMismatchError
        If the index holds embeddings of another embedder.
    TypeError, ValueError
        As `TumorEmbedder.transform` and `TumorIndex.search`.

    Examples
    --------
    >>> from tumorsim import TumorEmbedder, TumorIndex
    >>> rng, tumors = np.random.default_rng(0), []
    >>> for i, kind in enumerate(["glioma", "meningioma", "glioma"]):
    ...     scan = rng.normal(size=(24, 24, 24)), np.diag([4.0, 4.0, 4.0, 1.0])
    ...     case = Case(scan, case_id=f"scan-{i}", patient_id=f"patient-{i}")
    ...     tumors.append(Tumor(case, [(8, 8, 8), (14, 14, 14)], tumor_id=f"{i}", labels={"type": kind}))
    >>> archive, small = Cohort(tumors), {"n_channels": 8, "n_blocks": 1, "patch_size": 32, "spacing": 4.0}
    >>> embedder = TumorEmbedder(**small, max_epochs=1, batches_per_epoch=1).fit(archive)
    >>> X = embedder.transform(archive)
    >>> index = TumorIndex().fit(X, metadata=archive.table, space=embedder.space_)
    >>> found = find_similar(embedder, index, archive[:1], n_neighbors=2, exclude="same_patient")
    >>> found["rank"].tolist()
    [1, 2]
    """
    tumors = tumors if isinstance(tumors, Cohort) else Cohort(tumors)
    X = np.asarray(embedder.transform(tumors))
    return index.search(X, n_neighbors, query_metadata=tumors.table, space=embedder.space_, **search)


def query_tumors(
    scan,
    *,
    mask=None,
    box=None,
    embedder=None,
    patient_id=None,
    threshold=0.5,
    max_lesions=5,
    **lesions,
):
    """Return the tumors of one new scan: of its mask, of a box, or proposed by the embedder.

    Parameters
    ----------
    scan : str, Path or Case
        T1c image; a Case brings its mask and ids along.
    mask : str or Path, optional
        Mask on the image's grid; its lesions are the tumors.
    box : sequence of 6 int, optional
        ``x0 y0 z0 x1 y1 z1`` in voxels of the image, half-open; this is the tumor.
    embedder : TumorEmbedder, optional
        Without mask and box its ``segment`` proposes lesions.
    patient_id : str, optional
        Default ``"unknown"``.
    threshold : float, default=0.5
        Probability from which a voxel is proposed as tumor.
    max_lesions : int, default=5
        Proposed lesions that are kept, largest first.
    **lesions
        ``mask_value``, ``min_volume_mm3``, ``merge_distance_mm``, ``by_value`` of
        `manifest.tumors_from_case`.

    Returns
    -------
    cohort : Cohort
        Tumors ``<case>/1``, ``<case>/2`` …, where the case of a file is its name without its suffix.

    Raises
    ------
    FileNotFoundError, GeometryError, ValueError
        If files cannot be used, the box leaves the image, both mask and box are given, or nothing is
        proposed.
    """
    from tumorsim.manifest import tumors_from_case

    if mask is not None and box is not None:
        raise ValueError("A tumor is given by a mask or by a box. Got both; leave one out.")
    if isinstance(scan, Case):
        image, name = scan.image, scan.case_id
        ids = {"case_id": scan.case_id, "patient_id": patient_id or scan.patient_id}
        mask = scan.mask if mask is None and box is None else mask
    else:
        image, name = Path(scan), Path(scan).name
        ids = {"case_id": _stem(image), "patient_id": patient_id or UNKNOWN_PATIENT}
    case = Case(image, mask, **ids)
    if box is not None:
        box = check_box(np.reshape(box, (2, 3)), shape=case.shape, what=f"The box in '{name}'")
        return Cohort([Tumor(case, box, tumor_id=f"{case.case_id}/1")])
    if mask is not None:
        return tumors_from_case(case, **lesions)
    if embedder is None:
        raise ValueError("A scan needs a mask, a box, or an embedder that proposes lesions. Got none.")
    proposed = embedder.segment(case, threshold=threshold)
    if not proposed.any():
        raise ValueError(
            f"The model proposes no lesion in '{name}'. Lower the "
            "threshold, or give a mask, or a box in voxels of the image."
        )
    cohort = tumors_from_case(Case(image, (proposed, case.affine), **ids), **(lesions | {"mask_value": ">0"}))
    return cohort[: check_integer(max_lesions, "max_lesions", minimum=1)]


def neighbor_tumors(neighbors):
    """Return the neighbors of a search as tumors, as far as their metadata name image and box.

    Parameters
    ----------
    neighbors : DataFrame
        Of `find_similar` or `TumorIndex.search`.

    Returns
    -------
    cohort : Cohort
        Each tumor once. Files may have moved since; they are not looked at.
    """
    tumors, cases = {}, {}
    if {"image", *_BOX} <= set(neighbors.columns):
        for row in neighbors.to_dict("records"):
            if not isinstance(row["image"], str) or row["tumor_id"] in tumors:
                continue
            mask = row.get("mask") if isinstance(row.get("mask"), str) else None
            ids = {"case_id": row.get("case_id") or row["tumor_id"]}
            ids["patient_id"] = row.get("patient_id") or UNKNOWN_PATIENT
            case = cases.setdefault((row["image"], mask), Case(row["image"], mask, **ids))
            box = np.reshape([int(row[name]) for name in _BOX], (2, 3))
            value = row.get("mask_value") if isinstance(row.get("mask_value"), str) else None
            labels = {n.removeprefix("label_"): v for n, v in row.items() if n.startswith("label_")}
            tumors[row["tumor_id"]] = Tumor(
                case, box, tumor_id=row["tumor_id"], labels=labels, mask_value=value
            )
    return Cohort(tumors.values())


def embed_to_file(embedder, tumors, path, *, progress=False):
    """Embed a cohort into an ``.npz`` file; a run that was killed goes on where it stopped.

    Parameters
    ----------
    embedder : TumorEmbedder
        Fitted.
    tumors : Cohort
        The archive. Scans are kept in ``<path>.partial/`` one by one until all are done.
    path : str or Path
        The file to write, see `io.load_embeddings`.
    progress : bool, default=False
        Show a progress bar.

    Returns
    -------
    X : ndarray of shape (n_tumors, n_features), dtype=float32

    Raises
    ------
    CohortError
        If scans cannot be used; all of them are listed, before the first is embedded.
    """
    partial = Path(f"{path}.partial")
    X, columns = embed_archive(embedder, tumors, partial_dir=partial, progress=progress)
    save_embeddings(path, X, columns, embedder.space_.to_dict())
    remove_partial(partial, ".npy")
    return X


def embed_archive(embedder, tumors, *, partial_dir=None, progress=False):
    """Embed a cohort scan by scan.

    Parameters
    ----------
    embedder : TumorEmbedder
        Fitted.
    tumors : Cohort
        The archive.
    partial_dir : str or Path, optional
        Keep each scan's embeddings here, and take from here what an earlier run has done of the same model,
        files and boxes. Scans in memory are not kept.
    progress : bool, default=False
        Show a progress bar.

    Returns
    -------
    X : ndarray of shape (n_tumors, n_features), dtype=float32
    columns : dict of list
        The cohort's table, with absolute paths of images and masks.

    Raises
    ------
    CohortError
        If scans cannot be used; all of them are listed, before the first is embedded.
    """
    from tqdm import tqdm

    tumors.check()
    X = np.zeros((len(tumors), embedder.n_features_out_), dtype=np.float32)
    groups = group_by_case(tumors)
    files = [_partial_file(partial_dir, embedder, [tumors[r] for r in rows]) for rows in groups]
    left = []
    with tqdm(total=len(groups), desc="embedding", unit="scan", disable=None if progress else True) as bar:
        for rows, file in zip(groups, files, strict=True):
            if file is not None and file.is_file():
                X[rows] = np.load(file, allow_pickle=False)
                bar.update()
            else:
                left.append((rows, file))
        step = 4 * int(getattr(embedder, "n_jobs", 1))  # scans at once, so that its threads stay busy
        for start in range(0, len(left), step):
            part = left[start : start + step]
            rows = [row for rows, _ in part for row in rows]
            X[rows] = np.asarray(embedder.transform(tumors[rows]))
            for rows, file in part:
                if file is not None:
                    with atomic_path(file) as temporary, open(temporary, "wb") as opened:
                        np.save(opened, X[rows])
            bar.update(len(part))
    table = tumors.table
    columns = {name: table[name].tolist() for name in table}
    for name in {"image", "mask"} & set(columns):
        columns[name] = [str(Path(p).resolve()) if isinstance(p, str) else None for p in columns[name]]
    return X, columns


def _partial_file(folder, embedder, tumors):
    """Return where one scan's embeddings are kept: the name changes with model, file and boxes."""
    image = tumors[0].case.image
    if folder is None or not isinstance(image, str):
        return None
    content = [embedder.space_.fingerprint, content_key(image), [t.bbox.tolist() for t in tumors]]
    return partial_file(folder, content, ".npy")


def _stem(path):
    """Return a file's name without ``.nii.gz`` and the like."""
    name = path.name
    for suffix in (".nii.gz", ".nii", ".nrrd", ".nhdr"):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return path.stem
