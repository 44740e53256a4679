"""The record format: features, dtypes, file names, version.

One record is one serialized ``tf.train.Example`` with the features in ``FEATURES``.
"""

from __future__ import annotations

import math
import re
from typing import Any, Literal, NamedTuple

SCHEMA_VERSION = 2
"""Increased when a reader of the previous version would misread the records. Version 2 has label maps."""

LABEL_CLASSES = ("outside", "blood pool", "myocardium")
"""What the values of a label map mean."""

FORMAT_NAME = "cardiac-lv-records"
DATASET_NAME = "lv"

IMAGE = "image"
MASK = "mask"
STUDY_ID = "meta/study_id"
CONTOUR_ID = "meta/contour_id"
INSTANCE_NUMBER = "meta/instance_number"
SLICE_INDEX = "meta/slice_index"
PHASE_INDEX = "meta/phase_index"
PIXEL_SPACING_MM = "meta/pixel_spacing_mm"
SLICE_LOCATION_MM = "meta/slice_location_mm"

IMAGE_DTYPES = ("int16", "uint16", "int32", "float32")
"""From the smallest to the largest: a data set uses the first that represents every image exactly."""


class Feature(NamedTuple):
    """A feature of a record.

    Attributes:
        name: in the Example; a slash separates a group from its member.
        kind: the list of ``tf.train.Feature`` that has the values. An array of kind bytes is one value: its bytes,
            little-endian and row by row.
        dtype: of the values, as NumPy names it; "str" for UTF-8 text, None for the data set's image dtype. A mask of a
            data set of label maps is uint8.
        shape: None for the data set's image shape, ``(H, W, 1)``.
        meaning: the content, in a few words.
    """

    name: str
    kind: Literal["bytes", "int64", "float"]
    dtype: str | None
    shape: tuple[int, ...] | None
    meaning: str

    def of(
        self, image_shape: tuple[int, ...], image_dtype: str, mask_dtype: str = "bool"
    ) -> tuple[tuple[int, ...], str]:
        """Shape and dtype in a data set.

        >>> FEATURES[1].of((256, 256, 1), "int16", "uint8")
        ((256, 256, 1), 'uint8')
        """
        dtype = mask_dtype if self.name == MASK else self.dtype
        return image_shape if self.shape is None else self.shape, dtype or image_dtype


FEATURES = (
    # Readers rely on the image and the mask being first in the order of names.
    Feature(IMAGE, "bytes", None, None, "the pixels, of one of IMAGE_DTYPES"),
    Feature(MASK, "bytes", "bool", None, "one byte per pixel: 1 inside the contour, else 0; in a label map the class"),
    Feature(STUDY_ID, "bytes", "str", (), "patient_id of the row in link.csv"),
    Feature(CONTOUR_ID, "bytes", "str", (), "original_id of the row in link.csv"),
    Feature(INSTANCE_NUMBER, "int64", "int64", (), "Instance Number (0020,0013); -1 when unknown"),
    Feature(
        SLICE_INDEX, "int64", "int64", (), "slice, 0 at the end of the stack that was numbered first; -1 when unknown"
    ),
    Feature(PHASE_INDEX, "int64", "int64", (), "phase, 0 at the start of the cardiac cycle; -1 when unknown"),
    Feature(
        PIXEL_SPACING_MM,
        "float",
        "float32",
        (2,),
        "between rows, between columns (DICOM PS3.3 10.7.1.3); NaN when unknown",
    ),
    Feature(SLICE_LOCATION_MM, "float", "float32", (), "position along the slice normal; NaN when unknown"),
)
"""Every feature of a record."""


class Column(NamedTuple):
    """A column of the table of records.

    Attributes:
        name: as in ``pairs.csv`` where that has the column.
        dtype: of the values; "str" for text.
        shape: of each value.
        missing: the value of a record for which it is not known.
        meaning: the content, in a few words.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    missing: Any
    meaning: str


COLUMNS = (
    Column("study_id", "str", (), "", "patient_id of the row in link.csv"),
    Column("contour_id", "str", (), "", "original_id of the row in link.csv"),
    Column("split", "str", (), "", "name of the split"),
    Column("instance_number", "int64", (), -1, "number of the image and its contour, from their file names"),
    Column("slice_index", "int64", (), -1, "slice, 0 at the end of the stack that was numbered first"),
    Column("phase_index", "int64", (), -1, "phase, 0 at the start of the cardiac cycle"),
    Column("pixel_spacing_mm", "float64", (2,), math.nan, "between rows, between columns"),
    Column("slice_location_mm", "float64", (), math.nan, "position along the slice normal"),
    Column("points", "int64", (), -1, "points of the contour"),
    Column("polygon_area_px", "float64", (), math.nan, "exact area within the contour"),
    Column("mask_area_px", "int64", (), -1, "pixels of the mask"),
    Column("area_difference_percent", "float64", (), math.nan, "mask_area_px compared with the contour's area"),
    Column("mean_inside", "float64", (), math.nan, "mean image value inside the mask"),
    Column("mean_ring", "float64", (), math.nan, "mean image value in a ring around the mask"),
    Column(
        "inner_inside_outer_percent", "float64", (), math.nan, "share of the inner contour's area inside the outer one"
    ),
    Column("implausibility", "float64", (), math.nan, "how much speaks against the contour; above 8.5 it is a warning"),
    Column("myocardium_area_mm2", "float64", (), math.nan, "area between the inner and the outer contour"),
    Column("wall_thickness_mm", "float64", (), math.nan, "mean distance between the inner and the outer contour"),
)
"""The columns of ``records.npy``; later versions may add more."""

MANIFEST_FILE = "manifest.json"
AUDIT_FILE = "audit.csv"
PAIRS_FILE = "pairs.csv"
TABLE_FILE = "records.npy"
STUDIES_FILE = "studies.csv"
DATASET_INFO_FILE = "dataset_info.json"
FEATURES_FILE = "features.json"
TFDS_FILES = (DATASET_INFO_FILE, FEATURES_FILE)
"""The files that TFDS reads, which it finds by these names alone."""

_OF_JOB = re.compile(r"job-[0-9a-f]{16}-(.+)")


def shard_name(split: str, index: int, count: int) -> str:
    """File name of shard ``index`` of ``count`` (the pattern that TFDS expects).

    >>> shard_name("train", 0, 2)
    'lv-train.tfrecord-00000-of-00002'
    """
    return f"{DATASET_NAME}-{split}.tfrecord-{index:05d}-of-{count:05d}"


def job_prefix(job: str) -> str:
    """What the names of a job's files begin with in a store, where files cannot be renamed together.

    Args:
        job: 16 hexadecimal digits, different for each job.

    >>> job_prefix("0123456789abcdef") + "audit.csv"
    'job-0123456789abcdef-audit.csv'
    """
    return f"job-{job}-"


def plain_name(name: str) -> str:
    """The name of a file without the prefix of a job.

    >>> plain_name("job-0123456789abcdef-audit.csv"), plain_name("audit.csv")
    ('audit.csv', 'audit.csv')
    """
    match = _OF_JOB.fullmatch(name)
    return match[1] if match else name


def index_name(shard: str) -> str:
    """File name of a shard's index: a line ``offset size`` per record, as NVIDIA's tfrecord2idx writes it.

    >>> index_name("lv-train.tfrecord-00000-of-00002")
    'lv-train.tfrecord-00000-of-00002.idx'
    """
    return f"{shard}.idx"
