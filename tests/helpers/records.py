"""Records, read by TensorFlow."""

import pathlib

import tensorflow as tf


def pairs_of(records: pathlib.Path) -> list[tuple[tuple[str, int], bytes, bytes]]:
    """Study, number, image and mask of every record, in storage order."""
    found = []
    for path in sorted(records.glob("*.tfrecord-?????-of-?????")):
        for data in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            feature = tf.train.Example.FromString(data).features.feature
            key = (
                feature["meta/study_id"].bytes_list.value[0].decode(),
                feature["meta/instance_number"].int64_list.value[0],
            )
            found.append((key, feature["image"].bytes_list.value[0], feature["mask"].bytes_list.value[0]))
    return found
