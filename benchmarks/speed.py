"""What a scan costs from file to embedding, step by step, beside the floor of its convolutions and radiomics.

    python -m benchmarks.speed
    python -m benchmarks.speed --repeats 9 --json > speed.json

Scans are made here: a head of 240 x 240 x 155 voxels at 1 mm with 1 and with 10 tumors, thick slices
(512 x 512 x 24), and 512 x 512 x 120. Seconds are CPU seconds on one thread, the least of the repeats, since
whatever else the machine does can only add; "spread" is the largest over the least. The floor is the same
convolutions, at the same shapes, run alone in the same process. Beside it: mirp, and PyRadiomics where it is
installed.
"""

import argparse
import contextlib
import json
import resource
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from tumorsim import Case, Cohort, Tumor, TumorEmbedder
from tumorsim.geometry import bbox_from_mask, to_ras
from tumorsim.inference import embed_boxes, embed_tumors
from tumorsim.io import load_image, save_nifti
from tumorsim.preprocessing import normalize_intensity, resample

SCANS = {  # name → shape, spacing in mm, radii of the tumors in mm
    "1 mm, 1 tumor": ((240, 240, 155), (1, 1, 1), (22,)),
    "1 mm, 10 tumors": ((240, 240, 155), (1, 1, 1), (22, *range(4, 13))),
    "thick slices": ((512, 512, 24), (0.47, 0.47, 6.5), (22,)),
    "512 x 512 x 120": ((512, 512, 120), (0.47, 0.47, 1.4), (22,)),
}
MKLDNN = torch.ops.aten.mkldnn_convolution


def main():
    """Measure, print tables or JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--model", help="model file; default: the shipped weights")
    parser.add_argument("--no-radiomics", action="store_true")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.model:
        embedder = TumorEmbedder.load(args.model, device="cpu")
    else:
        embedder = TumorEmbedder.from_pretrained(device="cpu")
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (shape, spacing, radii) in SCANS.items():
            tumors = make_scan(Path(folder) / "scan.nii.gz", shape, spacing, radii)
            results[name] = measure(embedder, tumors, args.repeats)
            if not args.no_radiomics:
                results[name] |= radiomics(tumors, args.repeats)
            if not args.json:
                show(name, results[name])
    if args.json:
        print(json.dumps(results, indent=2))


def make_scan(path, shape, spacing, radii):
    """Write a head with tumors, int16 as scanners do, and return its tumors; `radii` in mm."""
    rng = np.random.default_rng(0)
    axes = [(np.arange(n) + 0.5) * s - n * s / 2 for n, s in zip(shape, spacing, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    head = (x / 75) ** 2 + (y / 92) ** 2 + (z / 78) ** 2 < 1
    texture = ndimage.gaussian_filter(rng.normal(size=shape).astype(np.float32), [2 / s for s in spacing])
    image = np.where(head, 400 + 1500 * texture, 0)
    mask = np.zeros(shape, np.int16)
    for i, radius in enumerate(radii):
        turn = 2.4 * i  # spread by the golden angle
        at = (0.0, 0.0, 0.0) if i == 0 else (45 * np.cos(turn), 55 * np.sin(turn), 8 * i - 40)
        ball = sum((axis - c) ** 2 for axis, c in zip((x, y, z), at, strict=True)) < radius**2
        mask[ball & (mask == 0)] = i + 1
        image[ball] = 900 + 1500 * texture[ball]
    image += rng.normal(0, 12, size=shape)  # air has noise too, which gzip cannot shrink
    affine = np.diag([*spacing, 1.0])
    save_nifti(path, np.clip(image, 0, None).astype(np.int16), affine)
    case = Case(path, (mask, affine), case_id="scan", patient_id="p")
    return Cohort(
        Tumor(case, bbox_from_mask(mask == value), tumor_id=str(value), mask_value=value)
        for value in range(1, len(radii) + 1)
    )


def timed(function, repeats):
    """Return what a function returns, the least CPU seconds of the repeats, and the largest over it."""
    function()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        result = function()
        times.append(time.process_time() - start)
    return result, min(times), max(times) / min(times)


@torch.inference_mode()
def measure(embedder, tumors, repeats):
    """Return the CPU seconds of each step, spread, memory, counted work and the ratio to the floor."""
    network, preparing, case = embedder.network_, embedder.preprocessing_, tumors[0].case
    steps, spread = {}, {}

    def step(name, function):
        result, steps[name], spread[name] = timed(function, repeats)
        return result

    image = step("read", lambda: load_image(case.image)[0])
    ras = step("reorder", lambda: to_ras(image, case.affine))
    shape = preparing.shape_of(case.shape, case.affine)
    grid = step("resample", lambda: resample(ras, case.spacing, preparing.spacing, shape))
    step("normalize", lambda: normalize_intensity(grid, preparing.spacing).astype(np.float16))
    volume = preparing.prepare_case(case)
    padded, origin = preparing.pad(volume.image)
    boxes = volume.boxes([tumor.bbox for tumor in tumors]) + origin
    calls = []
    with recorded(calls), FlopCounterMode(display=False, custom_mapping={MKLDNN: count_flops}) as counter:
        embed_boxes(network, padded, boxes)
    step("network and pool", lambda: embed_boxes(network, padded, boxes))
    floor, _ = timed(lambda: [MKLDNN(*call) for call in calls], repeats)[1:]
    row = np.zeros((len(tumors), network.config["n_channels"]), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        step("write", lambda: np.save(Path(folder) / "row.npy", row))
    _, whole, spread["file to embedding"] = timed(
        lambda: embed_tumors(network, preparing, list(tumors)), repeats
    )
    gflop = counter.get_total_flops() / 1e9
    return {
        "CPU s": steps | {"file to embedding": whole},
        "spread": spread,
        "GFLOP": gflop,
        "floor CPU s": floor,
        "floor GFLOP/s": gflop / floor,
        "network / floor": steps["network and pool"] / floor,
        "NumPy's peak MB of reading and preparing": peak_mb(lambda: preparing.prepare_case(case)),
        "process's peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def count_flops(x, w, *unused, out_shape, **others):
    """Return the operations of oneDNN's convolution from shapes, as torch counts its own."""
    return conv_flop_count(x, w, out_shape)


