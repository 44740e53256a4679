"""The record format: names, dtypes, versions.

One record is one serialized ``tf.train.Example`` with these features:

=======================  =====================================================================
``image``                bytes: little-endian, row-major pixels, ``(H, W, 1)``, one of IMAGE_DTYPES
``mask``                 bytes: one byte per pixel, ``(H, W, 1)``, 1 inside the contour, else 0
``meta/study_id``        bytes: ``patient_id`` of the ``link.csv`` row
``meta/contour_id``      bytes: ``original_id`` of the ``link.csv`` row
``meta/instance_number`` int64, -1 when the header does not say
``meta/slice_index``     int64, 0 at the end of the stack that was numbered first, -1 when unknown
``meta/phase_index``     int64, 0 at the start of the cardiac cycle, -1 when unknown
``meta/pixel_spacing_mm``  float × 2: between rows, between columns (DICOM PS3.3 10.7.1.3); NaN when unknown
``meta/slice_location_mm`` float: position along the slice normal; NaN when unknown
=======================  =====================================================================
"""

SCHEMA_VERSION = 1
"""Raised whenever a reader of the former version would misread the records."""

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
"""From the smallest to the largest: a data set takes the first that holds every image exactly."""

MANIFEST_FILE = "manifest.json"
AUDIT_FILE = "audit.csv"
PAIRS_FILE = "pairs.csv"
STUDIES_FILE = "studies.csv"
DATASET_INFO_FILE = "dataset_info.json"
FEATURES_FILE = "features.json"


def shard_name(split: str, index: int, count: int) -> str:
    """File name of shard ``index`` of ``count`` (the pattern that TFDS expects).

    >>> shard_name("train", 0, 2)
    'lv-train.tfrecord-00000-of-00002'
    """
    return f"{DATASET_NAME}-{split}.tfrecord-{index:05d}-of-{count:05d}"


def index_name(shard: str) -> str:
    """File name of a shard's index: a line ``offset size`` per record, as NVIDIA's tfrecord2idx writes it."""
    return f"{shard}.idx"
