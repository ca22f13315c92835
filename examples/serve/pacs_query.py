"""A PACS script: query with a study, keep the answer sheet and the SEG of what it queried with.

TUMORSIM_TOKEN=… python pacs_query.py http://127.0.0.1:8765 STUDY OUTPUT_FOLDER

STUDY is a folder of DICOM, or a StudyInstanceUID where the server was started with --dicomweb.
"""

import os
import sys
import time
from pathlib import Path

import requests


def call(method, address, **more):
    """Return a response; wait while the server is busy, and stop with its words where it refuses."""
    headers = {"Authorization": f"Bearer {os.environ['TUMORSIM_TOKEN']}"}
    while (response := requests.request(method, address, headers=headers, **more)).status_code == 503:
        time.sleep(int(response.headers["Retry-After"]))
    if not response.ok:
        raise SystemExit(response.json()["error"])
    return response


def main(server, study, output):
    """Query with the lesions of the study's SEG or RTSTRUCT."""
    if Path(study).is_dir():
        paths = [path for path in sorted(Path(study).rglob("*")) if path.is_file()]
        files = [("files", (path.name, path.read_bytes())) for path in paths]
        scan = call("POST", f"{server}/scans", files=files).json()
    else:
        scan = call("POST", f"{server}/scans", json={"study": study}).json()
    if not scan["lesions"]:
        raise SystemExit("The study has no contour of a tumor. Draw one, or use the page.")
    answer = call("POST", f"{server}/queries", json={"scan": scan["id"]}).json()
    for kind, name in (("html", "answer.html"), ("seg", "tumor.dcm")):
        content = call("GET", f"{server}/queries/{answer['id']}.{kind}").content
        Path(output, name).write_bytes(content)
    call("DELETE", f"{server}/scans/{scan['id']}")


if __name__ == "__main__":
    main(*sys.argv[1:])
