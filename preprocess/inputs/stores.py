"""Folders and objects of a store, by URL, as input: read when they are needed, in as few requests as that takes."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
from collections.abc import Iterator
from typing import Any, BinaryIO, Self

from preprocess import urls
from preprocess.findings import Finding, Level, Reason, counted
from preprocess.inputs.folders import check_size
from preprocess.urls import Url

_FIRST_BYTES = 1 << 22
"""Bytes of an object that the first request asks for: with most images, this is all."""

RANGE_BYTES = 1 << 20
"""Bytes of an archive that one request brings: some images. Fewer bytes would take more requests, and each takes as
long as a range of this size needs to arrive. fsspec keeps the last 32 ranges of an archive, about a study: its images
are read in the order of their numbers, which is not their order in the archive."""


@dataclasses.dataclass(frozen=True)
class StoreFolder:
    """The objects whose names begin with a folder's, as files of the folder."""

    root: Url
    paths: tuple[str, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def name(self) -> str:
        return str(self.root)

    @classmethod
    def list(cls, root: Url) -> Self:
        """Lists every object below ``root``, in as many requests as it has thousands of objects.

        Raises:
            FatalInputError: the store does not list it.
        """
        with urls.reading(root):
            objects = urls.filesystem(root).find(root.path)
        # Names that end with a slash stand for folders, as consoles of stores create them.
        found = [name.removeprefix(f"{root.path}/") for name in objects if not name.endswith("/")]
        paths = [path for path in found if {"", ".", ".."}.isdisjoint(path.split("/"))]
        refused = len(found) - len(paths)
        return cls(root, tuple(sorted(paths)), (_not_a_path(refused),) if refused else ())

    def open(self, path: str) -> BinaryIO:
        filesystem, name = urls.filesystem(self.root), f"{self.root.path}/{path}"
        with self._of_one_object():
            content = _start(filesystem, name)
        if len(content) == _FIRST_BYTES:
            with self._of_one_object():
                size = filesystem.size(name)
            check_size(size)
            if size > _FIRST_BYTES:
                with self._of_one_object():
                    content += filesystem.cat_file(name, start=_FIRST_BYTES, end=size)
        return io.BytesIO(content)

    @contextlib.contextmanager
    def _of_one_object(self) -> Iterator[None]:
        """Turns an error of a store into OSError; into one that ends the job if the store answers nothing else."""
        try:
            yield
        except MemoryError:
            raise
        except Exception as error:
            is_folder(self.root)
            raise OSError(urls.described(error)) from error


def _start(filesystem: Any, name: str) -> bytes:
    """The first ``_FIRST_BYTES`` of an object."""
    try:
        return bytes(filesystem.cat_file(name, start=0, end=_FIRST_BYTES))
    except Exception as error:
        # Only an empty object has no range that starts at 0.
        if urls.code_of(error) in ("InvalidRange", "416"):
            return b""
        raise


def is_folder(url: Url) -> bool:
    """Whether a URL is a folder, and not an object.

    Raises:
        FatalInputError: it is neither, or the store does not say.
    """
    with urls.reading(url):
        return bool(urls.filesystem(url).info(url.path)["type"] == "directory")


def entries(url: Url) -> list[tuple[str, bool]]:
    """The names of what lies in a folder, and whether each is a folder; raises as :func:`is_folder`."""
    with urls.reading(url):
        found = urls.filesystem(url).ls(url.path, detail=True)
    return [(entry["name"].rstrip("/").rpartition("/")[2], entry["type"] == "directory") for entry in found]


def state(url: Url) -> tuple[str]:
    """What changes when an object is replaced; raises as :func:`is_folder`."""
    with urls.reading(url):
        return (urls.filesystem(url).ukey(url.path),)


class Ranges(io.RawIOBase):
    """An object that is read by ranges. S3 refuses a range of an object that was replaced meanwhile.

    Args:
        url: of the object.

    Raises:
        FatalInputError: it cannot be read, here or later.
    """

    def __init__(self, url: Url) -> None:
        self._url = url
        with urls.reading(url):
            self._file = urls.filesystem(url).open(url.path, "rb", cache_type="blockcache", block_size=RANGE_BYTES)

    def readinto(self, buffer: Any) -> int:
        with urls.reading(self._url):
            return int(self._file.readinto(buffer))

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def _not_a_path(count: int) -> Finding:
    detail = f"{counted(count, 'object')} refused: a part of the name between two slashes is empty, . or .."
    return Finding(Reason.JUNK, "file", ".", detail, level=Level.ERROR)
