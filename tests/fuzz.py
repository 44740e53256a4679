"""Damaged files by the thousand, each of which must give a result or the documented error: ``make fuzz``.

A reader runs in a process of its own with an address space that lets it allocate 1 GB more than it had at the start.
An input is made from a valid seed by a few mutations that Hypothesis draws, so that what fails is shrunk, printed, and
found again by the same seed.
"""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import io
import json
import os
import pathlib
import re
import resource
import struct
import sys
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Sequence

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pydicom
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from pipeline import DatasetInfo, RecordsError, schema
from pipeline.directory import RecordsDirectory
from pipeline.index import read_index
from pipeline.manifest import FileInfo, ShardInfo
from preprocess.dicom import reader
from preprocess.findings import FatalInputError, Finding, InputError
from preprocess.geometry import masks, polygons
from preprocess.geometry.labels import label_map
from preprocess.inputs import contours
from preprocess.inputs.structure_sets import StructureSet
from preprocess.layouts.challenge import discover
from preprocess.layouts.sunnybrook_ids import CSV_NAME, PATIENTS, read_links
from preprocess.quality.myocardium import Wall

from .helpers.dicom import get_testdata_file
from .helpers.listed import Listed
from .helpers.structures import image, ring, saved, structure_set

MAX_SECONDS = 1.0
MAX_BYTES = 1 << 30

MAX_IMAGE_PIXELS = 1 << 24

_DICOM_SEEDS = (
    "MR_small.dcm",
    "MR_small_implicit.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_RLE.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "JPEG-lossy.dcm",
    "image_dfl.dcm",
)


def read_dicom(content: bytes) -> None:
    for read in (
        lambda file: reader.read_header(file, MAX_IMAGE_PIXELS),
        lambda file: reader.read_fingerprint(file, MAX_IMAGE_PIXELS),
        lambda file: reader.read_pixels(file, MAX_IMAGE_PIXELS),
    ):
        try:
            read(io.BytesIO(content))
        except InputError as error:
            assert error.reason in ("unreadable_image", "unsupported_image"), error.reason


def read_structure_set(content: bytes) -> None:
    try:
        found = StructureSet.read(io.BytesIO(content))
    except InputError as error:
        assert error.reason in ("unreadable_contour", "oversized_contour"), error.reason
        return
    for roi in found.rois:
        for instance in roi.images:
            header = dataclasses.replace(_IMAGE, sop_instance_uid=instance)
            try:
                masks.rasterize(found.polygon(roi.number, header), header.shape)
            except InputError as error:
                assert error.reason, error


def read_contour(content: bytes) -> None:
    try:
        masks.rasterize(contours.read_contour(io.BytesIO(content)), (256, 256))
    except InputError as error:
        assert error.reason, error


_BETWEEN_CONTOURS = b"\n--\n"
_NUMBERS = re.compile(rb"-?\d{1,6}(\.\d{0,9})? -?\d{1,6}(\.\d{0,9})?")


def read_both_contours(content: bytes) -> None:
    """The inner contour, a separator, the outer contour, without the lines that are not two numbers."""
    found = []
    for part in content.split(_BETWEEN_CONTOURS, 1):
        # Nearly all damage makes some line unreadable, and would end here; the target ``contour`` tries that.
        lines = [line for line in part.splitlines() if _NUMBERS.fullmatch(line)]
        try:
            found.append(contours.read_contour(io.BytesIO(b"\n".join(lines))))
        except InputError as error:
            assert error.reason, error
    if len(found) < 2:
        return
    inner, outer = found
    # Measured whether or not the label map can be drawn.
    wall = Wall.between(inner, outer, (1.5, 1.25))
    pixel = 1.5 * 1.25
    limit = max(polygons.area(inner), polygons.area(outer)) * pixel
    assert -1e-6 * limit <= wall.area_mm2 <= limit * (1 + 1e-6), wall
    assert 0 <= wall.thickness_mm < float("inf"), wall
    try:
        mask = masks.rasterize(inner, (256, 256))
        labels = label_map([("blood pool", inner), ("myocardium", outer)], schema.LABEL_CLASSES, (256, 256))
    except InputError as error:
        assert error.reason in ("outside_image", "degenerate_contour"), error.reason
        return
    assert labels.dtype == np.uint8
    assert {1, 2} <= set(np.unique(labels).tolist()) <= {0, 1, 2}
    # More than half of a pixel is most of it.
    assert (labels[mask] == 1).all()


