"""Files that nobody vouches for: bounded on their way in, and read in a process of their own."""

import asyncio
import json
import logging
import multiprocessing
import os
import re
import shutil
import stat
import warnings
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

import tumorsim
from tumorsim._validation import words_of
from tumorsim.io import ORIENTATION_REMEDY, ORIENTATION_UNKNOWN, file_stems
from tumorsim.io.dicom import save_seg
from tumorsim.manifest import load_dicom_case
from tumorsim.records import Case
from tumorsim.rendering import display_window, find_background

_IMAGES = re.compile(r"\.(nii|nii\.gz|nrrd|mgz)$", re.IGNORECASE)
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # nothing of what is sent is logged
_DAMAGED = "What was sent came damaged, or not whole. Send it again."


@dataclass(frozen=True)
class Limits:
    """What a server takes before it refuses: bytes, seconds and numbers.

    ``read_*`` is what one process may use that reads a scan; ``n_uploads`` and ``n_waiting`` are uploads and
    requests for the model at once, ``n_scans`` and ``n_queries`` what is kept, the oldest go first.
    """

    upload_bytes: int = 2**29
    unpacked_bytes: int = 2**31
    n_files: int = 4000
    upload_seconds: float = 120.0
    read_seconds: float = 60.0
    read_bytes: int = 2**32
    n_uploads: int = 3
    n_waiting: int = 8
    n_scans: int = 20
    n_queries: int = 200


def bounded(request, n_bytes):
    """Return a request whose body ends with an error beyond a number of bytes."""
    left = n_bytes

    async def receive():
        nonlocal left
        message = await request.receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise HTTPException(413, f"This may have at most {n_bytes:,} bytes. Got more.")
        return message

    return Request(request.scope, receive)


class Form:
    """A form whose files go to the disk as they come, and none stays open.

    ``files`` lists (name of the part, name of the file, path), ``fields`` has the other parts as text.
    """

    def __init__(self, content_type, folder, n_files):
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data":
            raise HTTPException(415, "A scan is sent as multipart/form-data, or is a study's UID as JSON.")
        self.folder, self.n_files, self.files, self.fields, self.whole = folder, n_files, [], {}, False
        names = ("part_begin", "header_field", "header_value", "headers_finished", "part_data", "part_end")
        calls = {f"on_{name}": getattr(self, f"_{name}") for name in names}
        calls |= {"on_header_begin": lambda: self._head.append([b"", b""]), "on_end": self._end}
        self.write = MultipartParser(options.get(b"boundary", b"")[:256], calls).write

    def _part_begin(self):
        self._head = []

    def _header_field(self, data, start, end):
        self._head[-1][0] += data[start:end].lower()

    def _header_value(self, data, start, end):
        self._head[-1][1] += data[start:end]

    def _headers_finished(self):
        about = parse_options_header(dict(self._head).get(b"content-disposition"))[1]
        self._part, name = (about.get(key, b"").decode(errors="replace") for key in (b"name", b"filename"))
        self._is_file, self._target = b"filename" in about, BytesIO()
        if len(self.files) >= self.n_files or len(self.fields) >= 20:
            raise HTTPException(413, f"A scan may have {self.n_files} files and 20 fields. Got more.")
        if self._is_file:
            self.files.append((self._part, name, path := self.folder / f"{len(self.files)}"))
            self._target = open(path, "xb")

    def _part_data(self, data, start, end):
        self._target.write(data[start:end])
        if not self._is_file and self._target.tell() > 10_000:
            raise HTTPException(413, "A field may have 10,000 bytes. Got more.")

    def _part_end(self):
        if not self._is_file:
            self.fields[self._part] = self._target.getvalue().decode(errors="replace")
        self._target.close()

    def _end(self):
        self.whole = True


async def read_files(request, folder, limits, *, keep=True):
    """Write the parts ``files`` and ``mask`` of a form into folders; return its other fields."""
    request = bounded(request, limits.upload_bytes)
    try:
        async with asyncio.timeout(limits.upload_seconds):
            if not keep:  # a client hears why it is refused once its body is read
                async for _ in request.stream():
                    pass
                return {}
            form = Form(request.headers.get("content-type"), folder, limits.n_files)
            async for chunk in request.stream():
                await asyncio.to_thread(form.write, chunk)
    except TimeoutError as err:
        raise HTTPException(408, f"An upload may take {limits.upload_seconds:g} s. It took longer.") from err
    except (ClientDisconnect, ValueError) as err:
        raise HTTPException(400, _DAMAGED) from err
    if not form.whole:
        raise HTTPException(400, _DAMAGED)
    for where in ("files", "mask"):
        (folder / where).mkdir()
        own = [(name, path) for part, name, path in form.files if part == where]
        for (_, path), name in zip(own, _names(name for name, _ in own), strict=True):
            path.rename(folder / where / name)
    return form.fields


def run_apart(function, *args, limits):
    """Return what a function returns as JSON in a process of its own, with its warnings."""
    known = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if known else "spawn")
    context.set_forkserver_preload([__name__])
    near, far = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(far, limits, function, args), daemon=True)
    process.start()
    far.close()
    try:
        if not near.poll(limits.read_seconds):
            raise HTTPException(422, f"The scan could not be read within {limits.read_seconds:g} s.")
        said = json.loads(near.recv_bytes())
    except EOFError as err:
        raise HTTPException(422, "The process that read the scan broke down; it may be damaged.") from err
    finally:
        process.kill()
        process.join()
        near.close()
    if "problem" in said:
        raise HTTPException(422 if said["mendable"] else 500, said["problem"])
    return said["result"], said["notes"]


