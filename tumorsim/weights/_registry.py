"""The registry: which weights there are, with version, hash, size and license."""

import json
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from tumorsim.exceptions import WeightsError
from tumorsim.io import atomic_path, content_key
from tumorsim.weights._model import load_model

__all__ = ["REGISTRY_PATH", "Registry", "Weights", "load_registry", "register"]

REGISTRY_PATH = Path(__file__).parents[1] / "data" / "weights" / "registry.json"
MAX_BYTES = 6_000_000  # the wheel's limit

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")  # a plain file name, on every system


@dataclass(frozen=True)
class Weights:
    """One file of weights: name, content and license.

    Attributes
    ----------
    name : str
        Such as ``t1c-v6``.
    version : str
    file : str
        File name, also the last part of its URL.
    sha256 : str
        Of the whole file, hexadecimal.
    size : int
        Bytes.
    license : str
        Of the weights, as an SPDX expression where there is one.
    description : str
        One sentence: trained on what, for what.
    """

    name: str
    version: str
    file: str
    sha256: str
    size: int
    license: str
    description: str


@dataclass(frozen=True)
class Registry:
    """All weights that this build knows.

    Attributes
    ----------
    path : Path
        The registry's file; the weights that are part of the package lie beside it.
    default : str or None
        Name of the weights that are used where no name is given.
    url : str
        Files are fetched from ``<url>/<file>``.
    weights : dict of Weights
        By name.
    """

    path: Path
    default: str | None
    url: str
    weights: dict

    def get(self, name=None):
        """Return the weights of a name, or the default ones.

        Raises
        ------
        WeightsError
            If this build knows no weights, or none of that name.
        """
        if not self.weights:
            raise WeightsError(
                "This build of tumorsim ships no weights. Train a model with 'tumorsim fit', "
                "or install a release that has weights."
            )
        if name is None and self.default is None:
            raise WeightsError(f"This build has no default weights. Name one of {sorted(self.weights)}.")
        found = self.weights.get(self.default if name is None else name)
        if found is None:
            raise WeightsError(
                f"Weights must be one of {sorted(self.weights)}. Got {name!r}. See 'tumorsim weights list'."
            )
        return found


def load_registry(path=None):
    """Read a registry.

    Parameters
    ----------
    path : str or Path, optional
        Default: the one of the installed package.

    Raises
    ------
    WeightsError
        If it is missing or malformed.

    Examples
    --------
    >>> load_registry().url
    'https://github.com/tumorsim/tumorsim/releases/download/weights'
    """
    path = Path(REGISTRY_PATH if path is None else path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        weights = {name: Weights(name=name, **entry) for name, entry in content["weights"].items()}
        for entry in weights.values():
            if not (_NAME.fullmatch(entry.file) and re.fullmatch("[0-9a-f]{64}", entry.sha256)):
                raise ValueError(f"file name or SHA-256 of '{entry.name}' is malformed")
        registry = Registry(path, content["default"], content["url"], weights)
        if registry.default is not None and registry.default not in weights:
            raise ValueError(f"the default '{registry.default}' is not in it")
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as err:
        raise WeightsError(f"Registry '{path}' cannot be used: {err}. Reinstall tumorsim.") from err
    return registry


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
    from safetensors import safe_open
    from safetensors.torch import save_file

    if not _NAME.fullmatch(name):
        raise ValueError(f"A name must match {_NAME.pattern}, such as 't1c-v6'. Got {name!r}.")
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
