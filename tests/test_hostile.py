"""Files made to do harm: each gives an error or an audit row that names it, and affects nothing else."""

import contextlib
import io
import json
import os
import pathlib
import re
import shutil
import stat
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pydicom
import pytest
import shapely
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLSLossless,
    RLELossless,
)

from pipeline import DatasetInfo, Records, RecordsError, schema, verify
from pipeline.__main__ import describe
from pipeline.directory import RecordsDirectory
from pipeline.index import read_index
from pipeline.manifest import FileInfo, ShardInfo
from preprocess import phantom
from preprocess.config import Config
from preprocess.dicom import part10, reader
from preprocess.findings import FatalInputError, InputError
from preprocess.geometry import masks, polygons
from preprocess.inputs import archives, contours, folders
from preprocess.inputs.sources import open_source
from preprocess.layouts.challenge import discover
from preprocess.model import Contours
from preprocess.run import run

from .fuzz import signed
from .helpers import ROOT
from .helpers.dicom import LIMIT, changed, get_testdata_file, setting
from .helpers.records import pairs_of
from .helpers.synthetic import Synthetic
from .helpers.tables import audit_of
from .helpers.trees import contents, contour, image, zipped

MIB = 1 << 20

READERS = (
    lambda file: reader.read_header(file, LIMIT),
    lambda file: reader.read_fingerprint(file, LIMIT),
    lambda file: reader.read_pixels(file, LIMIT),
)


