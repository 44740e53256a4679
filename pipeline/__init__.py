"""Reads a records directory: shuffled batches of images and masks of the left ventricle.

``make_dataset`` imports TensorFlow when it is called; everything else needs only NumPy and google-crc32c.
"""

from pipeline.batches import iterate_batches
from pipeline.dataset import make_dataset
from pipeline.errors import RecordsError
from pipeline.manifest import DatasetInfo
from pipeline.view import Records

__version__ = "0.2.0"

__all__ = ["DatasetInfo", "Records", "RecordsError", "iterate_batches", "make_dataset"]
