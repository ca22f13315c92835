"""Send a study of an Orthanc to a running 'tumorsim serve', and print the nearest tumors.

TUMORSIM_TOKEN=… python orthanc_query.py http://127.0.0.1:8042 STUDY_INSTANCE_UID http://127.0.0.1:8765
"""

import sys

import requests
from pacs_query import call


def main(orthanc, study_uid, server):
    """Query with the lesions of the study's SEG or RTSTRUCT."""
    found = requests.post(
        f"{orthanc}/tools/find", json={"Level": "Study", "Query": {"StudyInstanceUID": study_uid}}
    )
    found.raise_for_status()
    if not found.json():
        raise SystemExit("Orthanc holds no such study.")
    packed = requests.get(f"{orthanc}/studies/{found.json()[0]}/archive")
    packed.raise_for_status()
    scan = call("POST", f"{server}/scans", files={"files": ("study.zip", packed.content)}).json()
    answer = call("POST", f"{server}/queries", json={"scan": scan["id"]}).json()
    for query in answer["queries"]:
        for neighbor in query["neighbors"]:
            print(query["tumor_id"], neighbor["rank"], neighbor["tumor_id"], f"{neighbor['distance']:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
