"""A study of a DICOMweb server, by its UID."""

import re
from pathlib import Path

from tumorsim._validation import check_pattern
from tumorsim.exceptions import DicomError

_TAGS = ("00080060", "0008103E", "0020000E")  # modality, description and UID of a series
_REMEDIES = {3: "It sends on to another address: give that one (--dicomweb).", 4: "See address and ~/.netrc."}


def check_address(url):
    """Return the address of a DICOMweb server, without a slash at its end; None where there is none."""
    if url is not None and not re.fullmatch(r"https?://[^/?#\s]+(/[^?#\s]*)?", url):
        raise ValueError("--dicomweb must be an address such as https://pacs.example/dicom-web. Got another.")
    return url and url.rstrip("/")


def pull_study(folder, url, study, pattern, limits):
    """Write the MR, SEG and RTSTRUCT files of a study into ``files`` of a folder.

    Nothing but `url` is connected to: addresses in answers are not followed, redirects are refused. User and
    password come from the address or ``~/.netrc``. Where `pattern` fits an MR series, other MR is left out.
    """
    import requests
    from dicomweb_client import DICOMwebClient

    if not re.fullmatch(r"[0-9.]{1,64}", study):
        raise ValueError("'study' must be a StudyInstanceUID: up to 64 digits and points.")
    for name in ("files", "mask"):
        Path(folder, name).mkdir()
    fits = check_pattern(pattern or "", "series").search
    session, number, left = requests.Session(), 0, limits.upload_bytes
    session.max_redirects = 0
    try:
        client = DICOMwebClient(url, session)
        client.set_http_retry_params(retry=False)
        for uid in _chosen(client.search_for_series(study), fits):
            for dataset in client.iter_series(study, uid):
                number += 1
                dataset.save_as(path := Path(folder, "files", f"{number}.dcm"))
                left -= path.stat().st_size
                if left < 0 or number > limits.n_files:
                    most = f"{limits.n_files} files and {limits.upload_bytes >> 20} MB of MR, SEG, RTSTRUCT"
                    raise DicomError(f"A study may have {most}. Name its T1c series by a pattern (series).")
    except DicomError:
        raise
    except Exception as err:  # whatever a server may send
        status = getattr(getattr(err, "response", None), "status_code", None)
        remedy = _REMEDIES.get((status or 0) // 100, "")
        raise OSError(
            f"The DICOMweb server sent no study ({status or type(err).__name__}). {remedy}"
        ) from err


def _chosen(series, fits):
    """Return the UIDs of the series, as QIDO-RS lists them, that are worth reading."""
    listed = [[str((one.get(tag, {}).get("Value") or [""])[0]) for tag in _TAGS] for one in series]
    images = [(name, uid) for kind, name, uid in listed if kind == "MR"]
    if not images:
        raise DicomError("The DICOMweb server has no MR series of this study, or no study of this UID.")
    named = [uid for name, uid in images if fits(name) or fits(uid)] or [uid for _, uid in images]
    return named + [uid for kind, _, uid in listed if kind in ("SEG", "RTSTRUCT")]
