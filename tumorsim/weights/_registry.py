"""The registry: which weights there are, with version, hash, size and license."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from tumorsim._validation import check_text, printable
from tumorsim.exceptions import WeightsError

REGISTRY_PATH = Path(__file__).parents[1] / "data" / "weights" / "registry.json"


@dataclass(frozen=True)
class Weights:
    """One file of weights: name, content and license.

    Attributes
    ----------
    name, version : str
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
        """Return the weights of a name, or the default ones; ``WeightsError`` if there are none."""
        if not self.weights:
            rule = "This build of tumorsim ships no weights. Train a model with 'tumorsim fit',"
            raise WeightsError(f"{rule} or install a release that has weights.")
        name = self.default if name is None else name
        if name is None:
            raise WeightsError(f"This build has no default weights. Name one of {sorted(self.weights)}.")
        if name not in self.weights:
            known = sorted(self.weights)
            raise WeightsError(f"Weights must be one of {known}. Got {name!r}. See 'tumorsim weights list'.")
        return self.weights[name]


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
            texts = [value for name, value in vars(entry).items() if name != "size"]
            if not all(isinstance(text, str) and text.isprintable() for text in texts):
                raise ValueError(f"an entry of '{entry.name}' is not text on one line")
            plain = re.fullmatch(r"[a-z0-9][a-z0-9._-]*", entry.file)  # a file name, on every system
            if not plain or not re.fullmatch("[0-9a-f]{64}", entry.sha256) or type(entry.size) is not int:
                raise ValueError(f"file name, SHA-256 or size of '{entry.name}' is malformed")
        registry = Registry(path, content["default"], check_text(content["url"], "url"), weights)
        if registry.default is not None and registry.default not in weights:
            raise ValueError(f"the default '{registry.default}' is not in it")
    except (OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as err:
        reason = printable(err)
        raise WeightsError(f"Registry '{path}' cannot be used: {reason}. Reinstall tumorsim.") from err
    return registry