def _work(pipe, limits, function, args):
    """Send what a function returns or raises, with little memory, and nothing printed."""
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    with suppress(ImportError):  # Windows
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (limits.read_bytes, limits.read_bytes))
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits.unpacked_bytes, limits.unpacked_bytes))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            said = {"result": function(*args)}
        except Exception as err:
            mendable, text = words_of(err)
            said = {"mendable": mendable, "problem": text if mendable else type(err).__name__}
    notes = [str(one.message) for one in caught if one.category is UserWarning]
    pipe.send_bytes(json.dumps(said | {"notes": list(dict.fromkeys(notes))}).encode())


def read_scan(folder, limits, options):
    """Read what was sent into `folder`; leave image.npy and mask.npy there; return what is known."""
    os.chdir(folder)  # messages name files without the folder
    for where in ("files", "mask"):
        for path in list(Path(where).iterdir()):
            if zipfile.is_zipfile(path):
                _unpack(path, limits)
    masks, files = sorted(Path("mask").iterdir()), sorted(Path("files").iterdir())
    images = [path for path in files if _IMAGES.search(path.name)]
    if (len(files) != 1 and images) or not files or len(masks) > 1:
        got = f"Got {len(files)} files, {len(images)} of them images, and {len(masks)} masks."
        raise ValueError(
            f"A scan is one NIfTI or NRRD file, or one patient's DICOM; a mask is one file. {got}"
        )
    mask, options = (masks or [None])[0], {name: value or None for name, value in options.items()}
    with open(files[0], "rb") as opened:
        dicom = len(files) > 1 or opened.read(132)[128:] == b"DICM"
    if dicom:
        case, _ = load_dicom_case("files", with_mask=mask is None, **options)
        case = Case(case.image, mask or case.mask, case_id=case.case_id, patient_id=case.patient_id)
    else:
        name = files[0].name
        ids = {"case_id": _IMAGES.sub("", name), "patient_id": options["patient_id"] or "unknown"}
        case = Case(files[0].rename(name), mask, **ids)
        if not case.states_orientation:
            warnings.warn(f"The file {ORIENTATION_UNKNOWN}. {ORIENTATION_REMEDY}", stacklevel=1)
    case.check_grid()
    image = case.load_image()
    np.save("image.npy", image)
    if case.has_mask:
        np.save("mask.npy", case.load_mask())
    part = image[tuple(slice(None, None, 1 + n // 128) for n in image.shape)]
    window = display_window(part, background=find_background(image))
    known = {"case_id": case.case_id, "patient_id": case.patient_id, "affine": case.affine.tolist()}
    values, inside = len(np.unique(part)), image[1:] != image[0, 0, 0]
    known["mask_like"] = mask is None and values <= 16  # a scan has more gray values
    if mask is None and values > 16 and np.mean(image[1:][inside] == image[:-1][inside]) > 0.5:
        taken = f"'{files[0].name}' was taken for a scan, but has {values} values in even areas, as masks do."
        warnings.warn(f"{taken} Send a mask beside its scan, with 'mask' in its name.", stacklevel=1)
    return known | {"window": window, "dicom": dicom, "has_mask": case.has_mask}


def write_seg(folder, options):
    """Write seg.dcm of mask seg.npy in `folder` that refers to the DICOM which was sent there."""
    os.chdir(folder)
    _, scan = load_dicom_case("files", with_mask=False, series=options["series"])
    save_seg("seg.dcm", np.load("seg.npy"), scan, version=tumorsim.__version__)


def _unpack(path, limits):
    """Put the files of a zip in its place, under names without folders; no links, and not too many bytes."""
    path = path.rename(path.with_name(".zip"))  # no name of ours begins with a point
    with zipfile.ZipFile(path) as archive:
        infos = [one for one in archive.infolist() if not one.is_dir() and "__MACOSX/" not in one.filename]
        size = sum(one.file_size for one in infos)
        if len(infos) > limits.n_files or size > limits.unpacked_bytes:
            most = f"{limits.n_files} files and {limits.unpacked_bytes >> 20} MB"
            raise ValueError(f"A zip may hold {most}. Got {len(infos)} files and {size >> 20} MB.")
        for info, name in zip(infos, _names(one.filename for one in infos), strict=True):
            steps = re.split(r"[\\/]", info.filename)
            if stat.S_ISLNK(info.external_attr >> 16) or ".." in steps or not steps[0] or ":" in steps[0]:
                raise ValueError("A zip may hold files below its own folder only, and no links. Got others.")
            try:
                with archive.open(info) as source, open(path.with_name(name), "xb") as target:
                    shutil.copyfileobj(source, target)
            except (RuntimeError, NotImplementedError, zipfile.BadZipFile) as err:
                raise ValueError("The zip is damaged, has a password, or a rare way of packing.") from err
    path.unlink()


def _names(names):
    """Return safe names of files for those that a client gave, no two the same."""
    return file_stems(re.split(r"[\\/]", name or "scan")[-1][-50:] for name in names)