@pytest.fixture
def allocated() -> Iterator[Callable[[], int]]:
    """The most bytes that Python had allocated at once since the test started."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


# Archives and folders.


@pytest.mark.parametrize(
    "name",
    [
        "../dicoms/PHANTOM001/2.dcm",
        "dicoms/../../PHANTOM001/2.dcm",
        "dicoms/PHANTOM001/..",
        "/dicoms/PHANTOM001/2.dcm",
        "C:/dicoms/PHANTOM001/2.dcm",
        "c:2.dcm",
        "dicoms\\PHANTOM001\\2.dcm",
        "dicoms/PHANTOM001/..\\2.dcm",
        "dicoms/PHANTOM001/2.dcm\x00.txt",
        "dicoms/PHANTOM001/\x1b[2J2.dcm",
        "\x00",
        "",
    ],
)
def test_an_entry_that_leads_out_of_its_archive_is_refused(
    tree: pathlib.Path, tmp_path: pathlib.Path, name: str
) -> None:
    entry = zipfile.ZipInfo("entry")
    # Set after construction, because zipfile corrects some of these names.
    entry.filename = entry.orig_filename = name
    path = zipped(tree, tmp_path / "data.zip", (entry, image(tree, 9).read_bytes()))
    source = open_source(path)
    assert len(source.paths) == len(contents(tree))
    studies, (finding,) = discover(source)
    assert list(studies[0].images) == [1, 9, 10, 21, 29]
    assert (finding.reason, finding.path, finding.level) == ("junk", ".", "error")
    assert finding.detail.startswith("1 entry refused: the name leads out of the archive")
    summary = run(Config(path, tmp_path / "records"))
    assert (summary.records, summary.left_out) == ({"train": 8}, {"junk": 1})
    assert {item.name for item in tmp_path.iterdir()} == {"tree", "data.zip", "records"}


def test_a_name_with_dots_is_not_refused(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path = zipped(tree, tmp_path / "data.zip", ("a..b/...txt", b""), ("..c/x", b""))
    assert open_source(path).findings == ()


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../secret", "1.dcm"])
def test_a_symbolic_link_in_an_archive_is_not_followed(tree: pathlib.Path, tmp_path: pathlib.Path, target: str) -> None:
    image(tree, 9).unlink()
    entry = zipfile.ZipInfo("dicoms/PHANTOM001/9.dcm")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    path = zipped(tree, tmp_path / "data.zip", (entry, target.encode()))
    assert run(Config(path, tmp_path / "records")).records == {"train": 7}
    (row,) = [row for row in audit_of(tmp_path / "records") if row["reason"] == "unreadable_image"]
    assert row["path"] == "dicoms/PHANTOM001/9.dcm"
    assert row["detail"] == (
        "cannot be read: it is a symbolic link, which is not followed in an archive; put a readable file in its place"
    )


def test_links_in_a_folder_are_followed_and_loops_end(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    store = tmp_path / "store"
    image(tree, 9).rename(store)
    image(tree, 9).symlink_to(store)
    for name in ("loop", "dicoms/PHANTOM001/loop"):
        (tree / name).symlink_to(tree, target_is_directory=True)
    (tree / "dicoms/PHANTOM001/30.dcm").symlink_to("30.dcm")
    (tree / "dicoms/PHANTOM001/31.dcm").symlink_to("nowhere")
    assert run(Config(tree, tmp_path / "records")).records == {"train": 8}
    assert [row["path"] for row in audit_of(tmp_path / "records") if row["reason"] == "circular_link"] == [
        "dicoms/PHANTOM001/loop",
        "loop",
    ]
    rows = [row for row in audit_of(tmp_path / "records") if row["level"] == "error"]
    assert [(row["instance_number"], row["detail"]) for row in rows] == [
        ("30", "cannot be read: Too many levels of symbolic links; put a readable file in its place"),
        ("31", "cannot be read: No such file or directory; put a readable file in its place"),
    ]


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_a_file_that_is_not_regular_is_not_opened(
    tree: pathlib.Path, tmp_path: pathlib.Path, make: Callable[[pathlib.Path], None]
) -> None:
    for path in (image(tree, 9), contour(tree, 21)):
        path.unlink()
        make(path)
    assert run(Config(tree, tmp_path / "records")).records == {"train": 6}
    rows = [row for row in audit_of(tmp_path / "records") if row["reason"].startswith("unreadable")]
    assert [row["detail"] for row in rows] == [
        "cannot be read: it is not a regular file; put a readable file in its place"
    ] * 2


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_a_zip_archive_that_is_not_regular_is_not_opened(
    tmp_path: pathlib.Path, make: Callable[[pathlib.Path], None]
) -> None:
    (tmp_path / "data").mkdir()
    make(tmp_path / "data" / "images.zip")
    with pytest.raises(FatalInputError, match=r"images\.zip: cannot be read: it is not a regular file"):
        open_source(tmp_path / "data")


def test_a_file_of_ten_gigabytes_is_not_read(
    tree: pathlib.Path, tmp_path: pathlib.Path, allocated: Callable[[], int]
) -> None:
    for path in (image(tree, 9), contour(tree, 21)):
        os.truncate(path, 10 << 30)
    assert run(Config(tree, tmp_path / "records")).records == {"train": 6}
    rows = [row for row in audit_of(tmp_path / "records") if row["reason"].startswith("unreadable")]
    assert [row["detail"] for row in rows] == [
        f"cannot be read: it has {10 << 30} bytes, at most {folders.MAX_FILE_BYTES} expected; "
        "put a readable file in its place"
    ] * 2
    assert allocated() < 128 * MIB


def test_a_zip_bomb_is_not_unpacked(tree: pathlib.Path, tmp_path: pathlib.Path, allocated: Callable[[], int]) -> None:
    image(tree, 9).unlink()
    path = tmp_path / "data.zip"
    zipped(tree, path)
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open("dicoms/PHANTOM001/9.dcm", "w") as entry,
    ):
        for _ in range(300):
            entry.write(bytes(MIB))
    assert run(Config(path, tmp_path / "records")).records == {"train": 7}
    (row,) = [row for row in audit_of(tmp_path / "records") if row["reason"] == "unreadable_image"]
    detail = f"cannot be read: it has {300 * MIB} bytes, at most {folders.MAX_FILE_BYTES} expected"
    assert row["detail"] == f"{detail}; put a readable file in its place"
    assert allocated() < 128 * MIB


def directory_entry(path: pathlib.Path, name: str) -> tuple[bytearray, int]:
    """The archive's bytes, and the offset of an entry in its directory (APPNOTE.TXT 4.3.12)."""
    content = bytearray(path.read_bytes())
    return content, content.rindex(b"PK\x01\x02", 0, content.rindex(name.encode()))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (24, 200_000_000, r"it has 13\d{4} bytes, 200000000 expected from the archive|truncated"),
        (24, 10, "Bad CRC-32"),
        (16, 1, "Bad CRC-32"),
        (42, None, "Bad magic number for file header"),
        (42, 1 << 30, "Truncated file header|outside|negative"),
        (20, 100, "CRC|cut|incomplete|EOF|claims"),
    ],
)
def test_an_entry_that_lies_about_itself_is_a_row(
    tree: pathlib.Path,
    tmp_path: pathlib.Path,
    field: int,
    value: int | None,
    message: str,
    allocated: Callable[[], int],
) -> None:
    # The lie is about the size, checksum, offset or compressed size of an image that does not compress well.
    noise = np.random.default_rng(0).bytes(131_072)
    dataset = pydicom.dcmread(image(tree, 9))
    dataset.PixelData = noise
    dataset.save_as(image(tree, 9))
    path = zipped(tree, tmp_path / "data.zip", ("zeros", bytes(MIB)))
    content, at = directory_entry(path, "dicoms/PHANTOM001/9.dcm")
    if value is None:
        # Within the entry itself: newer versions of Python also check for overlap with other entries.
        value = struct.unpack_from("<I", content, at + field)[0] + 5
    struct.pack_into("<I", content, at + field, value)
    path.write_bytes(content)
    assert run(Config(path, tmp_path / "records")).records == {"train": 7}
    (row,) = [row for row in audit_of(tmp_path / "records") if row["reason"] == "unreadable_image"]
    assert row["path"] == "dicoms/PHANTOM001/9.dcm"
    assert row["detail"].startswith("cannot be read: ")
    assert re.search(message, row["detail"])
    assert allocated() < 128 * MIB


