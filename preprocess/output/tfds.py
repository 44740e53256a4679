"""The two files that ``tfds.builder_from_directory`` needs (TFDS, "Load external tfrecord").

Writing them does not need TFDS; the fields are those of its ``feature.proto`` and ``dataset_info.proto``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline import schema
from pipeline.manifest import SplitInfo

_FEATURES = "tensorflow_datasets.core.features"


def features(shape: tuple[int, ...], image_dtype: str, mask_classes: Sequence[str]) -> bytes:
    """``features.json``: how each feature is decoded, and what each value of a label map means."""
    mask_dtype = "uint8" if mask_classes else "bool"
    members: dict[str, Any] = {}
    groups: dict[str, dict[str, Any]] = {}
    for feature in schema.FEATURES:
        # TFDS joins the names of a group and its member with a slash, too.
        group, _, name = feature.name.rpartition("/")
        (groups.setdefault(group, {}) if group else members)[name] = _feature(
            feature, *feature.of(shape, image_dtype, mask_dtype)
        )
    if mask_classes:
        members[schema.MASK]["description"] = ", ".join(f"{label} {name}" for label, name in enumerate(mask_classes))
    return _json(_dict(members | {group: _dict(content) for group, content in groups.items()}))


def dataset_info(splits: Mapping[str, SplitInfo], label_maps: bool, prefix: str) -> bytes:
    """``dataset_info.json``: splits, shard lengths, and the names of shards, which begin with ``prefix``."""
    return _json(
        {
            "name": schema.DATASET_NAME,
            "version": "2.0.0" if label_maps else "1.0.0",
            "description": f"Cardiac MRI images and {'label maps' if label_maps else 'masks'} of the left ventricle.",
            "fileFormat": "tfrecord",
            "splits": [
                {
                    "name": name,
                    "filepathTemplate": prefix + "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                    "numBytes": str(sum(shard.bytes for shard in split.shards)),
                    "shardLengths": [str(shard.count) for shard in split.shards],
                }
                for name, split in splits.items()
            ],
        }
    )


def _feature(feature: schema.Feature, shape: tuple[int, ...], dtype: str) -> dict[str, Any]:
    if feature.dtype == "str":
        return {"pythonClassName": f"{_FEATURES}.text_feature.Text", "text": {}}
    return {
        "pythonClassName": f"{_FEATURES}.tensor_feature.Tensor" if shape else f"{_FEATURES}.scalar.Scalar",
        "tensor": {
            "shape": {"dimensions": [str(size) for size in shape]} if shape else {},
            "dtype": dtype,
            # TFDS calls an array's raw bytes the encoding "bytes".
            "encoding": "bytes" if feature.kind == "bytes" else "none",
        },
    }


def _dict(members: Mapping[str, Any]) -> dict[str, Any]:
    return {"pythonClassName": f"{_FEATURES}.features_dict.FeaturesDict", "featuresDict": {"features": dict(members)}}


def _json(fields: Mapping[str, Any]) -> bytes:
    return (json.dumps(fields, indent=2, sort_keys=True) + "\n").encode("ascii")
