"""Pseudonyms by a keyed hash: one patient, one pseudonym, as long as the key is kept."""

import datetime
import hashlib
import hmac
import os
import re
import secrets
import uuid
from pathlib import Path

from tumorsim.exceptions import ManifestError
from tumorsim.io import atomic_path
from tumorsim.records.columns import clean_id

_MOST_DAYS = 3650
_NOBODY = r"(?i)anon(ym(ous|i[sz]ed|isiert)?)?([\s^_]*patient)?|unk(nown)?|unbekannt|missing|[\W_]+"


class Pseudonyms:
    """Names that only the holder of a key (at least 16 bytes) can link to a patient.

    Examples
    --------
    >>> names = Pseudonyms(b"sixteen bytes ok")
    >>> names.patient("12345") == names.patient(" 12345 "), names.patient("12345") == names.patient("12346")
    (True, False)
    >>> names.visit("12345", "20240501")[4], names.visit("12345", "")
    ('-', '')
    """

    def __init__(self, key):
        if not isinstance(key, bytes) or len(key) < 16:
            raise ValueError("A key must be at least 16 bytes.")
        self._key = key

    def __repr__(self):
        return "Pseudonyms(<key>)"

    @classmethod
    def of_file(cls, path, *, create=True):
        """Return the pseudonyms of a key file, a line of 64 hexadecimal digits; make one where there is none.

        Raises
        ------
        FileNotFoundError
            If there is no file and none is to be made (`create`).
        ManifestError
            If it holds no key.
        """
        path = Path(path)
        if create and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_once(path, secrets.token_hex(32) + "\n")
        if not path.is_file():
            what = f"Key file '{path}' does not exist."
            raise FileNotFoundError(f"{what} Give the one that the archive was made with.")
        content = path.read_bytes().strip()
        if not re.fullmatch(rb"[0-9a-fA-F]{64}", content):
            what = f"Key file '{path}' must hold 64 hexadecimal digits."
            raise ManifestError(f"{what} It holds something else.")
        return cls(bytes.fromhex(content.decode("ascii")))

    def patient(self, patient_id):
        """Return the pseudonym of a PatientID, cleaned: 'P' and 20 hexadecimal digits (80 bits)."""
        return f"P{self._digest('patient', known_id(patient_id))[:20]}"

    def case(self, patient_id, series_uid):
        """Return the pseudonym of a patient's series: the patient's, and 8 digits."""
        return f"{self.patient(patient_id)}-{self._digest('series', series_uid)[:8]}"

    def tracking(self, kind, value):
        """Return the pseudonym of a lesion's identifier of a kind: 'L' and 20 hexadecimal digits."""
        return f"L{self._digest(kind, value)[:20]}"

    def tracking_uid(self, lesion_id):
        """Return a lesion's TrackingUID, the same at every date: '2.25.' and a UUID, from 122 bits."""
        return f"2.25.{uuid.UUID(self._digest('lesion', lesion_id)[:32], version=4).int}"

    def visit(self, patient_id, date):
        """Return a date (YYYYMMDD) moved by the patient's own secret number of days, as YYYY-MM-DD.

        Days between two visits of a patient stay true. Without a date, ''.
        """
        days = 1 + int(self._digest("visit", known_id(patient_id)), 16) % _MOST_DAYS
        try:
            day = datetime.datetime.strptime(date.replace(".", ""), "%Y%m%d").date()
            return (day - datetime.timedelta(days)).isoformat()
        except (ValueError, OverflowError):
            return ""

    def _digest(self, kind, value):
        """Return the HMAC-SHA256 of a value of a kind, as hexadecimal text."""
        return hmac.new(self._key, f"{kind}:{value.strip()}".encode(), hashlib.sha256).hexdigest()


def known_id(patient_id):
    """Return a PatientID as `clean_id` does, or '' where it names nobody: a word for missing, or damaged."""
    try:
        known = clean_id(patient_id, "patient_id")
        return "" if re.fullmatch(_NOBODY, known) else known
    except ValueError:
        return ""


def _write_once(path, content):
    """Write a file that only its owner can read, whole, unless another process has just written it."""
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    try:
        with atomic_path(temporary, mode=0o600) as file:
            file.write_text(content, encoding="ascii")
        try:
            os.link(temporary, path)
        except OSError:  # of two processes the first one wins; or a file system without links
            if not os.path.lexists(path):
                os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
