"""Find the files of weights: in the package, in the cache, or on a server."""

import os
from dataclasses import asdict
from pathlib import Path

from tumorsim.exceptions import WeightsError
from tumorsim.io import content_key
from tumorsim.weights._model import load_model
from tumorsim.weights._registry import load_registry


def fetch_weights(name=None, *, force=False, progress=False, registry=None):
    """Return the path of a file of weights, which is downloaded if it is not on this machine.

    It is looked for in the package, then in the cache (a file put there by hand is as good), then on the
    mirrors, one after the other. Wherever it comes from, its SHA-256 is checked.

    Parameters
    ----------
    name : str, optional
        Default: the registry's default weights.
    force : bool, default=False
        Download into the cache even if the file is there, and replace it.
    progress : bool, default=False
        Show a bar on stderr while it is downloaded.
    registry : Registry, optional
        Default: the installed package's.

    Returns
    -------
    path : Path

    Raises
    ------
    WeightsError
        If the name is unknown, a wrong file is in its place, ``TUMORSIM_OFFLINE`` forbids a download that is
        needed, or no mirror delivers. The message says what to do.
    """
    from tumorsim.weights._download import alone, download  # requests takes long to import

    registry = registry or load_registry()
    weights = registry.get(name)
    if not force and (path := _find(weights, registry)) is not None:
        return path
    target = _places(weights, registry)[1]
    if os.environ.get("TUMORSIM_OFFLINE", "").strip().lower() not in ("", "0", "false", "no", "off"):
        rule = f"Weights '{weights.name}' must be downloaded, and TUMORSIM_OFFLINE forbids it."
        missing = f"Missing: '{target}' ({weights.size} bytes, SHA-256 {weights.sha256})."
        raise WeightsError(f"{rule} {missing} Put the file there by hand, or unset TUMORSIM_OFFLINE.")
    try:
        with alone(target):
            if force or _find(weights, registry) is None:  # else another process was quicker
                download(weights, target, registry.url, progress=progress)
    except OSError as err:
        raise WeightsError(
            f"'{err.filename or target}' cannot be written: {err.strerror or err}. Make room there. "
            "Set TUMORSIM_CACHE to a folder that can be written, and TMPDIR, through which downloads pass."
        ) from err
    return target


def find_weights(source=None, *, progress=False, registry=None):
    """Return the path of a model file that is given by its path or by a name of the registry.

    Parameters
    ----------
    source : str or Path, optional
        A name, which `fetch_weights` finds, or else a path. Default: the default weights.
    progress, registry
        As in `fetch_weights`.

    Returns
    -------
    path : Path

    Raises
    ------
    WeightsError
        If `source` is neither a name nor a file, or the named weights cannot be found or fetched.
    """
    registry = registry or load_registry()
    if source is None or str(source) in registry.weights:
        return fetch_weights(source, progress=progress, registry=registry)
    path = Path(source)
    if not os.path.isfile(path):  # unlike Path.is_file, it is False where a folder cannot be entered
        names = ", ".join(registry.weights) or "this build ships none"
        rule = f"A model must be the path of a file or a name of shipped weights ({names})."
        raise WeightsError(f"{rule} Got '{source}', which is neither.")
    return path


def weights_path(name=None, *, registry=None):
    """Return where a file of weights lies, or where in the cache it belongs; nothing is downloaded.

    Parameters
    ----------
    name, registry
        As in `fetch_weights`.

    Returns
    -------
    path : Path
        It need not exist.
    """
    registry = registry or load_registry()
    weights = registry.get(name)
    packaged, cached = _places(weights, registry)
    return packaged if packaged.is_file() and content_key(packaged) == weights.sha256 else cached


def list_weights(*, registry=None):
    """Return one row per file of weights that this build knows.

    Parameters
    ----------
    registry : Registry, optional
        Default: the installed package's.

    Returns
    -------
    rows : list of dict
        The attributes of `Weights`, ``is_default``, and ``where``: ``package``, ``cache``, ``damaged`` (a
        wrong file is in its place), or ``to be fetched``.
    """
    registry = registry or load_registry()
    rows = []
    for weights in registry.weights.values():
        try:
            path = _find(weights, registry)
            found = {None: "to be fetched", registry.path.parent: "package"}
            where = found.get(path and path.parent, "cache")
        except WeightsError:
            where = "damaged"
        rows.append(asdict(weights) | {"is_default": weights.name == registry.default, "where": where})
    return rows


def verify_weights(name=None, *, registry=None):
    """Check a file of weights: its hash, and that a network can be built from it; nothing is downloaded.

    Parameters
    ----------
    name : str or Path, optional
        A name of the registry, or the path of any model file, whose own fingerprint is then checked.
        Default: the registry's default weights.
    registry : Registry, optional
        Default: the installed package's.

    Returns
    -------
    facts : dict
        ``path``, ``name`` (None if the file is not one of the registry's), ``sha256``, ``fingerprint``.

    Raises
    ------
    WeightsError
        If the file is missing or not what it should be.
    """
    registry = registry or load_registry()
    if name is None or str(name) in registry.weights:
        weights = registry.get(name)
        path = _find(weights, registry)
        if path is None:
            what = f"Weights '{weights.name}' are not on this machine"
            missing = f"'{_places(weights, registry)[1]}' does not exist"
            raise WeightsError(f"{what}: {missing}. Run 'tumorsim weights fetch {weights.name}'.")
    else:
        path = find_weights(name, registry=registry)
    config = load_model(path)[1]
    sha256 = content_key(path)
    names = {weights.sha256: weights.name for weights in registry.weights.values()}
    return {"path": path, "name": names.get(sha256), "sha256": sha256, "fingerprint": config["fingerprint"]}


def _places(weights, registry):
    """Return the file's path in the package and in the cache; neither need exist."""
    import pooch

    cache = pooch.create(pooch.os_cache("tumorsim"), registry.url, env="TUMORSIM_CACHE").abspath
    return registry.path.parent / weights.file, cache / "weights" / weights.file


def _find(weights, registry):
    """Return the first right file on this machine, or None; a wrong one with no right one is an error."""
    wrong = []
    for path, remedy in zip(_places(weights, registry), ("Reinstall tumorsim", "Delete it"), strict=True):
        try:
            found = content_key(path) if path.is_file() else None
        except OSError as err:
            reason = err.strerror or err
            raise WeightsError(f"'{path}' cannot be read: {reason}. Check its permissions.") from err
        if found == weights.sha256:
            return path
        if found is not None:
            wrong.append(
                f"'{path}' is not the file of weights '{weights.name}'. Expected SHA-256 {weights.sha256}, "
                f"got {found}. {remedy}, or replace it by 'tumorsim weights fetch {weights.name} --force'."
            )
    if wrong:
        raise WeightsError(wrong[-1])  # the one in the cache, which users can replace
    return None
