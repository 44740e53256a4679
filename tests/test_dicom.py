import hashlib
import io
import math
import pathlib
from collections.abc import Callable

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pydicom
import pytest
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID, EnhancedMRImageStorage, RLELossless

from preprocess.dicom import reader
from preprocess.findings import InputError
from preprocess.model import ImageHeader
from preprocess.output import dtypes

from .helpers.dicom import LIMIT, changed, get_testdata_file, setting


def pixels_of(name: str) -> np.ndarray:
    with open(get_testdata_file(name), "rb") as file:
        return reader.read_pixels(file, LIMIT)


def header_of(name: str) -> ImageHeader:
    with open(get_testdata_file(name), "rb") as file:
        return reader.read_header(file, LIMIT)


@pytest.mark.parametrize(
    "name",
    [
        "MR_small_implicit.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_padded.dcm",
        "MR_small_RLE.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
    ],
)
def test_every_encoding_of_an_image_gives_the_same_pixels(name: str) -> None:
    expected = pydicom.dcmread(get_testdata_file("MR_small.dcm"))
    assert np.array_equal(pixels_of(name), expected.pixel_array)
    assert header_of(name).shape == (64, 64)
    assert header_of(name).value_range == (-32768, 32767)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("JPGExtended.dcm", 0, 264),
        ("JPEG2000.dcm", -30, 245),
        ("JPEGLSNearLossless_08.dcm", 0, 255),
        ("JPEGLSNearLossless_16.dcm", 0, 65535),
        ("examples_overlay.dcm", 0, 1123),
        ("image_dfl.dcm", 0, 255),
        ("rtdose_1frame.dcm", 795000, 1254000),
        ("rtdose_rle_1frame.dcm", 795000, 1254000),
        ("CT_small.dcm", 128 - 1024, 2191 - 1024),
        ("rtdose_expb_1frame.dcm", 795000, 1254000),
        ("liver_1frame.dcm", 0, 1),
        ("liver_expb_1frame.dcm", 0, 1),
        ("693_J2KI.dcm", -2971 - 1024, 2836 - 1024),
    ],
)
def test_samples_of_pydicom_have_their_known_values(name: str, low: int, high: int) -> None:
    pixels = pixels_of(name)
    assert pixels.dtype.kind in "iu"
    assert (pixels.min(), pixels.max()) == (low, high)
    value_range = header_of(name).value_range
    assert value_range is not None
    least, most = value_range
    assert least <= low
    assert high <= most


@pytest.mark.parametrize(
    ("name", "reason", "message"),
    [
        ("SC_rgb_jpeg.dcm", "unsupported_image", "it is not grayscale"),
        ("examples_palette.dcm", "unsupported_image", "it is not grayscale"),
        ("rtdose.dcm", "unsupported_image", r"NumberOfFrames \(0028,0008\) is 15, 1 expected"),
        ("test-SR.dcm", "unsupported_image", "it has no pixels"),
        ("MR_truncated.dcm", "unreadable_image", r"the pixels cannot be decoded \(ValueError\)"),
        ("JPEG-lossy.dcm", "unreadable_image", r"the pixels cannot be decoded \(RuntimeError\)"),
        ("no_meta.dcm", "unreadable_image", r"it cannot be read as a DICOM file \(InvalidDicomError\)"),
        ("meta_missing_tsyntax.dcm", "unreadable_image", "it has no Transfer Syntax UID"),
        ("J2K_pixelrep_mismatch.dcm", "unreadable_image", r"its compressed pixels go beyond .*, -4096 to 4095"),
        ("badVR.dcm", "unreadable_image", r"Number of Frames \(0028,0008\) cannot be read"),
    ],
)
def test_a_file_that_is_not_supported_is_refused_with_a_reason(name: str, reason: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        pixels_of(name)
    assert raised.value.reason == reason
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("vr", "value"), [("UI", ["1.2.840.10008.1.2.1", "1.2"]), ("LO", "1.2.840.10008.1.2.1")])
def test_a_transfer_syntax_that_is_not_one_uid_is_refused(vr: str, value: object) -> None:
    dataset = pydicom.dcmread(get_testdata_file("MR_small.dcm"))
    dataset.file_meta[0x00020010] = pydicom.DataElement(0x00020010, vr, value)
    buffer = DicomBytesIO()
    with pydicom.config.disable_value_validation():
        write_file_meta_info(buffer, dataset.file_meta, enforce_standard=False)
    content = bytes(128) + b"DICM" + buffer.getvalue() + changed(lambda _: None).getvalue()[332:]
    with pytest.raises(InputError, match="it has no Transfer Syntax UID") as raised:
        reader.read_pixels(io.BytesIO(content), LIMIT)
    assert raised.value.reason == "unreadable_image"


