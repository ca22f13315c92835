"""3D Slicer: query with the first volume and the first segmentation; paste into its Python console.

Set SERVER and TOKEN. The answer sheet opens in the system's browser.
"""

import pathlib
import tempfile
import webbrowser

import requests
import slicer

SERVER, TOKEN = "http://127.0.0.1:8765", "the token of 'tumorsim serve --token'"


def call(method, path, **more):
    """Return a response, or raise with the server's words."""
    response = requests.request(method, SERVER + path, headers={"Authorization": f"Bearer {TOKEN}"}, **more)
    if not response.ok:
        raise RuntimeError(response.json()["error"])
    return response


folder = pathlib.Path(tempfile.mkdtemp())
volume = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")[0]
segmentation = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")[0]
mask = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
logic = slicer.modules.segmentations.logic()
logic.ExportVisibleSegmentsToLabelmapNode(segmentation, mask, volume)
slicer.util.saveNode(volume, str(folder / "scan.nii.gz"))
slicer.util.saveNode(mask, str(folder / "mask.nii.gz"))
slicer.mrmlScene.RemoveNode(mask)
with open(folder / "scan.nii.gz", "rb") as image, open(folder / "mask.nii.gz", "rb") as drawn:
    scan = call("POST", "/scans", files={"files": image, "mask": drawn}).json()
answer = call("POST", "/queries", json={"scan": scan["id"]}).json()
sheet = folder / "answer.html"
sheet.write_bytes(call("GET", f"/queries/{answer['id']}.html").content)
webbrowser.open(sheet.as_uri())
