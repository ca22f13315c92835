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


volume = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")[0]
segmentation = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")[0]
drawn = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
logic = slicer.modules.segmentations.logic()
logic.ExportVisibleSegmentsToLabelmapNode(segmentation, drawn, volume)
with tempfile.TemporaryDirectory() as folder:
    paths = {"files": pathlib.Path(folder, "scan.nii.gz"), "mask": pathlib.Path(folder, "mask.nii.gz")}
    slicer.util.saveNode(volume, str(paths["files"]))
    slicer.util.saveNode(drawn, str(paths["mask"]))
    parts = {name: (path.name, path.read_bytes()) for name, path in paths.items()}
slicer.mrmlScene.RemoveNode(drawn)
scan = call("POST", "/scans", files=parts).json()
answer = call("POST", "/queries", json={"scan": scan["id"]}).json()
sheet = pathlib.Path(tempfile.mkdtemp(), "answer.html")
sheet.write_bytes(call("GET", f"/queries/{answer['id']}.html").content)
webbrowser.open(sheet.as_uri())
