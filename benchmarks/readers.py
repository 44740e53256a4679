"""The readers that ``bench_read`` compares: ours and the common alternatives.

Each gives batches of 8 without end: images float32 (int16 where the name says so) and masks bool, NumPy arrays
``(8, 256, 256, 1)``, in a new order each epoch. Each is written as its library's documentation recommends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import itertools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import store

BATCH_SIZE = 8
Batch = tuple[npt.NDArray[Any], ...]
Epochs = Iterator[Iterator[Batch]]


@dataclasses.dataclass(frozen=True)
class Reader:
    """A reader.

    Attributes:
        prepare: takes a directory and a number of records, writes the records below it, and returns their path.
        begin: takes that path and number, and returns an iterator over epochs, each an iterator of batches.
        modules: modules that the reader needs; they are imported before the clock starts.
    """

    prepare: Callable[[pathlib.Path, int], pathlib.Path]
    begin: Callable[[pathlib.Path, int], Epochs]
    modules: tuple[str, ...] = ()

    @property
    def installed(self) -> bool:
        """Whether all its modules are installed."""
        with contextlib.suppress(ModuleNotFoundError):
            return all(importlib.util.find_spec(module) for module in self.modules)
        return False


def _cut(batches: Iterator[Batch], count: int) -> Epochs:
    """Cuts an endless sequence of batches into epochs."""
    while True:
        yield itertools.islice(batches, -(-count // BATCH_SIZE))


def _iterate_batches(**arguments: Any) -> Callable[[pathlib.Path, int], Epochs]:
    def begin(path: pathlib.Path, count: int) -> Epochs:
        from pipeline import iterate_batches

        return _cut(iter(iterate_batches(path, epochs=None, **arguments)), count)

    return begin


def _made_anew(path: pathlib.Path, count: int) -> Epochs:
    from pipeline import iterate_batches

    return (iter(iterate_batches(path, prefetch=0)) for _ in itertools.count())


def _made_anew_of_records(path: pathlib.Path, count: int) -> Epochs:
    from pipeline import Records, iterate_batches

    records = Records(path, "train")
    return (iter(iterate_batches(records, prefetch=0)) for _ in itertools.count())


def _make_dataset(**arguments: Any) -> Callable[[pathlib.Path, int], Epochs]:
    def begin(path: pathlib.Path, count: int) -> Epochs:
        from pipeline import make_dataset

        return _cut(iter(make_dataset(path, epochs=None, **arguments).as_numpy_iterator()), count)

    return begin


def _gather(dtype: type[np.generic]) -> Callable[[pathlib.Path, int], Epochs]:
    def begin(path: pathlib.Path, count: int) -> Epochs:
        stored = store.memory_maps(path, count)
        images, masks = stored[0].astype(dtype), np.array(stored[1])

        def epoch(number: int) -> Iterator[Batch]:
            order = np.random.default_rng(number).permutation(count)
            for first in range(0, count, BATCH_SIZE):
                positions = order[first : first + BATCH_SIZE]
                yield images[positions], masks[positions]

        return map(epoch, itertools.count())

    return begin


def _parse(serialized: Any) -> Any:
    import tensorflow as tf

    features = {name: tf.io.FixedLenFeature([], tf.string) for name in ("image", "mask")}
    example = tf.io.parse_single_example(serialized, features)
    image = tf.reshape(tf.io.decode_raw(example["image"], tf.int16), (*store.SHAPE, 1))
    mask = tf.reshape(tf.io.decode_raw(example["mask"], tf.uint8), (*store.SHAPE, 1))
    return tf.cast(image, tf.float32), tf.cast(mask, tf.bool)


def _tf_records(buffer: int | None, tuned: bool) -> Callable[[pathlib.Path, int], Epochs]:
    def begin(path: pathlib.Path, count: int) -> Epochs:
        import tensorflow as tf

        parallel = tf.data.AUTOTUNE if tuned else None
        dataset = tf.data.TFRecordDataset(store.shards(path), num_parallel_reads=parallel)
        dataset = dataset.shuffle(buffer or count).map(_parse, num_parallel_calls=parallel).batch(BATCH_SIZE)
        dataset = dataset.prefetch(tf.data.AUTOTUNE) if tuned else dataset
        return (dataset.as_numpy_iterator() for _ in itertools.count())

    return begin


def _tensor_slices(path: pathlib.Path, count: int) -> Epochs:
    import tensorflow as tf

    images, masks = store.memory_maps(path, count)
    dataset = tf.data.Dataset.from_tensor_slices((images.astype(np.float32), np.array(masks)))
    dataset = dataset.shuffle(count).batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE)
    return (dataset.as_numpy_iterator() for _ in itertools.count())


def _tfds(path: pathlib.Path, count: int) -> Epochs:
    import tensorflow as tf
    import tensorflow_datasets as tfds

    dataset = tfds.builder_from_directory(path).as_dataset("train", shuffle_files=True).shuffle(1000)

    def cast(example: Any) -> Any:
        return tf.cast(example["image"], tf.float32), tf.cast(example["mask"], tf.bool)

    dataset = dataset.map(cast, num_parallel_calls=tf.data.AUTOTUNE).batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE)
    return (dataset.as_numpy_iterator() for _ in itertools.count())


def _array_record(root: pathlib.Path, count: int) -> pathlib.Path:
    from array_record.python.array_record_module import ArrayRecordWriter

    def write(path: pathlib.Path) -> None:
        writer = ArrayRecordWriter(str(path / "pairs.array_record"), "group_size:1,uncompressed")
        for position in range(count):
            image, mask = store.pair_of_arrays(position)
            writer.write(image.tobytes() + mask.tobytes())
        writer.close()

    return store.prepared(root / "array_record", write)


def _grain(path: pathlib.Path, count: int) -> Epochs:
    import grain

    pixels = int(np.prod(store.SHAPE))

    def decode(record: bytes) -> Batch:
        image = np.frombuffer(record, np.int16, pixels).reshape(*store.SHAPE, 1)
        return image.astype(np.float32), np.frombuffer(record, np.bool_, pixels, 2 * pixels).reshape(*store.SHAPE, 1)

    source = grain.sources.ArrayRecordDataSource(str(path / "pairs.array_record"))
    dataset = grain.MapDataset.source(source).seed(0).shuffle().map(decode).batch(BATCH_SIZE).repeat()
    return _cut(iter(dataset.to_iter_dataset()), count)


def _torch_memmap(path: pathlib.Path, count: int) -> Epochs:
    import torch

    images, masks = store.memory_maps(path, count)

    class Pairs(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return count

        def __getitems__(self, positions: list[int]) -> Any:
            return torch.from_numpy(images[positions]).float(), torch.from_numpy(masks[positions])

    loader = torch.utils.data.DataLoader(Pairs(), BATCH_SIZE, shuffle=True, collate_fn=lambda batch: batch)
    return (((image.numpy(), mask.numpy()) for image, mask in loader) for _ in itertools.count())


def _torch_records(path: pathlib.Path, count: int) -> Epochs:
    import torch

    from pipeline import Records

    loader = torch.utils.data.DataLoader(Records(path), BATCH_SIZE, shuffle=True)
    return (((images.numpy(), masks.numpy()) for images, masks in loader) for _ in itertools.count())


def _torch_batches(path: pathlib.Path, count: int) -> Epochs:
    import torch

    from pipeline.torch import BatchDataset

    loader = torch.utils.data.DataLoader(BatchDataset(path), batch_size=None)
    return (((images.numpy(), masks.numpy()) for images, masks in loader) for _ in itertools.count())


def _arrow(root: pathlib.Path, count: int) -> pathlib.Path:
    import datasets

    def write(path: pathlib.Path) -> None:
        # Of the ways to store an image (Array2D, lists, bytes), bytes are the fastest by far.
        features = datasets.Features(image=datasets.Value("binary"), mask=datasets.Value("binary"))

        def pairs() -> Iterator[dict[str, bytes]]:
            for position in range(count):
                image, mask = store.pair_of_arrays(position)
                yield {"image": image.tobytes(), "mask": mask.tobytes()}

        cache = str(path / "cache")
        datasets.Dataset.from_generator(pairs, features=features, cache_dir=cache).save_to_disk(path / "arrow")

    return store.prepared(root / "arrow", write)


def _hugging_face(path: pathlib.Path, count: int) -> Epochs:
    import datasets

    dataset = datasets.load_from_disk(path / "arrow")

    def epoch(number: int) -> Iterator[Batch]:
        for batch in dataset.shuffle(seed=number).iter(BATCH_SIZE):
            images = [np.frombuffer(image, np.int16) for image in batch["image"]]
            masks = [np.frombuffer(mask, np.bool_) for mask in batch["mask"]]
            shape = (-1, *store.SHAPE, 1)
            yield np.stack(images, dtype=np.float32).reshape(shape), np.stack(masks).reshape(shape)

    return map(epoch, itertools.count())


def _monai(path: pathlib.Path, count: int) -> Epochs:
    import monai.data

    images, masks = store.memory_maps(path, count)
    pairs = [{"position": position} for position in range(count)]

    def load(pair: dict[str, int]) -> Any:
        return images[pair["position"]].astype(np.float32), np.array(masks[pair["position"]])

    cached = monai.data.CacheDataset(pairs, monai.transforms.Lambda(load), num_workers=0, progress=False)
    loader = monai.data.DataLoader(cached, batch_size=BATCH_SIZE, shuffle=True, num_workers=0)
    return (((image.numpy(), mask.numpy()) for image, mask in loader) for _ in itertools.count())


def _dali(path: pathlib.Path, count: int) -> Epochs:
    import nvidia.dali as dali
    from nvidia.dali.plugin.base_iterator import LastBatchPolicy
    from nvidia.dali.plugin.pytorch import DALIGenericIterator

    shards = store.shards(path)

    @dali.pipeline_def(batch_size=BATCH_SIZE, num_threads=2, device_id=None, seed=0)
    def pipeline() -> Any:
        features = {name: dali.tfrecord.FixedLenFeature((), dali.tfrecord.string, "") for name in ("image", "mask")}
        example = dali.fn.readers.tfrecord(
            path=shards,
            index_path=[shard + ".idx" for shard in shards],
            features=features,
            random_shuffle=True,
            initial_fill=count,
            name="pairs",
        )
        image = dali.fn.reinterpret(example["image"], dtype=dali.types.INT16, shape=[*store.SHAPE, 1])
        return dali.fn.cast(image, dtype=dali.types.FLOAT), dali.fn.reshape(example["mask"], shape=[*store.SHAPE, 1])

    batches = DALIGenericIterator(
        pipeline(), ["image", "mask"], reader_name="pairs", last_batch_policy=LastBatchPolicy.PARTIAL, auto_reset=True
    )
    return (
        ((batch[0]["image"].numpy(), batch[0]["mask"].numpy() != 0) for batch in batches) for _ in itertools.count()
    )


GATHER, GATHER_INT16 = "arrays in RAM, fancy index (the limit)", "the same, int16"
PLAIN = "tf.data TFRecordDataset, shuffle(N), parsed one by one (plain)"

READERS: dict[str, Reader] = {
    GATHER: Reader(store.raw, _gather(np.float32)),
    GATHER_INT16: Reader(store.raw, _gather(np.int16)),
    PLAIN: Reader(store.records, _tf_records(None, False), ("tensorflow",)),
    "iterate_batches, prefetch=0": Reader(store.records, _iterate_batches(prefetch=0), ("pipeline.batches",)),
    "iterate_batches, prefetch=0, no CRC": Reader(
        store.records, _iterate_batches(prefetch=0, check_crc=False), ("pipeline.batches",)
    ),
    "iterate_batches, prefetch=0, int16": Reader(
        store.records, _iterate_batches(prefetch=0, image_dtype=None), ("pipeline.batches",)
    ),
    "iterate_batches, prefetch=0, no CRC, int16": Reader(
        store.records, _iterate_batches(prefetch=0, check_crc=False, image_dtype=None), ("pipeline.batches",)
    ),
    "iterate_batches, as it comes (prefetch=2)": Reader(store.records, _iterate_batches(), ("pipeline.batches",)),
    "iterate_batches, prefetch=0, a new object each epoch": Reader(store.records, _made_anew, ("pipeline.batches",)),
    "iterate_batches, prefetch=0, a new object each epoch, of one Records": Reader(
        store.records, _made_anew_of_records, ("pipeline.batches",)
    ),
    "BatchDataset in a PyTorch DataLoader": Reader(store.records, _torch_batches, ("torch", "pipeline.batches")),
    "Records in a PyTorch DataLoader": Reader(store.records, _torch_records, ("torch", "pipeline.batches")),
    "make_dataset": Reader(store.records, _make_dataset(), ("tensorflow", "pipeline.dataset")),
    "tf.data TFRecordDataset, shuffle(N), parallel, prefetch": Reader(
        store.records, _tf_records(None, True), ("tensorflow",)
    ),
    "tf.data TFRecordDataset, shuffle(1000), parallel, prefetch": Reader(
        store.records, _tf_records(1000, True), ("tensorflow",)
    ),
    "tf.data from_tensor_slices, shuffle(N)": Reader(store.raw, _tensor_slices, ("tensorflow",)),
    "TFDS, shuffle_files, shuffle(1000)": Reader(store.records, _tfds, ("tensorflow_datasets",)),
    "grain MapDataset on ArrayRecord": Reader(_array_record, _grain, ("grain", "array_record.python")),
    "PyTorch DataLoader on a raw memory map": Reader(store.raw, _torch_memmap, ("torch",)),
    "Hugging Face datasets (Arrow)": Reader(_arrow, _hugging_face, ("datasets",)),
    "MONAI CacheDataset": Reader(store.raw, _monai, ("monai",)),
    "NVIDIA DALI, TFRecord, buffer of N": Reader(store.records, _dali, ("nvidia.dali", "torch")),
}