def test_the_name_before_the_content_of_an_entry_is_not_repeated(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path = zipped(tree, tmp_path / "data.zip")
    content = path.read_bytes()
    name = b"dicoms/PHANTOM001/9.dcm"
    path.write_bytes(content.replace(name, b"dicoms/JANE^DOE^1/9.dcm", 1))
    with pytest.raises(OSError, match=r"^it has another name before its content$"):
        open_source(path).open(name.decode())


def test_entries_that_overlap_are_refused_with_their_archive(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path = zipped(tree, tmp_path / "data.zip", ("bomb", bytes(100 * MIB)))
    content = path.read_bytes()
    _, at = directory_entry(path, "bomb")
    end = content.rindex(b"PK\x05\x06")
    # The same entry a thousand more times.
    start = struct.unpack_from("<I", content, end + 16)[0]
    directory = content[start:end] + content[at:end] * 1000
    count = struct.unpack_from("<H", content, end + 10)[0] + 1000
    tail = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, count, count, len(directory), start, 0)
    path.write_bytes(content[:start] + directory + tail)
    with pytest.raises(FatalInputError, match=r"data\.zip: its entries claim 10\d+ bytes, at most 1032 times"):
        open_source(path)


def test_a_directory_of_very_many_entries_is_not_read(
    tree: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = zipped(tree, tmp_path / "data.zip", *((f"{number}.txt", b"") for number in range(2000)))
    assert len(open_source(path).paths) > 2000
    monkeypatch.setattr(archives, "MAX_DIRECTORY_BYTES", 100_000)
    expected = (
        r"data\.zip: cannot be read as a zip archive \(its directory has \d+ bytes, at most 100000 expected; divide"
    )
    with pytest.raises(FatalInputError, match=expected):
        open_source(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compression_that_cannot_be_bounded_is_refused(
    tree: pathlib.Path, tmp_path: pathlib.Path, method: int
) -> None:
    content = image(tree, 9).read_bytes()
    image(tree, 9).unlink()
    entry = zipfile.ZipInfo("dicoms/PHANTOM001/9.dcm")
    path = zipped(tree, tmp_path / "data.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(entry, content, method)
    with pytest.raises(OSError, match=rf"it is compressed by method {method}, 0 \(stored\) or 8 \(deflated\) expected"):
        open_source(path).open(entry.filename)


def test_an_archive_in_an_archive_is_junk(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    inner = zipped(tree, tmp_path / "inner.zip").read_bytes()
    path = zipped(tree, tmp_path / "data.zip", ("dicoms/PHANTOM001/2.zip", inner), ("dicoms/PHANTOM001/3.dcm", inner))
    summary = run(Config(path, tmp_path / "records"))
    assert (summary.records, summary.left_out) == ({"train": 8}, {})
    # No contour is drawn on that image.
    assert summary.harmless == {"unreadable_image": 1}
    (row,) = [row for row in audit_of(tmp_path / "records") if row["reason"] == "junk"]
    assert row["detail"].startswith("1 file skipped")


def test_a_damaged_directory_gives_studies_or_an_error(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path = zipped(tree, tmp_path / "data.zip")
    content, _ = directory_entry(path, "link.csv")
    rng = np.random.default_rng(0)
    start = content.index(b"PK\x01\x02")
    refused = opened = 0
    for at in [*rng.integers(start, len(content), 300), *range(len(content) - 22, len(content))]:
        damaged = bytearray(content)
        damaged[at] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            source = open_source(path)
            discover(source)
        except FatalInputError:
            refused += 1
            continue
        for name in source.paths:
            with contextlib.suppress(OSError), source.open(name):
                opened += 1
    assert refused > 0
    assert opened > 0


def test_link_csv_has_a_limit(tree: pathlib.Path) -> None:
    with (tree / "link.csv").open("a") as file:
        file.write("PHANTOM001,PH-1\n" * 270_000)
    with pytest.raises(FatalInputError, match=r"link\.csv: has over 4194304 bytes, a row with two ids per study"):
        discover(open_source(tree))


def test_many_rows_of_link_csv_are_read_in_seconds(tree: pathlib.Path) -> None:
    """A search through all rows for each row would take minutes."""
    with (tree / "link.csv").open("a") as file:
        file.writelines(f"S{number},C{number}\n" for number in range(100_000))
    start = time.process_time()
    studies, findings = discover(open_source(tree))
    assert (len(studies), len(findings)) == (2, 100_000)
    assert time.process_time() - start < 30


# DICOM files.


def test_a_deflated_bomb_is_not_inflated(allocated: Callable[[], int]) -> None:
    """195 KB, which pydicom would inflate to 200 MB."""

    def change(dataset: pydicom.FileDataset) -> None:
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian

    content = changed(change).getvalue()
    meta = content[: content.index(b"1.2.840.10008.1.2.1.99")]
    start = len(meta) + 22
    start += _rest_of_meta(content, start)
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = deflater.compress(struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OW", 0, 200 * MIB))
    bomb += b"".join(deflater.compress(bytes(MIB)) for _ in range(200)) + deflater.flush()
    assert len(bomb) < 210_000
    for read in READERS:
        with pytest.raises(InputError, match=r"^it inflates to over 13\d{7} bytes; raise --max_image_pixels"):
            read(io.BytesIO(content[:start] + bomb))
    assert allocated() < 300 * MIB


def _rest_of_meta(content: bytes, at: int) -> int:
    """Bytes of File Meta Information after an offset; its group length counts from byte 144 (PS3.10 7.1)."""
    return 144 + int(struct.unpack_from("<I", content, 140)[0]) - at


def encapsulated(frame: bytes, syntax: UID, **elements: object) -> io.BytesIO:
    def change(dataset: pydicom.FileDataset) -> None:
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PixelData = pydicom.encaps.encapsulate([frame])
        dataset["PixelData"].is_undefined_length = True
        setting(**elements)(dataset)

    return changed(change)


def test_run_lengths_that_unpack_to_gigabytes_are_refused(allocated: Callable[[], int]) -> None:
    segment = b"\x81\x00" * 500_000
    frame = struct.pack("<16I", 2, 64, 64, *[0] * 13) + segment
    expected = r"a run-length segment unpacks to more than Rows × Columns, 64 × 64, bytes"
    with pytest.raises(InputError, match=expected):
        reader.read_pixels(encapsulated(frame, RLELossless), LIMIT)
    assert allocated() < 32 * MIB


def test_frames_behind_the_first_are_not_decoded(allocated: Callable[[], int]) -> None:
    """If they were decoded, the image would have one more axis."""
    content = changed(lambda dataset: None, "MR_small_RLE.dcm")
    frame = pydicom.encaps.get_frame(pydicom.dcmread(content).PixelData, 0, number_of_frames=1)

    def change(dataset: pydicom.FileDataset) -> None:
        dataset.PixelData = pydicom.encaps.encapsulate([frame] * 50)
        dataset["PixelData"].is_undefined_length = True

    pixels = reader.read_pixels(changed(change, "MR_small_RLE.dcm"), LIMIT)
    assert pixels.shape == (64, 64)
    native = pydicom.dcmread(get_testdata_file("MR_small.dcm")).PixelData
    assert reader.read_pixels(changed(setting(PixelData=native * 50)), LIMIT).shape == (64, 64)


def claiming(name: str, rows: int, columns: int, samples: int | None = None) -> bytes:
    """The frame of a sample, with other dimensions in its codestream."""
    dataset = pydicom.dcmread(get_testdata_file(name))
    frame = bytearray(pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1))
    if b"\xff\x4f\xff\x51" in frame:
        at = frame.index(b"\xff\x4f\xff\x51")
        struct.pack_into(">II", frame, at + 8, columns, rows)
        if samples:
            struct.pack_into(">H", frame, at + 40, samples)
        return bytes(frame)
    at = min(frame.find(marker) for marker in (b"\xff\xc1", b"\xff\xf7", b"\xff\xc3") if marker in frame)
    struct.pack_into(">HH", frame, at + 5, rows, columns)
    if samples:
        frame[at + 9] = samples
    return bytes(frame)


@pytest.mark.parametrize(
    ("name", "syntax"),
    [
        ("MR_small_jp2klossless.dcm", JPEG2000Lossless),
        ("MR_small_jpeg_ls_lossless.dcm", JPEGLSLossless),
        ("JPGExtended.dcm", JPEGExtended12Bit),
    ],
)
@pytest.mark.parametrize(("rows", "columns", "samples"), [(65535, 65535, None), (64, 65, None), (64, 64, 3)])
def test_a_codestream_that_claims_other_dimensions_is_refused(
    name: str, syntax: UID, rows: int, columns: int, samples: int | None
) -> None:
    file = encapsulated(claiming(name, rows, columns, samples), syntax)
    expected = rf"its compressed pixels are {rows} × {columns} with {samples or 1} samples, 64 × 64 with 1 expected"
    with pytest.raises(InputError, match=expected):
        reader.read_pixels(file, LIMIT)


@pytest.mark.parametrize(
    ("syntax", "frame"),
    [
        (JPEG2000Lossless, b"\xff\x4f\xff\x52" + bytes(60)),
        (JPEG2000Lossless, b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(60)),
        (JPEG2000Lossless, b"\x00\x00\x00\x0cjP  \r\n\x87\n" + b"\x00\x00\x00\x08xml " * 1000),
        (JPEGExtended12Bit, b"\xff\xd8\xff\xda" + bytes(60)),
        (JPEGExtended12Bit, b"\xff\xd8" + b"\xff" * 1000),
        (JPEGExtended12Bit, b"\xff\xd8\xff\xe0\xff\xff" + bytes(60)),
        (JPEGLSLossless, b"\xff\xd8\xff\xf7"),
    ],
)
def test_a_codestream_that_claims_nothing_is_refused(syntax: UID, frame: bytes) -> None:
    with pytest.raises(InputError, match=r"its compressed pixels have no frame header|cannot be decoded"):
        reader.read_pixels(encapsulated(frame, syntax), LIMIT)


@pytest.mark.parametrize(("bits", "message"), [(65535, "is 65535, 1, 8, 16, 32 or 64 expected"), (12, "is 12, 1, 8")])
def test_bits_allocated_that_cannot_be_are_refused(bits: int, message: str) -> None:
    with pytest.raises(InputError, match=rf"Bits Allocated \(0028,0100\) {message}") as raised:
        reader.read_header(changed(setting(BitsAllocated=bits)), LIMIT)
    assert raised.value.reason == "unsupported_image"


def with_element(element: bytes, before: bytes = b"\x28\x00\x02\x00US") -> bytes:
    """The sample with an encoded element inserted before one of its own."""
    content = pathlib.Path(get_testdata_file("MR_small.dcm")).read_bytes()
    at = content.index(before)
    return content[:at] + element + content[at:]


def test_an_element_that_claims_four_gigabytes_is_refused(allocated: Callable[[], int]) -> None:
    for tag in (0x0010_0020, 0x0009_0001, 0x0028_3000):
        element = struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, b"UN", 0, 0xFFFF_FFFE)
        for read in READERS:
            with pytest.raises(InputError, match=r"claims 4294967294 bytes|it has no pixels"):
                read(io.BytesIO(with_element(element)))
    assert allocated() < 128 * MIB


def test_a_header_that_takes_too_long_to_parse_is_refused(allocated: Callable[[], int]) -> None:
    """Each of its items would become an object, although the sequence is not one that we read."""
    items = b"\xfe\xff\x00\xe0\x00\x00\x00\x00" * 100_000
    element = struct.pack("<HH2sHI", 0x0027, 0x1010, b"SQ", 0, 0xFFFF_FFFF) + items
    expected = f"its header takes over {part10.MAX_HEADER_BYTES} bytes to parse"
    for read in READERS:
        with pytest.raises(InputError, match=expected):
            read(io.BytesIO(with_element(element)))
    # A private element of the same size is skipped.
    element = struct.pack("<HH2sHI", 0x0027, 0x1010, b"OB", 0, len(items)) + items
    assert reader.read_header(io.BytesIO(with_element(element)), LIMIT).shape == (64, 64)
    assert allocated() < 600 * MIB


def test_more_pixels_than_are_allowed_are_not_read() -> None:
    pixels = bytes(8 * 4096 + part10.MAX_HEADER_BYTES + 2)
    file = changed(setting(PixelData=pixels))
    for read in (lambda: reader.read_fingerprint(file, 4096), lambda: reader.read_pixels(file, 4096)):
        file.seek(0)
        with pytest.raises(InputError, match="its pixels take over 32768 bytes; raise --max_image_pixels"):
            read()


@pytest.mark.parametrize("depth", [100, 5000])
def test_sequences_nested_deeply_are_refused(depth: int) -> None:
    nested = struct.pack("<HH2sHI", 0x0027, 0x1010, b"SQ", 0, 0xFFFF_FFFF) + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    for read in READERS:
        with pytest.raises(InputError, match=r"it cannot be read as a DICOM file"):
            read(io.BytesIO(with_element(nested * depth)))


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"PixelSpacing": b"1\\1e300"}, r"Pixel Spacing \(0028,0030\) goes beyond ±1e\+06"),
        ({"PixelSpacing": b"1\\0"}, r"Pixel Spacing \(0028,0030\) is not above 0"),
        ({"PixelSpacing": b"1\\1\\" * 30_000}, r"Pixel Spacing \(0028,0030\) claims \d+ bytes, at most 1024 expected"),
        ({"ImagePositionPatient": b"0\\0\\-1e300"}, r"Image Position \(Patient\) \(0020,0032\) goes beyond"),
        ({"TriggerTime": b"1e300"}, r"Trigger Time \(0018,1060\) goes beyond"),
        ({"TriggerTime": b"1e999"}, r"Trigger Time \(0018,1060\) is not 1 finite number"),
        ({"TriggerTime": b"nan"}, r"Trigger Time \(0018,1060\) is not 1 finite number"),
        ({"TriggerTime": b"1\\2"}, r"Trigger Time \(0018,1060\) is not 1 finite number"),
        ({"PixelSpacing": b"1"}, r"Pixel Spacing \(0028,0030\) is not 2 finite numbers"),
        ({"PatientID": b"x" * 60_000}, r"Patient ID \(0010,0020\) claims 60000 bytes, at most 1024 expected"),
        ({"NumberOfFrames": b"19770707"}, r"Number of Frames \(0028,0008\) cannot be read \(ValueError\)"),
    ],
)
def test_numbers_that_measure_nothing_are_refused(elements: dict[str, object], message: str) -> None:
    # Implicit VR has lengths of 32 bits, so that text may have any length.
    file = changed(setting(**elements), "MR_small_implicit.dcm")
    with pytest.raises(InputError, match=message) as raised:
        reader.read_header(file, LIMIT)
    assert raised.value.reason == "unreadable_image"


def test_a_lookup_table_of_a_billion_bits_is_refused() -> None:
    def change(dataset: pydicom.FileDataset) -> None:
        item = pydicom.Dataset()
        item.add_new("LUTDescriptor", "SL", [16, 0, 2**31 - 1])
        item.add_new("LUTData", "US", [0] * 16)
        dataset.ModalityLUTSequence = [item]

    with pytest.raises(InputError, match=r"LUT Descriptor \(0028,3002\) does not say 1 to 16 bits"):
        reader.read_header(changed(change), LIMIT)


def test_a_file_cut_at_any_length_is_refused() -> None:
    content = changed(lambda dataset: setting(Rows=4, Columns=4, PixelData=bytes(32))(dataset)).getvalue()
    content = content[: content.index(b"\xe0\x7f\x10\x00") + 12 + 32]
    for length in range(len(content)):
        for read in READERS[:2]:
            # The header may be complete, and a digest covers what is there.
            with contextlib.suppress(InputError):
                read(io.BytesIO(content[:length]))
        with pytest.raises(InputError, match=r"cannot be (read|decoded)|it has no|is missing"):
            reader.read_pixels(io.BytesIO(content[:length]), LIMIT)
    assert reader.read_pixels(io.BytesIO(content), LIMIT).shape == (4, 4)


@pytest.mark.parametrize("content", [b"", bytes(150), b"\xff" * 150, bytes(128) + b"DICM" + bytes(18)])
def test_a_file_without_content_is_a_row(tree: pathlib.Path, tmp_path: pathlib.Path, content: bytes) -> None:
    image(tree, 9).write_bytes(content)
    assert run(Config(tree, tmp_path / "records")).records == {"train": 7}
    (row,) = [row for row in audit_of(tmp_path / "records") if row["reason"] == "unreadable_image"]
    assert row["path"] == "dicoms/PHANTOM001/9.dcm"


def test_an_image_cut_to_150_bytes_costs_its_pair_alone(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    os.truncate(image(tree, 9), 150)
    assert run(Config(tree, tmp_path / "records")).records == {"train": 7}


# Contours.


def circle(count: int, decimals: int) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.round(128 + 24 * np.stack([np.cos(angles), np.sin(angles)], axis=1), decimals)


def text(points: np.ndarray) -> bytes:
    return "".join(f"{x:.17g} {y:.17g}\n" for x, y in points).encode()


def comb(fingers: int, low: float, high: float) -> np.ndarray:
    """An outline with horizontal fingers."""
    y = np.linspace(low, high, 2 * fingers).repeat(2)
    x = np.tile([low + 1, high, high, low + 1], fingers)
    return np.vstack([np.stack([x, y], axis=1), [(low, high), (low, low)]])


def anywhere(count: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, (count, 2))


HOSTILE_CONTOURS = [
    (
        text(anywhere(20_000)),
        "oversized_contour",
        r"\d+ pairs of edges overlap in y, at most 1000000",
    ),
    (text(anywhere(1_000)), "oversized_contour", r"it meets itself \d+ times, at most 100 expected"),
    (text(np.tile(anywhere(150), (2, 1))), "oversized_contour", "it meets itself"),
    (b"1 2\n3 4\n5 0\n" * 40_000, "oversized_contour", "120000 points, at most 100000 expected"),
    (b"1 2\n" * 1_600_001, "oversized_contour", "over 6400000 bytes"),
    (b"1 2\n3 4\n5 1e300\n", "outside_image", "point 3 is x 5, y 1e[+]300; at most ±65536 pixels expected"),
    (b"1 2\n-70000 4\n5 6\n", "outside_image", "point 2 is x -70000, y 4; at most"),
    (b"1 2\nnan 4\n5 6\n", "nonfinite_contour", "point 2 is not finite"),
    (b"1 2\n3 -infinity\n5 6\n", "nonfinite_contour", "point 2 is not finite"),
    (np.random.default_rng(0).bytes(5000), "unreadable_contour", "line 1 is not two numbers"),
    (b"1" * 2_000_000 + b"x 2\n", "unreadable_contour", "line 1 is not two numbers"),
    (b"1" + b" " * 2_000_000 + b"x\n", "unreadable_contour", "line 1 is not two numbers"),
]


@pytest.mark.parametrize(("content", "reason", "message"), HOSTILE_CONTOURS)
def test_a_contour_that_would_take_too_long_is_refused(
    content: bytes, reason: str, message: str, tree: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    contour(tree, 9).write_bytes(content)
    assert run(Config(tree, tmp_path / "records")).records == {"train": 7}
    (row,) = [row for row in audit_of(tmp_path / "records") if row["reason"] == reason]
    assert (row["study_id"], row["instance_number"], row["level"]) == ("PHANTOM001", "9", "error")
    assert re.search(message, row["detail"])


@pytest.mark.parametrize(("content", "reason", "message"), HOSTILE_CONTOURS)
def test_a_hostile_outer_contour_costs_its_own_label_map_and_is_named(
    content: bytes, reason: str, message: str, tree: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    run(Config(tree, tmp_path / "before", contours="io"))
    outer = tree / "contourfiles" / "PH-1" / "o-contours" / phantom.contour_name(21, "o")
    outer.write_bytes(content)
    summary = run(Config(tree, tmp_path / "after", contours="io"))
    assert (summary.records, summary.left_out) == ({"train": 3}, {reason: 1})
    (row,) = [row for row in audit_of(tmp_path / "after") if row["reason"] == reason]
    assert (row["study_id"], row["instance_number"], row["contour"]) == ("PHANTOM001", "21", "o")
    assert (row["level"], row["path"]) == ("error", outer.relative_to(tree).as_posix())
    assert re.search(message, row["detail"])
    others = [pair for pair in pairs_of(tmp_path / "before") if pair[0] != ("PHANTOM001", 21)]
    assert pairs_of(tmp_path / "after") == others
    assert list(verify.faults(tmp_path / "after")) == []


def test_contours_that_meet_too_often_to_be_compared_cost_the_outer_one(
    tree: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Each takes a moment alone; the area between both would take a minute."""
    contour(tree, 21).write_bytes(text(comb(1000, 100, 150)))
    outer = tree / "contourfiles" / "PH-1" / "o-contours" / phantom.contour_name(21, "o")
    outer.write_bytes(text(comb(60, 101, 149)[:, ::-1]))
    start = time.process_time()
    assert run(Config(tree, tmp_path / "records")).records == {"train": 8}
    assert time.process_time() - start < 10
    (row,) = [row for row in audit_of(tmp_path / "records") if row["reason"] == "oversized_contour"]
    assert (row["path"], row["contour"], row["left_out"]) == (outer.relative_to(tree).as_posix(), "o", "0")
    assert re.search(r"the outlines on its image meet \d+ times, at most 10000 expected", row["detail"])


@pytest.mark.parametrize(("count", "decimals"), [(40, 1), (400, 1), (10_000, 2), (100_000, 2), (100_000, 17)])
def test_an_outline_of_any_density_is_drawn(count: int, decimals: int) -> None:
    polygon = contours.read_contour(io.BytesIO(text(circle(count, decimals))))
    area = masks.rasterize(polygon, (256, 256)).sum()
    assert area == pytest.approx(np.pi * 24**2, rel=0.01)
    assert polygons.area(polygon) == pytest.approx(np.pi * 24**2, rel=0.01)


def test_crossings_are_those_that_shapely_finds() -> None:
    rng = np.random.default_rng(1)
    for _ in range(40):
        polygon = rng.uniform(0, 50, (rng.integers(4, 40), 2))
        edges = [shapely.LineString(edge) for edge in zip(polygon, np.roll(polygon, -1, axis=0), strict=True)]
        last = len(edges) - 1
        expected = sum(
            one.intersects(edges[j])
            for i, one in enumerate(edges)
            for j in range(i + 2, len(edges))
            if (i, j) != (0, last)
        )
        assert polygons.self_intersections(polygon) == expected
        assert polygons.neighbors(polygon) >= expected


# Private data.

CANARY = "CANARY"
CANARY_NUMBER = "19770707"


def poisoned(path: pathlib.Path) -> None:
    """Writes a canary into every text element, private ones, the preamble, the meta information and a sequence."""
    dataset = pydicom.dcmread(path)
    kept = ("PatientID", "PhotometricInterpretation", "SOPClassUID", "SpecificCharacterSet")
    with pydicom.config.disable_value_validation():
        for element in [*dataset]:
            if element.VR in ("LO", "SH", "PN", "LT", "ST", "UT", "AE", "CS", "UI") and element.keyword not in kept:
                dataset[element.tag].value = CANARY
            elif element.VR in ("DA", "TM", "DT"):
                dataset[element.tag].value = CANARY_NUMBER
        dataset.PatientName, dataset.PatientBirthDate = f"{CANARY}^NAME", CANARY_NUMBER
        dataset.StudyDescription = dataset.InstitutionName = dataset.StudyID = CANARY
        dataset.SeriesInstanceUID = dataset.DeviceSerialNumber = f"1.2.{CANARY}"
        item = pydicom.Dataset()
        item.CodeMeaning = CANARY
        dataset.ReferencedImageSequence = dataset.ProcedureCodeSequence = [item]
        dataset.private_block(0x0011, CANARY, create=True).add_new(1, "LO", CANARY)
        dataset.file_meta.ImplementationVersionName = CANARY
        dataset.file_meta.SourceApplicationEntityTitle = CANARY
        dataset.file_meta.MediaStorageSOPInstanceUID = UID(f"1.2.{CANARY}")
        dataset.preamble = CANARY.encode().ljust(128)
        dataset.save_as(path)


@pytest.mark.parametrize("value", [CANARY.encode(), CANARY_NUMBER.encode(), f"1\\{CANARY}".encode()])
@pytest.mark.parametrize("keyword", reader._HEADER_KEYWORDS)
def test_no_error_quotes_a_value(keyword: str, value: bytes) -> None:
    def change(dataset: pydicom.FileDataset) -> None:
        tag = pydicom.tag.Tag(keyword)
        # As text, whatever its type should be: the file states the type of a value.
        text_vr = dictionary_VR(tag) if dictionary_VR(tag) in ("DS", "IS", "CS", "LO", "UI") else "LO"
        dataset[tag] = RawDataElement(tag, text_vr, len(value), value, 0, False, True)

    numeric = "InstanceNumber", "RescaleSlope", "RescaleIntercept"
    valid = keyword in ("SOPClassUID", "SOPInstanceUID", "PatientID", "SliceThickness") or (
        keyword in numeric and value == CANARY_NUMBER.encode()
    )
    file = changed(change)
    for read in READERS:
        file.seek(0)
        if valid:
            read(file)
            continue
        with pytest.raises(InputError) as raised:
            read(file)
        assert CANARY not in str(raised.value)
        assert CANARY_NUMBER not in str(raised.value)


def test_nothing_private_leaves_a_run(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for path in (tree / "dicoms").rglob("*.dcm"):
        poisoned(path)
    for name in (f"{CANARY}.txt", f"dicoms/PHANTOM001/{CANARY}.doc", f"contourfiles/PH-1/i-contours/._{CANARY}"):
        (tree / name).write_text(CANARY)
    # One of each error that concerns the text of a file.
    os.truncate(image(tree, 1), 1200)
    broken = pydicom.dcmread(image(tree, 10))
    broken["InstanceNumber"] = RawDataElement(
        pydicom.tag.Tag("InstanceNumber"), "LO", 6, CANARY.encode(), 0, False, True
    )
    broken.save_as(image(tree, 10))
    mismatched = pydicom.dcmread(image(tree, 9))
    mismatched.PatientID = CANARY
    mismatched.save_as(image(tree, 9))
    contour(tree, 21).write_text(f"{CANARY} 1\n")
    records = tmp_path / "records"
    done = subprocess.run(
        [sys.executable, "-m", "preprocess", f"--data_dir={tree}", f"--output_dir={records}"],
        capture_output=True,
        cwd=ROOT,
        check=True,
    )
    assert {"unreadable_image", "header_mismatch", "unreadable_contour"} <= {row["reason"] for row in audit_of(records)}
    # This name must be there: the search would find a canary.
    assert b"PHANTOM002" in contents(records)["lv-train.tfrecord-00000-of-00001"]
    for name, content in {**contents(records), "stdout": done.stdout, "stderr": done.stderr}.items():
        assert CANARY.encode() not in content, name
        assert CANARY_NUMBER.encode() not in content, name
    for name, content in contents(records).items():
        assert str(tmp_path).encode() not in content, name


# The other studies.


@pytest.mark.parametrize("kind", ["folder", "archive"])
@pytest.mark.parametrize("written", ["i", "io"])
def test_one_hostile_study_changes_no_other(
    tree: pathlib.Path, tmp_path: pathlib.Path, kind: str, written: Contours
) -> None:
    """Several hostile files in one study: the records of the other study are the same bytes."""
    (tree / "link.csv").write_text("patient_id,original_id\nPHANTOM002,PH-2\n")
    run(Config(tree, tmp_path / "before", contours=written))
    (tree / "link.csv").write_text("patient_id,original_id\nPHANTOM001,PH-1\n../..,/etc\nPHANTOM002,PH-2\n")
    image(tree, 1).write_bytes(os.urandom(3000))
    image(tree, 9).write_bytes(encapsulated(claiming("JPGExtended.dcm", 65535, 65535), JPEGExtended12Bit).getvalue())
    contour(tree, 21).write_bytes(text(anywhere(20_000)))
    contour(tree, 29).write_bytes(b"1 2\n3 4\n5 1e300\n")
    data = zipped(tree, tmp_path / "data.zip", ("../x", b"")) if kind == "archive" else tree
    run(Config(data, tmp_path / "after", contours=written))
    name = "lv-train.tfrecord-00000-of-00001"
    assert contents(tmp_path / "before")[name] == contents(tmp_path / "after")[name]
    assert list(verify.faults(tmp_path / "after")) == []
    assert len([row for row in audit_of(tmp_path / "after") if row["level"] == "error"]) >= 5


# Records directories.


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda fields: fields["image"].update(dtype="O"), "image dtype is not one of int16, uint16, int32, float32"),
        (lambda fields: fields["image"].update(shape=[1 << 40, 1 << 40, 1]), "image shape has over 4294967296 pixels"),
        (lambda fields: fields["image"].update(shape=[6, 0, 1]), "image shape is not three numbers above 0"),
        (lambda fields: fields["splits"]["train"]["shards"][0].update(name="../a"), "a file's name leads out of"),
        (
            lambda fields: fields["splits"]["train"]["shards"][0].update(count=1 << 50),
            "count is not a number of records",
        ),
        (lambda fields: fields["splits"]["train"]["shards"][0].update(bytes=-1), "bytes or sha256 is not valid"),
        (lambda fields: fields["files"].update({"/etc/passwd": {"bytes": 0, "sha256": "0" * 64}}), "leads out of"),
        (lambda fields: fields["splits"]["train"]["shards"][0].update(name="\ud800"), "is not the name of a file"),
    ],
)
def test_a_manifest_that_is_signed_and_makes_no_sense_is_refused(
    edit: Callable[[dict], None], message: str, synthetic: Synthetic, tmp_path: pathlib.Path
) -> None:
    fields = json.loads((synthetic(10) / schema.MANIFEST_FILE).read_bytes())
    edit(fields)
    fields["mask"]["shape"] = fields["image"]["shape"]
    (tmp_path / schema.MANIFEST_FILE).write_bytes(signed(json.dumps(fields).encode()))
    with pytest.raises(RecordsError, match=rf"manifest\.json: .*{message}"):
        DatasetInfo.read(tmp_path)


def test_an_index_whose_records_are_shorter_than_a_frame_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.idx").write_bytes(b"0 5\n5 295\n")
    with pytest.raises(RecordsError, match=r"a\.idx: does not cover 2 records in 300 bytes"):
        read_index(RecordsDirectory(tmp_path), ShardInfo("a", 2, 300, ""), FileInfo.of(tmp_path / "a.idx"))


@pytest.mark.parametrize("splits", [{}, {"train": {"studies": ["A"], "shards": []}}])
def test_a_manifest_without_shards_is_a_directory_without_records(
    splits: dict, synthetic: Synthetic, tmp_path: pathlib.Path
) -> None:
    fields = json.loads((synthetic(10) / schema.MANIFEST_FILE).read_bytes())
    fields.update(splits=splits, files={})
    (tmp_path / schema.MANIFEST_FILE).write_bytes(signed(json.dumps(fields).encode()))
    assert len(Records(tmp_path)) == 0


@pytest.mark.parametrize("content", [b"study_id\n\xff\n", b"study_id\n" + b"A" * 200_000, b"study\nA\n"])
def test_a_table_of_studies_that_makes_no_sense_is_one_line(
    content: bytes, phantom_records: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    directory = shutil.copytree(phantom_records, tmp_path / "records")
    (directory / schema.STUDIES_FILE).write_bytes(content)
    fields = json.loads((directory / schema.MANIFEST_FILE).read_bytes())
    fields["files"][schema.STUDIES_FILE] = vars(FileInfo.of(directory / schema.STUDIES_FILE))
    (directory / schema.MANIFEST_FILE).write_bytes(signed(json.dumps(fields).encode()))
    with pytest.raises(RecordsError, match=r"studies\.csv is not a table of studies"):
        list(describe(Records(directory)))


def test_an_index_larger_than_its_records_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.idx").touch()
    os.truncate(tmp_path / "a.idx", 10 << 30)
    with pytest.raises(RecordsError, match=r"a\.idx: 10737418240 bytes, more than 3 records need"):
        read_index(RecordsDirectory(tmp_path), ShardInfo("a", 3, 300, ""), None)