@contextlib.contextmanager
def recorded(calls):
    """Note the arguments of every convolution."""
    original = torch.mkldnn_convolution

    def note(*arguments):
        calls.append(arguments)
        return original(*arguments)

    torch.mkldnn_convolution = note
    try:
        yield
    finally:
        torch.mkldnn_convolution = original


def peak_mb(function):
    """Return the largest memory of NumPy's arrays while a function runs, in MB."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def radiomics(tumors, repeats):
    """Return CPU seconds of mirp's features of all tumors, and PyRadiomics' where it is installed."""
    found, case = {}, tumors[0].case
    with contextlib.suppress(ImportError):
        from benchmarks.baselines import radiomics_features

        radiomics_features(list(tumors)[-1:])  # compiles
        fresh = [
            Tumor(t.case, t.bbox, tumor_id=f"{t.tumor_id} anew", mask_value=t.mask_value) for t in tumors
        ]
        start = time.process_time()
        radiomics_features(fresh)
        found["mirp CPU s"] = time.process_time() - start
    with contextlib.suppress(ImportError):
        import SimpleITK
        from radiomics import featureextractor

        extractor = featureextractor.RadiomicsFeatureExtractor()
        values, _ = case.mask

        def extract():
            image = SimpleITK.ReadImage(str(case.image))
            for tumor in tumors:
                own = SimpleITK.GetImageFromArray((values == tumor.mask_value).T.astype(np.uint8))
                own.CopyInformation(image)
                extractor.execute(image, own)

        found["PyRadiomics CPU s"] = timed(extract, min(repeats, 2))[1]
    return found


def show(name, result):
    """Print a scan's tables."""
    print(f"\n{name}\n{'step':24} {'CPU s':>8} {'spread':>7}")
    for step, seconds in result["CPU s"].items():
        print(f"{step:24} {seconds:8.3f} {result['spread'].get(step, float('nan')):7.2f}")
    for key, value in result.items():
        if not isinstance(value, dict):
            print(f"{key:42} {value:8.2f}")


if __name__ == "__main__":
    main()
