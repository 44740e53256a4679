"""Stored values, compared with bits assembled one by one and with the input of an independent encoder."""

import io
import pathlib
from collections.abc import Callable
from typing import Any, Literal

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pydicom
import pytest
from openjpeg.utils import encode_array
from PIL import Image
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from pipeline import DatasetInfo, iterate_batches
from preprocess.config import Config
from preprocess.dicom import reader, stored
from preprocess.dicom.stored import Layout
from preprocess.findings import InputError
from preprocess.model import ContourKind
from preprocess.run import run

from .helpers.dicom import LIMIT, changed
from .helpers.tables import audit_of, found_by
from .helpers.trees import image

GEOMETRY = {"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 0}


def native(cells: list[int], syntax: UID = ExplicitVRLittleEndian, **elements: Any) -> io.BytesIO:
    """An image of one row with these cells."""
    described = {**GEOMETRY, **elements, "Rows": 1, "Columns": len(cells)}
    size = described["BitsAllocated"] // 8

    def change(dataset: pydicom.FileDataset) -> None:
        for keyword, value in described.items():
            if keyword != "OverlayBitPosition":
                setattr(dataset, keyword, value)
        if "OverlayBitPosition" in elements:
            dataset.add_new(0x60020102, "US", elements["OverlayBitPosition"])
        order: Literal["big", "little"] = "big" if syntax == ExplicitVRBigEndian else "little"
        dataset.PixelData = b"".join(cell.to_bytes(size, order) for cell in cells)
        dataset["PixelData"].VR = "OB" if size == 1 else "OW"
        if syntax == RLELossless:
            dataset.compress(RLELossless, encoding_plugin="pydicom")
        elif syntax == ExplicitVRBigEndian:
            dataset.file_meta.TransferSyntaxUID = syntax

    if syntax != ExplicitVRBigEndian:
        return changed(change)
    return changed(change, "MR_small_bigendian.dcm")


def compressed(frame: bytes, syntax: UID, shape: tuple[int, int], **elements: int) -> io.BytesIO:
    def change(dataset: pydicom.FileDataset) -> None:
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.Rows, dataset.Columns = shape
        for keyword, value in {**GEOMETRY, **elements}.items():
            setattr(dataset, keyword, value)
        dataset.PixelData = pydicom.encaps.encapsulate([frame])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True

    return changed(change)


def read(file: io.BytesIO) -> np.ndarray:
    """The pixels, which must lie in the range that the header states."""
    header = reader.read_header(file, LIMIT)
    file.seek(0)
    pixels = reader.read_pixels(file, LIMIT)
    assert header.value_range is not None
    assert header.value_range[0] <= pixels.min()
    assert pixels.max() <= header.value_range[1]
    return pixels


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(st.data())
def test_stored_values_are_the_bits_that_the_header_names(data: st.DataObject) -> None:
    allocated = data.draw(st.sampled_from([8, 16, 32]))
    bits = data.draw(st.integers(1, allocated))
    high = data.draw(st.integers(bits - 1, allocated - 1))
    signed = data.draw(st.booleans())
    low, most = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    values = data.draw(st.lists(st.integers(low, most), min_size=2, max_size=6))
    overlay = data.draw(st.sampled_from([None, *range(1, high + 1 - bits), *range(high + 1, allocated)]))
    extended = data.draw(st.booleans())
    cells = []
    for value in values:
        above = "1" if extended and value < 0 else "0"
        text = f"{value & ((1 << bits) - 1):0{bits}b}"
        cell = list((above * (allocated - 1 - high) + text).ljust(allocated, "0"))
        if overlay is not None:
            cell[allocated - 1 - overlay] = data.draw(st.sampled_from("01"))
        cells.append(int("".join(cell), 2))
    elements: dict[str, Any] = {
        "BitsAllocated": allocated,
        "BitsStored": bits,
        "HighBit": high,
        "PixelRepresentation": int(signed),
    }
    if overlay is not None:
        elements["OverlayBitPosition"] = overlay
    assert read(native(cells, **elements)).tolist() == [values]


@pytest.mark.parametrize("syntax", [ExplicitVRBigEndian, RLELossless])
def test_big_endian_and_rle_cells_give_the_same_values(syntax: UID) -> None:
    cells = [0x0FF0, 0x8010, 0x7000, *range(0, 0x200, 16)]
    elements = {"BitsStored": 12, "HighBit": 15, "PixelRepresentation": 1}
    assert read(native(cells, syntax, **elements)).tolist() == [[0x0FF, 0x801 - 0x1000, 0x700, *range(0x20)]]


@pytest.mark.parametrize(
    ("cell", "elements"),
    [
        (5000, {"BitsStored": 12, "HighBit": 11}),
        (5000, {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 1}),
        (0x7FFF, {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 1}),
        # The cell fits High Bit 11, but the header has 15.
        (1001, {"BitsStored": 12, "HighBit": 15}),
        (0x1001, {"BitsStored": 12, "HighBit": 11, "OverlayBitPosition": 13}),
    ],
)
def test_bits_that_nothing_explains_are_refused(cell: int, elements: dict[str, Any]) -> None:
    with pytest.raises(
        InputError, match=r"bits other than those of Bits Stored \(0028,0101\), 12, up to High"
    ) as raised:
        read(native([cell, 16], **elements))
    assert raised.value.reason == "unreadable_image"


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"HighBit": 10, "BitsStored": 12}, r"High Bit \(0028,0102\) is 10, 11 to 15 expected"),
        ({"HighBit": 16, "BitsStored": 12}, r"High Bit \(0028,0102\) is 16, 11 to 15 expected"),
        ({"BitsStored": 17}, r"Bits Stored \(0028,0101\) is 17, 1 to 16 expected"),
        ({"BitsStored": None}, r"Bits Stored \(0028,0101\) is missing, 1 to 16 expected"),
        ({"PixelRepresentation": 2}, r"Pixel Representation \(0028,0103\) is 2, 0 or 1 expected"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(elements: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        read(native([1, 2], **elements))
    assert raised.value.reason == "unsupported_image"


@pytest.mark.parametrize("precision", [8, 12, 16])
@pytest.mark.parametrize("stated", [0, 1])
@pytest.mark.parametrize("encoded", [0, 1])
def test_jpeg_2000_values_beyond_the_sign_of_the_header_are_refused(precision: int, stated: int, encoded: int) -> None:
    half = 1 << precision - 1
    dtype = np.dtype(f"{'ui'[encoded]}{1 if precision == 8 else 2}")
    elements = {"BitsStored": precision, "HighBit": precision - 1, "PixelRepresentation": stated}

    def through(low: int, high: int) -> np.ndarray:
        values = np.linspace(low, high, 64 * 64).round().astype(dtype).reshape(64, 64)
        file = compressed(bytes(encode_array(values, bits_stored=precision)), JPEG2000Lossless, (64, 64), **elements)
        assert np.array_equal(read(file), values)
        return values

    through(0, half - 1)
    low, high = (-half, half - 1) if encoded else (0, 2 * half - 1)
    if stated == encoded:
        through(low, high)
    else:
        with pytest.raises(InputError, match="its compressed pixels go beyond the values of Bits Stored"):
            through(low, high)


def test_a_codestream_of_more_bits_than_are_allocated_does_not_wrap() -> None:
    values = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    frame = bytes(encode_array(values, bits_stored=12))
    elements = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    with pytest.raises(InputError, match=r"its compressed pixels go beyond .*, 0 to 255; correct the elements"):
        read(compressed(frame, JPEG2000Lossless, (64, 64), **elements))
    assert np.array_equal(read(compressed(frame, JPEG2000Lossless, (64, 64))), values)


@pytest.mark.parametrize(("signed", "most"), [(0, 255), (1, 127), (1, 128)])
def test_jpeg_of_8_bits_in_an_image_of_16_keeps_its_values(signed: int, most: int) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((16, 16), most, np.uint8)).save(buffer, "JPEG", quality=100)
    file = compressed(
        buffer.getvalue(), JPEGBaseline8Bit, (16, 16), BitsStored=8, HighBit=7, PixelRepresentation=signed
    )
    if signed and most > 127:
        with pytest.raises(InputError, match=r"its compressed pixels go beyond .*, -128 to 127"):
            read(file)
    else:
        assert np.array_equal(read(file), np.full((16, 16), most))


@pytest.mark.parametrize(
    ("cells", "bits", "expected"),
    [([0x7FF, 0x800, 0xFFF], 12, [2047, -2048, -1]), ([0xFFF, 0xE00], 10, [-1, -512]), ([5, 2047], 16, [5, 2047])],
)
def test_cells_of_codecs_without_a_sign_get_the_one_of_the_header(
    cells: list[int], bits: int, expected: list[int]
) -> None:
    """JPEG-LS and lossless JPEG of 12 bits, signed: two's complement of the bits that are stored."""
    layout = Layout(16, bits, bits - 1, signed=True)
    assert stored.from_cells(np.array(cells, np.uint16), layout, width=12).tolist() == expected


def test_cells_of_codecs_with_too_few_bits_are_refused() -> None:
    with pytest.raises(InputError, match="bits other than those of Bits Stored"):
        stored.from_cells(np.array([5, 2048], np.uint16), Layout(16, 16, 15, signed=True), width=12)


def floating(pixels: np.ndarray) -> Callable[[pydicom.FileDataset], object]:
    def change(dataset: pydicom.FileDataset) -> None:
        dataset.BitsAllocated = 8 * pixels.dtype.itemsize
        del dataset.PixelData
        setattr(dataset, "FloatPixelData" if pixels.dtype == np.float32 else "DoubleFloatPixelData", pixels.tobytes())

    return change


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float_pixels_with_bits_stored_stay_float(tree: pathlib.Path, tmp_path: pathlib.Path, dtype: type) -> None:
    """They must not become integers, nor NaN 0."""
    for path in (tree / "dicoms").rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        pixels = dataset.pixel_array.astype(dtype) + dtype(0.25)
        if path == image(tree, 9):
            pixels[0, 0] = np.nan
        floating(pixels)(dataset)
        dataset.save_as(path)
    assert run(Config(tree, tmp_path / "records")).records == {"train": 7}
    assert found_by(tmp_path / "records", "unreadable_image") == [("PHANTOM001", "9", "error")]
    assert DatasetInfo.load(tmp_path / "records").settings["exact_values"] is False
    images, _ = next(iter(iterate_batches(tmp_path / "records", batch_size=7)))
    assert np.all(images % 1 == 0.25)


def test_compressed_float_pixels_are_refused() -> None:
    def change(dataset: pydicom.FileDataset) -> None:
        floating(np.zeros((64, 64), np.float32))(dataset)
        dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless

    with pytest.raises(InputError, match="its float pixels are compressed; decompress them"):
        reader.read_pixels(changed(change), LIMIT)


@pytest.mark.parametrize("contours", ["i", "o"])
@pytest.mark.parametrize("slope", ["1e40", "1e300"])
def test_values_that_float32_does_not_hold_are_a_row(
    tree: pathlib.Path, tmp_path: pathlib.Path, slope: str, contours: ContourKind
) -> None:
    dataset = pydicom.dcmread(image(tree, 21))
    dataset.RescaleSlope = slope
    dataset.save_as(image(tree, 21))
    run(Config(tree, tmp_path / "records", contours=contours, workers=1))
    rows = [row for row in audit_of(tmp_path / "records") if row["reason"] == "unreadable_image"]
    assert {(row["instance_number"], row["detail"]) for row in rows} == {
        ("21", "values that are not finite in float32; copy or export the file again")
    }
    images, _ = next(iter(iterate_batches(tmp_path / "records", batch_size=3)))
    assert np.isfinite(images).all()
    assert "inf" not in (tmp_path / "records" / "studies.csv").read_text()


def test_monochrome1_among_monochrome2_is_reported(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for number in (9, 29):
        dataset = pydicom.dcmread(image(tree, number))
        dataset.PhotometricInterpretation = "MONOCHROME1"
        dataset.save_as(image(tree, number))
    assert run(Config(tree, tmp_path / "records")).records == {"train": 8}
    (row,) = [row for row in audit_of(tmp_path / "records") if row["reason"] == "mixed_photometric"]
    assert (row["study_id"], row["path"], row["level"]) == ("PHANTOM001", "dicoms/PHANTOM001", "warning")
    assert row["detail"].startswith("2 of 4 images written are MONOCHROME1, most of the data set are MONOCHROME2")


def test_monochrome1_throughout_is_not_reported(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for path in (tree / "dicoms").rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.PhotometricInterpretation = "MONOCHROME1"
        dataset.save_as(path)
    run(Config(tree, tmp_path / "records"))
    assert found_by(tmp_path / "records", "mixed_photometric") == []


def test_a_lookup_table_whose_first_value_is_far_away_is_applied() -> None:
    """The difference of 30000 and -30000 does not fit 16 bits, and must not wrap."""

    def change(dataset: pydicom.FileDataset) -> None:
        item = pydicom.Dataset()
        item.add_new("LUTDescriptor", "SS", [100, -30000, 16])
        item.add_new("ModalityLUTType", "LO", "US")
        item.add_new("LUTData", "US", list(range(100, 200)))
        dataset.ModalityLUTSequence = [item]
        dataset.PixelData = np.array([[-32000, -29999, 30000]], np.int16).tobytes()
        dataset.Rows, dataset.Columns = 1, 3

    assert reader.read_pixels(changed(change), LIMIT).tolist() == [[100, 101, 199]]