@pytest.mark.parametrize("number", [b"2147483648", b"-2147483649", b"9" * 25])
def test_an_instance_number_beyond_32_bits_is_refused(number: bytes) -> None:
    with pytest.raises(InputError, match=r"Instance Number \(0020,0013\) cannot be read"):
        reader.read_header(changed(setting(InstanceNumber=number)), LIMIT)


def test_the_header_is_read_without_the_pixels() -> None:
    with open(get_testdata_file("MR_truncated.dcm"), "rb") as file:
        header = reader.read_header(file, LIMIT)
        assert file.tell() < 2000
    assert header.patient_id == "4MR1"
    assert header.instance_number == 1
    assert header.pixel_spacing_mm == (0.3125, 0.3125)


@pytest.mark.parametrize(
    ("slope", "intercept", "expected"),
    [
        (None, None, lambda stored: stored),
        ("", "", lambda stored: stored),
        (None, 5, lambda stored: stored + 5),
        (2, None, lambda stored: stored * 2),
        (-3, 7, lambda stored: stored * -3 + 7),
        (0.5, None, lambda stored: stored * 0.5),
        (1, 0.25, lambda stored: stored + 0.25),
        (1e300, None, lambda stored: stored * 1e300),
    ],
)
def test_rescale_is_applied_and_keeps_whole_values_whole(
    slope: object, intercept: object, expected: Callable[[np.ndarray], np.ndarray]
) -> None:
    elements = {"RescaleSlope": slope, "RescaleIntercept": intercept}
    given = {keyword: value for keyword, value in elements.items() if value is not None}
    stored = pydicom.dcmread(get_testdata_file("MR_small.dcm")).pixel_array.astype(np.int64)
    pixels = reader.read_pixels(changed(setting(**given)), LIMIT)
    assert np.array_equal(pixels, expected(stored))
    whole = not isinstance(slope, float) and not isinstance(intercept, float)
    assert (pixels.dtype.kind in "iu") == whole
    value_range = reader.read_header(changed(setting(**given)), LIMIT).value_range
    ends = sorted(int(expected(np.array(end))) for end in (-32768, 32767))
    assert value_range == (tuple(ends) if whole else None)


def test_monochrome1_is_not_inverted() -> None:
    pixels = reader.read_pixels(changed(setting(PhotometricInterpretation="MONOCHROME1")), LIMIT)
    assert np.array_equal(pixels, pixels_of("MR_small.dcm"))


def test_digests_are_of_the_pixels_alone() -> None:
    def digest(file: io.BytesIO) -> bytes:
        return reader.read_fingerprint(file, LIMIT)[1].pixels

    plain = digest(changed(setting()))
    assert digest(changed(setting(PatientID="SOMEBODY", InstanceNumber=7))) == plain
    pixels = pydicom.dcmread(get_testdata_file("MR_small.dcm")).PixelData
    assert plain == hashlib.sha256(pixels).digest()
    assert digest(changed(setting(PixelData=pixels[:-2] + b"\0\0"))) != plain


