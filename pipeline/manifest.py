"""The manifest of a records directory: its content, and the digest of every file.

``manifest.json`` is written last, so its presence means that the directory is complete. TFRecord's own checksums do
not detect a shard that was cut between two records, lost, swapped or lengthened; the manifest does. It also has a
digest of itself, over the canonical text that :meth:`DatasetInfo.dump` writes, without the line ``"sha256"``.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pipeline import arguments, order, schema
from pipeline.directory import FileInfo as FileInfo
from pipeline.errors import RecordsError
from pipeline.remote import Directory, open_directory

# Enough for a million shards.
_MAX_BYTES = 1 << 28

_MAX_IMAGE_PIXELS = 1 << 32


@dataclasses.dataclass(frozen=True)
class ShardInfo:
    """One TFRecord file: its name within the directory, its records, its size in bytes and its SHA-256."""

    name: str
    count: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class SplitInfo:
    """A named set of whole studies and the shards that hold their records."""

    studies: tuple[str, ...]
    shards: tuple[ShardInfo, ...]

    @property
    def count(self) -> int:
        """Records in the split."""
        return sum(shard.count for shard in self.shards)

    def steps_per_epoch(self, batch_size: int = 8, drop_remainder: bool = False) -> int:
        """Batches in one epoch; a short last batch counts unless it is dropped.

        Raises:
            TypeError: ``batch_size`` is not a whole number.
            RecordsError: ``batch_size`` is below 1.
        """
        return order.steps_per_epoch(
            self.count,
            arguments.whole_number("batch_size", batch_size, 1),
            arguments.flag("drop_remainder", drop_remainder),
        )


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """The content of a records directory.

    Attributes:
        image_shape: ``(H, W, 1)``, of every image and every mask.
        image_dtype: the stored dtype, one of ``schema.IMAGE_DTYPES``.
        splits: by name.
        files: every other file of the directory except the manifest, by name.
        settings: every setting that affects the records, as given to the job.
        tool_version: version of this project that wrote the records.
        mask_classes: what each value of a label map means, from 0; empty for binary masks.
    """

    image_shape: tuple[int, int, int]
    image_dtype: npt.DTypeLike
    splits: Mapping[str, SplitInfo]
    files: Mapping[str, FileInfo]
    settings: Mapping[str, Any]
    tool_version: str
    mask_classes: tuple[str, ...] = ()

    @property
    def mask_shape(self) -> tuple[int, int, int]:
        """``(H, W, 1)``."""
        return self.image_shape

    @property
    def mask_dtype(self) -> np.dtype[Any]:
        """Uint8 for label maps, bool for binary masks."""
        return np.dtype(np.uint8 if self.mask_classes else np.bool_)

    @property
    def cardinality(self) -> int:
        """Records in all splits together."""
        return sum(split.count for split in self.splits.values())

    @property
    def studies(self) -> tuple[str, ...]:
        """Studies in all splits together, sorted."""
        return tuple(sorted(study for split in self.splits.values() for study in split.studies))

    def __repr__(self) -> str:
        """On one line: the manifest of a large data set names thousands of files and studies."""
        splits = ", ".join(
            f"{name}: {split.count} of {len(split.studies)} studies" for name, split in self.splits.items()
        )
        return (
            f"<DatasetInfo: {self.cardinality} records ({splits}), image_shape={self.image_shape}, "
            f"image_dtype={np.dtype(self.image_dtype)}, mask_dtype={self.mask_dtype}, {len(self.files)} other files, "
            f"tool_version={self.tool_version}>"
        )

    def split(self, name: str) -> SplitInfo:
        """The split of that name.

        Raises:
            RecordsError: there is no such split.
        """
        try:
            return self.splits[name]
        except KeyError:
            raise RecordsError(f"there is no split {name!r}; the splits are: {', '.join(self.splits)}") from None

    @classmethod
    def load(cls, directory: str | os.PathLike[str] | Directory) -> Self:
        """Reads the manifest and checks that every shard has its size; ``make verify`` checks the digests.

        Raises:
            RecordsError: the directory is missing, incomplete or damaged, or was written by a newer version.
        """
        opened = open_directory(directory)
        info = cls.read(opened)
        for split in info.splits.values():
            for shard in split.shards:
                path = opened.location(shard.name)
                try:
                    size = opened.size(shard.name)
                except OSError as error:
                    raise RecordsError(f"{path}: missing ({error.strerror}); write the records again") from error
                if size not in (shard.bytes, None):
                    raise RecordsError(f"{path}: {size} bytes, {shard.bytes} bytes expected; write the records again")
        return info

    @classmethod
    def read(cls, directory: str | os.PathLike[str] | Directory) -> Self:
        """Reads the manifest alone.

        Raises:
            RecordsError: it is missing, damaged, or was written by a newer version.
        """
        opened = open_directory(directory)
        path = opened.location(schema.MANIFEST_FILE)
        return cls.parse(_read_text(opened, path), path)

    @classmethod
    def parse(cls, text: bytes, path: str) -> Self:
        """The manifest of its text.

        Args:
            text: what :meth:`dump` returns.
            path: where it lies, for messages.

        Raises:
            RecordsError: it is damaged, or was written by a newer version.
        """
        try:
            info = cls._parse(text, path)
            intact = info.dump() == text
            info.check()
        except RecordsError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise RecordsError(f"{path}: damaged ({error}); write the records again") from error
        if not intact:
            raise RecordsError(f"{path}: damaged: its digest does not match its text; write the records again")
        return info

    @functools.cached_property
    def names(self) -> Mapping[str, str]:
        """What each of ``files`` is called, by its plain name: in a store, the token of a job comes before that."""
        return {schema.plain_name(name): name for name in self.files}

    @property
    def copies(self) -> Mapping[str, FileInfo]:
        """The copies of files under their plain names, which TFDS needs beside those with a job's token."""
        return {name: self.files[self.names[name]] for name in schema.TFDS_FILES if self.names.get(name, name) != name}

    def content(self, directory: str | os.PathLike[str] | Directory, name: str) -> bytes:
        """The content of one of ``files``, by its plain name, such as ``audit.csv``.

        Raises:
            RecordsError: it is missing or does not match the manifest.
        """
        opened = open_directory(directory)
        name = self.names.get(name, name)
        path = opened.location(name)
        expected = self.files.get(name)
        if expected is None:
            raise RecordsError(f"{path}: the manifest does not name this file; write the records again")
        try:
            with opened.open(name, expected) as file:
                content = file.read(expected.bytes + 1)
        except OSError as error:
            raise RecordsError(f"{path}: cannot be read ({error.strerror}); write the records again") from error
        if len(content) != expected.bytes or hashlib.sha256(content).hexdigest() != expected.sha256:
            raise RecordsError(f"{path}: does not match the manifest; write the records again")
        return content

    @classmethod
    def _parse(cls, text: bytes, path: str) -> Self:
        fields = json.loads(text)
        if fields["format"] != schema.FORMAT_NAME:
            raise RecordsError(f"{path}: format is not {schema.FORMAT_NAME}")
        if fields["schema_version"] > schema.SCHEMA_VERSION:
            raise RecordsError(
                f"{path}: schema_version is {fields['schema_version']}, at most {schema.SCHEMA_VERSION} expected; "
                "update this package"
            )
        if fields["image"]["dtype"] not in schema.IMAGE_DTYPES:
            raise RecordsError(f"{path}: image dtype is not one of {', '.join(schema.IMAGE_DTYPES)}")
        return cls(
            image_shape=tuple(fields["image"]["shape"]),
            image_dtype=np.dtype(fields["image"]["dtype"]),
            splits={
                name: SplitInfo(tuple(split["studies"]), tuple(ShardInfo(**shard) for shard in split["shards"]))
                for name, split in fields["splits"].items()
            },
            files={name: FileInfo(**file) for name, file in fields["files"].items()},
            settings=fields["settings"],
            tool_version=fields["tool_version"],
            mask_classes=tuple(fields["mask"].get("classes", ())),
        )

    def check(self) -> None:
        """Checks the type and range of every field: a matching digest does not mean that the fields make sense.

        Raises:
            ValueError: a field is wrong; the message names it.
        """
        if len(self.image_shape) != 3 or not all(map(_is_count, self.image_shape)) or 0 in self.image_shape:
            raise ValueError("image shape is not three numbers above 0")
        if math.prod(self.image_shape) > _MAX_IMAGE_PIXELS:
            raise ValueError(f"image shape has over {_MAX_IMAGE_PIXELS} pixels")
        if len(self.mask_classes) > 256 or not all(isinstance(name, str) for name in self.mask_classes):
            raise ValueError("mask classes are not at most 256 names")
        for name, split in self.splits.items():
            if not all(isinstance(study, str) for study in split.studies):
                raise ValueError(f"split {name!r}: a study is not a string")
            for shard in split.shards:
                _check_file(shard.name, shard.bytes, shard.sha256)
                # Each record takes at least one byte.
                if not _is_count(shard.count) or shard.count > shard.bytes:
                    raise ValueError(f"{shard.name!r}: count is not a number of records")
        for name, file in self.files.items():
            _check_file(name, file.bytes, file.sha256)

    def dump(self) -> bytes:
        """The manifest's canonical text; equal objects give equal bytes."""
        fields: dict[str, Any] = {
            "format": schema.FORMAT_NAME,
            # Readers of version 1 know only binary masks.
            "schema_version": schema.SCHEMA_VERSION if self.mask_classes else 1,
            "tool_version": self.tool_version,
            "settings": dict(self.settings),
            "image": {"shape": list(self.image_shape), "dtype": np.dtype(self.image_dtype).name},
            "mask": {
                "shape": list(self.mask_shape),
                "dtype": self.mask_dtype.name,
                **({"classes": list(self.mask_classes)} if self.mask_classes else {}),
            },
            "splits": {name: dataclasses.asdict(split) for name, split in self.splits.items()},
            "files": {name: dataclasses.asdict(file) for name, file in self.files.items()},
        }
        fields["sha256"] = hashlib.sha256(_canonical(fields)).hexdigest()
        return _canonical(fields)