@dataclasses.dataclass(frozen=True)
class OneFile:
    """A source of two studies, whose ``link.csv`` is given."""

    link: bytes
    name: str = "data"
    paths: Sequence[str] = (
        "contourfiles/C-1/i-contours/IM-0001-0001-icontour-manual.txt",
        "contourfiles/C-2/i-contours/IM-0001-0001-icontour-manual.txt",
        "dicoms/S-1/1.dcm",
        "dicoms/S-2/1.dcm",
        "link.csv",
    )
    findings: Sequence[Finding] = ()

    def open(self, path: str) -> io.BytesIO:
        assert path == "link.csv", path
        return io.BytesIO(self.link)


def read_link(content: bytes) -> None:
    try:
        studies, _ = discover(OneFile(content))
    except FatalInputError:
        return
    assert {(study.study_id, study.contour_id) for study in studies} <= {
        (f"S-{one}", f"C-{other}") for one in (1, 2) for other in (1, 2)
    }


def read_patients(content: bytes) -> None:
    links, findings = read_links(Listed({CSV_NAME: content}), [CSV_NAME])
    assert PATIENTS.items() <= links.items()
    assert len({*links.values()}) == len(links)
    assert {finding.reason for finding in findings} <= {"bad_link"}


def read_index_file(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory, "a.idx")
        path.write_bytes(content)
        # The digest matches, as in a forgery.
        digest = FileInfo.of(path)
        for count in (1, 3, 20):
            try:
                table = read_index(RecordsDirectory(directory), ShardInfo("a", count, 3 * 196_900, ""), digest)
            except RecordsError:
                continue
            assert table.shape == (count, 2)
            assert table[:, 1].sum() == 3 * 196_900