@pytest.mark.parametrize(
    "elements",
    [{"RescaleSlope": "0.5"}, {"HighBit": 14}, {"PatientID": "SOMEBODY"}, {"PixelData": bytes(2 * 64 * 64)}],
)
def test_pixels_are_those_of_the_file_that_was_examined(elements: dict[str, object]) -> None:
    header, fingerprint = reader.read_fingerprint(changed(setting()), LIMIT)
    # As text, in which NaN is equal to itself.
    assert repr(header) == repr(reader.read_header(changed(setting()), LIMIT))
    assert reader.read_image(changed(setting()), LIMIT, fingerprint)[1].shape == (64, 64)
    with pytest.raises(InputError, match=r"^it changed while the job ran; run the job again$") as raised:
        reader.read_image(changed(setting(**elements)), LIMIT, fingerprint)
    assert raised.value.reason == "changed_image"


def test_an_image_without_pixels_is_refused() -> None:
    def change(dataset: pydicom.FileDataset) -> None:
        del dataset.PixelData

    for read in (reader.read_fingerprint, reader.read_pixels):
        with pytest.raises(InputError, match=r"^it has no pixels; convert the image$") as raised:
            read(changed(change), LIMIT)
        assert raised.value.reason == "unsupported_image"


def test_a_modality_lut_takes_the_place_of_rescale() -> None:
    def change(dataset: pydicom.FileDataset) -> None:
        item = pydicom.Dataset()
        item.LUTDescriptor = [4096, 0, 16]
        item["LUTDescriptor"].VR = "US"
        item.add_new("ModalityLUTType", "LO", "US")
        item.add_new("LUTData", "US", [(7 * value) % 65536 for value in range(4096)])
        dataset.ModalityLUTSequence = [item]

    pixels = reader.read_pixels(changed(change), LIMIT)
    assert np.array_equal(pixels, pixels_of("MR_small.dcm").astype(int) * 7 % 65536)
    assert reader.read_header(changed(change), LIMIT).value_range == (0, 65535)


def test_float_pixels_are_read_unchanged() -> None:
    values = np.linspace(-1, 1, 64 * 64, dtype=np.float32).reshape(64, 64)

    def change(dataset: pydicom.FileDataset) -> None:
        del dataset.PixelData, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation
        dataset.BitsAllocated = 32
        dataset.FloatPixelData = values.tobytes()

    assert np.array_equal(reader.read_pixels(changed(change), LIMIT), values)
    assert reader.read_header(changed(change), LIMIT).value_range is None


def test_a_promise_of_gigabytes_is_refused_before_decoding() -> None:
    def change(dataset: pydicom.FileDataset) -> None:
        dataset.file_meta.TransferSyntaxUID = RLELossless
        dataset.PixelData = pydicom.encaps.encapsulate([b"\x01" + b"\0" * 70])
        dataset["PixelData"].is_undefined_length = True
        dataset.Rows = dataset.Columns = 65535

    expected = r"Rows × Columns is 65535 × 65535, at most 16777216 pixels expected; raise --max_image_pixels"
    for read in (reader.read_header, reader.read_pixels):
        with pytest.raises(InputError, match=expected):
            read(changed(change), LIMIT)
    with pytest.raises(InputError, match="at most 4095 pixels expected"):
        reader.read_header(changed(setting()), 4095)


def test_a_transfer_syntax_without_a_codec_is_refused() -> None:
    def change(dataset: pydicom.FileDataset) -> None:
        dataset.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.100")

    with pytest.raises(InputError, match=r"no codec for its transfer syntax \(MPEG2 Main Profile") as raised:
        reader.read_pixels(changed(change, "MR_small_RLE.dcm"), LIMIT)
    assert raised.value.reason == "unsupported_image"


def test_a_codec_that_is_not_installed_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pydicom.pixels.decoders.base.Decoder.is_available", property(lambda decoder: False))
    with pytest.raises(
        InputError, match=r"codec for JPEG-LS Lossless .* is not installed; pip install '\.\[preprocess,jpeg\]'"
    ) as raised:
        pixels_of("MR_small_jpeg_ls_lossless.dcm")
    assert raised.value.reason == "unsupported_image"


