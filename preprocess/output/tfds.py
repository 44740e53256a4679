"""The two files by which ``tfds.builder_from_directory`` knows a data set (TFDS, "Load external tfrecord").

TFDS itself is not needed to write them; the fields are those of its ``feature.proto`` and ``dataset_info.proto``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline import schema
from pipeline.manifest import SplitInfo

_FEATURES = "tensorflow_datasets.core.features"


def features(shape: Sequence[int], image_dtype: str) -> bytes:
    """``features.json``: how each feature is decoded."""
    meta = {
        schema.STUDY_ID: _text(),
        schema.CONTOUR_ID: _text(),
        schema.INSTANCE_NUMBER: _tensor((), "int64"),
        schema.SLICE_INDEX: _tensor((), "int64"),
        schema.PHASE_INDEX: _tensor((), "int64"),
        schema.PIXEL_SPACING_MM: _tensor((2,), "float32"),
        schema.SLICE_LOCATION_MM: _tensor((), "float32"),
    }
    return _json(
        _dict(
            {
                # Raw bytes are what TFDS calls the encoding "bytes".
                schema.IMAGE: _tensor(shape, image_dtype, "bytes"),
                schema.MASK: _tensor(shape, "bool", "bytes"),
                # TFDS joins nested names with a slash, as ours are.
                "meta": _dict({name.removeprefix("meta/"): feature for name, feature in meta.items()}),
            }
        )
    )


def dataset_info(splits: Mapping[str, SplitInfo]) -> bytes:
    """``dataset_info.json``: splits and shard lengths."""
    return _json(
        {
            "name": schema.DATASET_NAME,
            "version": f"{schema.SCHEMA_VERSION}.0.0",
            "description": "Cardiac MRI images and masks of the left ventricle.",
            "fileFormat": "tfrecord",
            "splits": [
                {
                    "name": name,
                    "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                    "numBytes": str(sum(shard.bytes for shard in split.shards)),
                    "shardLengths": [str(shard.count) for shard in split.shards],
                }
                for name, split in splits.items()
            ],
        }
    )


def _tensor(shape: Sequence[int], dtype: str, encoding: str = "none") -> dict[str, Any]:
    return {
        "pythonClassName": f"{_FEATURES}.tensor_feature.Tensor" if shape else f"{_FEATURES}.scalar.Scalar",
        "tensor": {
            "shape": {"dimensions": [str(size) for size in shape]} if shape else {},
            "dtype": dtype,
            "encoding": encoding,
        },
    }


def _text() -> dict[str, Any]:
    return {"pythonClassName": f"{_FEATURES}.text_feature.Text", "text": {}}


def _dict(members: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "pythonClassName": f"{_FEATURES}.features_dict.FeaturesDict",
        "featuresDict": {"features": dict(members)},
    }


def _json(fields: Mapping[str, Any]) -> bytes:
    return (json.dumps(fields, indent=2, sort_keys=True) + "\n").encode("ascii")
