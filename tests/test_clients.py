"""Other readers open the records, unchanged."""

import importlib.util
import pathlib
import subprocess
import sys
import zlib

import numpy as np
import pytest

from pipeline import DatasetInfo, iterate_batches

pytestmark = [
    pytest.mark.clients,
    # Their own imports use deprecated parts of the standard library and NumPy.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def stored(records: pathlib.Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """All images and masks of a split, in storage order."""
    batches = list(iterate_batches(records, split=split, shuffle=False, epochs=1, image_dtype=None))
    return np.concatenate([images for images, _ in batches]), np.concatenate([masks for _, masks in batches])


def test_tfds_reads_every_record(phantom_records: pathlib.Path) -> None:
    tfds = pytest.importorskip("tensorflow_datasets", reason="make test-clients installs it")
    builder = tfds.builder_from_directory(phantom_records)
    info = DatasetInfo.load(phantom_records)
    assert set(builder.info.splits) == set(info.splits)
    for name, split in info.splits.items():
        assert builder.info.splits[name].num_examples == split.count
        assert builder.info.splits[name].shard_lengths == [shard.count for shard in split.shards]
        examples = list(tfds.as_numpy(builder.as_dataset(split=name)))
        images, masks = stored(phantom_records, name)
        assert np.array_equal(np.stack([example["image"] for example in examples]), images)
        assert np.array_equal(np.stack([example["mask"] for example in examples]), masks)
        assert {example["meta"]["study_id"].decode() for example in examples} == set(split.studies)
        assert examples[0]["meta"]["pixel_spacing_mm"].shape == (2,)
        assert examples[0]["meta"]["slice_location_mm"].dtype == np.float32


def test_tfds_reads_label_maps_and_names_their_classes(phantom_label_maps: pathlib.Path) -> None:
    tfds = pytest.importorskip("tensorflow_datasets", reason="make test-clients installs it")
    builder = tfds.builder_from_directory(phantom_label_maps)
    assert builder.info.features["mask"].doc.desc == "0 outside, 1 blood pool, 2 myocardium"
    masks = [example["mask"] for example in tfds.as_numpy(builder.as_dataset(split="train"))]
    assert np.array_equal(np.stack(masks), stored(phantom_label_maps, "train")[1])


def test_the_tfrecord_package_reads_every_record(phantom_records: pathlib.Path) -> None:
    """In a separate process: the package has a copy of TensorFlow's protocol buffers, which conflicts with TensorFlow.

    Each shard is read in two shares, found by our index.
    """
    if importlib.util.find_spec("tfrecord") is None:
        pytest.skip("make test-clients installs it")
    images, masks = stored(phantom_records, "train")
    shards = [str(phantom_records / shard.name) for shard in DatasetInfo.load(phantom_records).splits["train"].shards]
    code = f"""
import zlib
from tfrecord.reader import tfrecord_loader
for path in {shards!r}:
    for half in (0, 1):
        for record in tfrecord_loader(path, path + ".idx", shard=(half, 2)):
            print(zlib.crc32(record["image"]), zlib.crc32(record["mask"]))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = [
        f"{zlib.crc32(image.tobytes())} {zlib.crc32(mask.tobytes())}" for image, mask in zip(images, masks, strict=True)
    ]
    assert result.stdout.splitlines() == expected