@pytest.mark.parametrize(
    ("elements", "reason", "message"),
    [
        ({"PixelSpacing": b"0.5\\SECRET"}, "unreadable_image", r"Pixel Spacing \(0028,0030\) cannot be read"),
        ({"PixelSpacing": [1, 1, 1]}, "unreadable_image", r"Pixel Spacing \(0028,0030\) is not 2 finite numbers"),
        ({"InstanceNumber": b"SECRET"}, "unreadable_image", r"Instance Number \(0020,0013\) cannot be read"),
        ({"RescaleSlope": "0"}, "unreadable_image", "Rescale Slope and Intercept are not a finite scale"),
        ({"RescaleIntercept": "inf"}, "unreadable_image", "Rescale Slope and Intercept are not a finite scale"),
        ({"SOPClassUID": EnhancedMRImageStorage}, "unsupported_image", "of an enhanced, multi-frame class"),
        ({"Rows": None}, "unsupported_image", r"Rows \(0028,0010\) or Columns \(0028,0011\) is missing"),
        ({"BitsStored": 64}, "unsupported_image", r"Bits Stored \(0028,0101\) is 64, 1 to 16 expected"),
        ({"PhotometricInterpretation": "SECRET"}, "unsupported_image", "not grayscale"),
    ],
)
def test_a_bad_element_is_named_and_its_text_is_not(elements: dict[str, object], reason: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        reader.read_header(changed(setting(**elements)), LIMIT)
    assert raised.value.reason == reason
    assert "SECRET" not in str(raised.value)


def test_missing_elements_are_none_or_nan() -> None:
    def change(dataset: pydicom.FileDataset) -> None:
        for keyword in ("PatientID", "InstanceNumber", "PixelSpacing", "ImagePositionPatient", "TriggerTime"):
            if keyword in dataset:
                delattr(dataset, keyword)

    header = reader.read_header(changed(change), LIMIT)
    assert (header.patient_id, header.instance_number) == (None, None)
    assert header.position_mm is None
    assert all(map(math.isnan, (*header.pixel_spacing_mm, header.trigger_time_ms)))


def test_location_is_along_the_slice_normal() -> None:
    elements = {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1], "ImagePositionPatient": [-12.5, 30, 40]}
    assert reader.read_header(changed(setting(**elements)), LIMIT).location_mm == 12.5


@pytest.mark.parametrize(
    ("ranges", "dtype", "exact"),
    [
        ([(0, 255)], "int16", True),
        ([(-32768, 32767), (0, 4095)], "int16", True),
        ([(0, 65535)], "uint16", True),
        ([(0, 65535), (-1, 0)], "int32", True),
        ([(-(2**31), 2**31 - 1)], "int32", True),
        ([(0, 2**32 - 1)], "float32", False),
        ([None], "float32", False),
        ([(0, 255), None], "float32", False),
    ],
)
def test_the_smallest_dtype_that_fits_every_range_is_chosen(ranges: list, dtype: str, exact: bool) -> None:
    assert dtypes.smallest_dtype(ranges) == (np.dtype(dtype), exact)


def test_values_never_wrap() -> None:
    assert dtypes.to_dtype(np.array([[40000]]), np.dtype(np.uint16)).dtype == np.uint16
    for value in (40000, -32769):
        with pytest.raises(InputError, match=r"values beyond int16, which its header rules out"):
            dtypes.to_dtype(np.array([[value]]), np.dtype(np.int16))
    with pytest.raises(InputError, match=r"values that are not finite"):
        dtypes.to_dtype(np.array([[np.nan]]), np.dtype(np.float32))


@hypothesis.settings(max_examples=150)
@hypothesis.given(st.data())
def test_a_damaged_file_gives_an_image_or_an_input_error(data: st.DataObject) -> None:
    content = bytearray(pathlib.Path(get_testdata_file("MR_small_RLE.dcm")).read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    for place in data.draw(st.lists(st.integers(0, max(0, min(len(content), 2000) - 1)), max_size=4)):
        if place < len(content):
            content[place] = data.draw(st.integers(0, 255))
    try:
        reader.read_header(io.BytesIO(content), LIMIT)
        pixels = reader.read_pixels(io.BytesIO(content), LIMIT)
    except InputError as error:
        assert error.reason in ("unreadable_image", "unsupported_image")
    else:
        assert pixels.ndim == 2
