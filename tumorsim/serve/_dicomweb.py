"""A study of a DICOMweb server, by its UID."""

import re
from pathlib import Path

from tumorsim._validation import check_pattern
from tumorsim.exceptions import DicomError

__all__ = ["check_address", "pull_study"]

_UID = re.compile(r"[0-9.]{1,64}")
_REMEDIES = {401: "Put user and password into ~/.netrc.", 404: "Is the address right (--dicomweb)?"}


def check_address(url):
    """Return the address of a DICOMweb server, without a slash at its end; None where there is none."""
    if url is None:
        return None
    if not re.fullmatch(r"https?://[^/?#\s]+(/[^?#\s]*)?", url):
        raise ValueError("--dicomweb must be an address such as https://pacs.example/dicom-web. Got another.")
    return url.rstrip("/")


def pull_study(folder, url, study, pattern, limits):
    """Write the MR, SEG and RTSTRUCT files of a study into ``files`` of a folder.

    Nothing but `url` is connected to: addresses in answers are not followed, redirects are refused. User and
    password come from the address or ``~/.netrc``. Where `pattern` fits an MR series, other MR is left out.
    """
    import requests
    from dicomweb_client import DICOMwebClient

    if not _UID.fullmatch(study):
        raise ValueError("'study' must be a StudyInstanceUID: up to 64 digits and points.")
    session, number, left = requests.Session(), 0, limits.upload_bytes
    session.max_redirects = 0
    for name in ("files", "mask"):
        Path(folder, name).mkdir()
    try:
        client = DICOMwebClient(url, session)
        client.set_http_retry_params(retry=False)
        for uid in _chosen(client.search_for_series(study), pattern):
            for dataset in client.iter_series(study, uid):
                number += 1
                dataset.save_as(path := Path(folder, "files", f"{number}.dcm"))
                left -= path.stat().st_size
                if left < 0 or number > limits.n_files:
                    most = (
                        f"{limits.n_files} files and {limits.upload_bytes >> 20} MB of MR, SEG and RTSTRUCT"
                    )
                    raise DicomError(f"A study may have {most}. Name its T1c series by a pattern (series).")
    except requests.TooManyRedirects as err:
        raise OSError("The DICOMweb server sends on to another address. Give that one (--dicomweb).") from err
    except requests.HTTPError as err:
        status = err.response.status_code
        raise OSError(f"The DICOMweb server answered {status}. {_REMEDIES.get(status, '')}".strip()) from err
    except DicomError:
        raise
    except Exception as err:  # whatever a server may send
        raise OSError(f"The DICOMweb server sent no study ({type(err).__name__}).") from err


def _chosen(series, pattern):
    """Return the UIDs of the series, as QIDO-RS lists them, that are worth reading."""
    names = {"kind": "00080060", "name": "0008103E", "uid": "0020000E"}
    listed = [
        {n: str((one.get(tag, {}).get("Value") or [""])[0]) for n, tag in names.items()} for one in series
    ]
    images = [one for one in listed if one["kind"] == "MR"]
    if not images:
        raise DicomError("The DICOMweb server has no MR series of this study, or no study of this UID.")
    fits = check_pattern(pattern or "", "series").search
    named = [one for one in images if fits(one["name"]) or fits(one["uid"])] or images
    masks = [one for one in listed if one["kind"] in ("SEG", "RTSTRUCT")]
    return [one["uid"] for one in named + masks if _UID.fullmatch(one["uid"])]
