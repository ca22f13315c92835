"""Names of files for ids that hold any text."""

import hashlib
import re
import unicodedata
from collections import Counter

__all__ = ["file_stems"]


def file_stems(ids):
    """Return a name for the files of each id: no two share one, wherever case and signs do not count.

    Examples
    --------
    >>> file_stems(["a/1", "b"]), len({name.lower() for name in file_stems(["p1", "P1", "p1"])})
    (['a_1', 'b'], 3)
    """
    ids, stems = list(ids), []
    names = [re.sub(r"^\.|[^\w.-]", "_", unicodedata.normalize("NFC", one))[:80] for one in ids]
    counts = Counter(name.casefold() for name in names)
    for one, name in zip(ids, names, strict=True):
        if counts[name.casefold()] > 1:
            name = f"{name}-{hashlib.sha256(one.encode()).hexdigest()[:8]}"
        while name in stems:  # the same id twice
            name += "_"
        stems.append(name)
    return stems