def read_manifest(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        for text in (content, signed(content)):
            pathlib.Path(directory, schema.MANIFEST_FILE).write_bytes(text)
            for read in (DatasetInfo.read, DatasetInfo.load):
                try:
                    info = read(directory)
                    assert info.cardinality >= 0
                    assert len(info.image_shape) == 3
                except RecordsError:
                    pass


def signed(content: bytes) -> bytes:
    """The manifest with the digest of its own text, as in a forgery."""
    try:
        fields = json.loads(content)
        del fields["sha256"]
        text = (json.dumps(fields, indent=2, sort_keys=True) + "\n").encode("ascii")
        fields["sha256"] = hashlib.sha256(text).hexdigest()
        return (json.dumps(fields, indent=2, sort_keys=True) + "\n").encode("ascii")
    except (ValueError, KeyError, TypeError, RecursionError):
        return content


def _dicom_seeds() -> list[bytes]:
    seeds = [pathlib.Path(get_testdata_file(name)).read_bytes() for name in _DICOM_SEEDS]
    # A file with little but the elements that are read, so that a mutation hits one of them.
    small = pydicom.dcmread(get_testdata_file("MR_small.dcm"))
    for element in [*small]:
        if element.keyword not in [*reader._HEADER_KEYWORDS, "PixelData"]:
            del small[element.tag]
    small.Rows = small.Columns = 8
    small.PixelData = bytes(range(128))
    for syntax in (None, DeflatedExplicitVRLittleEndian):
        buffer = io.BytesIO()
        small.file_meta.TransferSyntaxUID = syntax or small.file_meta.TransferSyntaxUID
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            small.save_as(buffer)
        seeds.append(buffer.getvalue())
    return seeds


def _contour_seeds() -> list[bytes]:
    points = [(128 + 0.5 * (i % 40), 100 + 0.5 * (i * i % 37)) for i in range(60)]
    square = b"100 100\n150 100\n150 150\n100 150\n"
    return ["".join(f"{x:.2f} {y:.2f}\r\n" for x, y in points).encode(), square, b"1e2,5\n\n.5 7e-1\n9 nan\n8 -inf\n"]


def _both_contours_seeds() -> list[bytes]:
    def ring(points: int, radius: float, x: float = 128) -> bytes:
        angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
        return b"".join(b"%.2f %.2f\n" % (x + radius * np.cos(a), 128 + radius * np.sin(a)) for a in angles)

    pairs = [
        (ring(40, 20), ring(50, 28)),
        # A thin wall, an inner contour that leaves its outer one, and a copy.
        (ring(9, 12), ring(9, 12.6)),
        (ring(12, 10), ring(12, 14, x=137)),
        (ring(5, 10), ring(5, 10)),
    ]
    return [_BETWEEN_CONTOURS.join(pair) for pair in pairs]


def _manifest_seeds() -> list[bytes]:
    digest = hashlib.sha256(b"").hexdigest()
    fields = {
        "format": schema.FORMAT_NAME,
        "schema_version": schema.SCHEMA_VERSION,
        "tool_version": "0",
        "settings": {"contours": "i", "exclude": [["A", 3]]},
        "image": {"shape": [6, 5, 1], "dtype": "int16"},
        "mask": {"shape": [6, 5, 1], "dtype": "bool"},
        "splits": {
            "train": {"studies": ["A"], "shards": [{"name": "a", "count": 0, "bytes": 0, "sha256": digest}]},
            "val": {"studies": ["B"], "shards": []},
        },
        "files": {"audit.csv": {"bytes": 0, "sha256": digest}},
        "sha256": "",
    }
    labels = {"shape": [6, 5, 1], "dtype": "uint8", "classes": list(schema.LABEL_CLASSES)}
    binary = {**fields, "schema_version": 1}
    return [signed(json.dumps(content).encode()) for content in (binary, {**fields, "mask": labels})]


_IMAGE = dataclasses.replace(
    reader.read_header(io.BytesIO(saved(image("1.2.1.1"))), MAX_IMAGE_PIXELS), slice_thickness_mm=1e5
)
"""The image on which the contours of the seeds are drawn, from so far away that damaged ones still are."""


def _structure_set_seeds() -> list[bytes]:
    small, inside = [(20.0, 15.0), (50.0, 15.0), (35.0, 45.0)], [(30.0, 18.0), (40.0, 18.0), (35.0, 30.0)]
    dataset = structure_set(
        one=[ring("1.2.1.1", small)],
        two=[ring("1.2.1.2", small), ring("1.2.1.2", inside)],
        xor=[ring("1.2.1.3", points, "CLOSEDPLANAR_XOR") for points in (small, inside)],
    )
    seeds = [saved(dataset)]
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    seeds.append(saved(dataset))
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for element in dataset.iterall():
        if element.VR == "SQ":
            element.is_undefined_length = True
    return [*seeds, saved(dataset)]


TARGETS: dict[str, tuple[Callable[[bytes], None], Callable[[], list[bytes]]]] = {
    "dicom": (read_dicom, _dicom_seeds),
    "contour": (read_contour, _contour_seeds),
    "both_contours": (read_both_contours, _both_contours_seeds),
    "structure_set": (read_structure_set, _structure_set_seeds),
    "link": (
        read_link,
        lambda: [
            b"\xef\xbb\xbfpatient_id,original_id\r\nS-1,C-1\r\nS-2,C-2\r\n",
            b'patient_id,original_id\n"S-1","C-2"\n',
        ],
    ),
    "patients": (
        read_patients,
        lambda: [
            b"PatientID,OriginalID,Gender,Age,Pathology\r\nSCD0000101,SC-HF-I-1,Male,77,1\r\nSCD0004601,SC-N-50,,,\r\n",
            b'PatientID,OriginalID\n"SCD0004601",SC-N-50\nSCD0004701,SC-N-050\n',
        ],
    ),
    "index": (read_index_file, lambda: [b"0 196900\n196900 196900\n393800 196900\n", b"0 590700\n"]),
    "manifest": (read_manifest, _manifest_seeds),
}

_BOUNDARIES = [
    struct.pack(f"{order}{kind}", number & (1 << 8 * size) - 1)
    for order in "<>"
    for kind, size in (("B", 1), ("H", 2), ("I", 4), ("Q", 8))
    for number in (0, 1, -1, -2, 1 << 8 * size - 1, (1 << 8 * size - 1) - 1)
]
# Numbers and paths as text, and markers of the formats.
_WORDS = [
    *(b"nan", b"-inf", b"1e308", b"1e999", b"-1", b"0", b"9" * 40, b"1" * 3000, b"65536", b"4294967296", b"2147483648"),
    *(
        b"../",
        b"/etc/passwd",
        b"C:\\",
        b"\x00",
        b"\n",
        b"\r",
        b'"',
        b",",
        b"[" * 2000,
        b"{}",
        b"null",
        b"true",
        b"1e400",
    ),
    *(b"\xfe\xff\x00\xe0\xff\xff\xff\xff", b"\xfe\xff\x0d\xe0\x00\x00\x00\x00", b"SQ\x00\x00\xff\xff\xff\xff"),
    *(b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.5\x00", b"1.2.840.10008.1.2.4.90", b"1.2.840.10008.1.2.4.80"),
]


_MUTATIONS = ("flip", "set", "cut", "remove", "insert", "repeat", "boundary", "word", "swap")


@st.composite
def damaged(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """A seed after one to eight mutations, or random bytes."""
    if draw(st.integers(0, 15)) == 0:
        return draw(st.binary(max_size=600))
    content = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 8))):
        # Most of a file is pixels, but most errors lie in what precedes them.
        end = len(content) if draw(st.booleans()) else min(len(content), 1500)
        at = draw(st.integers(0, end))
        removed, inserted = _mutation(draw, content[at : at + 64])
        content = content[:at] + inserted + (b"" if removed is None else content[at + removed :])
    return content