def _read_text(directory: Directory, path: str) -> bytes:
    try:
        with directory.open(schema.MANIFEST_FILE) as file:
            size = file.seek(0, os.SEEK_END)
            if size <= _MAX_BYTES:
                file.seek(0)
                return file.read()
    except FileNotFoundError as error:
        raise RecordsError(
            f"{path}: missing, so this is not a complete records directory; write one with make records"
        ) from error
    except OSError as error:
        raise RecordsError(f"{path}: cannot be read ({error.strerror}); write the records again") from error
    raise RecordsError(f"{path}: {size} bytes, at most {_MAX_BYTES} expected; write the records again")


def _is_count(number: object) -> bool:
    """Whether it is a whole number from 0 to the largest size of a file."""
    return isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 1 << 63


def _check_file(name: object, size: object, sha256: object) -> None:
    # Only files in the directory itself: a name must not lead to a file elsewhere. JSON allows half of a
    # surrogate pair, which no file system stores.
    allowed = r"[^/\\:\x00-\x1f\x7f\ud800-\udfff]{1,255}"
    if not isinstance(name, str) or not re.fullmatch(allowed, name) or name in (".", ".."):
        raise ValueError("a file's name leads out of the directory, or is not the name of a file")
    if not _is_count(size) or not isinstance(sha256, str) or not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ValueError(f"{name!r}: bytes or sha256 is not valid")


def _canonical(fields: Mapping[str, Any]) -> bytes:
    return (json.dumps(fields, indent=2, sort_keys=True) + "\n").encode("ascii")