def _mutation(draw: st.DrawFn, there: bytes) -> tuple[int | None, bytes]:
    """How many bytes to remove (None: all up to the end of the file), and the bytes to insert there."""
    size = draw(st.integers(1, 64))
    match draw(st.sampled_from(_MUTATIONS)):
        case "flip":
            return 1, bytes(byte ^ 1 << size % 8 for byte in there[:1])
        case "set":
            return 1, draw(st.binary(min_size=1, max_size=1))
        case "cut":
            return None, b""
        case "remove":
            return size, b""
        case "insert":
            return 0, draw(st.binary(min_size=1, max_size=32))
        case "repeat":
            return 0, there[:size] * draw(st.integers(1, 200))
        case "boundary":
            word = draw(st.sampled_from(_BOUNDARIES))
            return len(word), word
        case "word":
            word = draw(st.sampled_from(_WORDS))
            return draw(st.sampled_from([0, len(word)])), word
        case _:
            size //= 4
            return 2 * size, there[size : 2 * size] + there[:size]


def fuzz(name: str, count: int, seed: int) -> None:
    """Runs a target on ``count`` inputs.

    Raises:
        Exception: an input gave neither a result nor the documented error; Hypothesis adds the input, shrunk.
    """
    read, make_seeds = TARGETS[name]
    seeds = make_seeds()
    for content in seeds:
        # Imports what is imported on first use, before the limits apply.
        read(content)
    slowest = [0.0]

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
        suppress_health_check=list(hypothesis.HealthCheck),
        print_blob=True,
    )
    @hypothesis.given(damaged(seeds))
    def one(content: bytes) -> None:
        start = time.process_time()
        try:
            read(content)
            seconds = time.process_time() - start
            slowest[0] = max(slowest[0], seconds)
            assert seconds <= MAX_SECONDS, f"{seconds:.2f} s"
        except BaseException:
            hypothesis.note(f"zlib+hex: {zlib.compress(content).hex()}")
            raise

    gc.collect()
    limit = _address_space() + MAX_BYTES
    # Only the soft limit: a user cannot raise the hard limit again for the next reader.
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
    one()
    print(f"{name}: {count} inputs, seed {seed}, slowest {slowest[0]:.3f} s", flush=True)


def _address_space() -> int:
    return int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def main(arguments: Sequence[str]) -> None:
    """``python -m tests.fuzz [COUNT [SEED [TARGET …]]]``: count 100,000, a random seed and all targets."""
    warnings.simplefilter("error")
    count = int(arguments[0]) if arguments else 100_000
    seed = int(arguments[1]) if len(arguments) > 1 else int.from_bytes(os.urandom(4), "big")
    for name in arguments[2:] or TARGETS:
        print(f"{name}: again with python -m tests.fuzz {count} {seed} {name}", flush=True)
        fuzz(name, count, seed)


if __name__ == "__main__":
    main(sys.argv[1:])
