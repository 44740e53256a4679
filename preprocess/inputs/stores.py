"""Folders and objects of a store (Amazon S3 and what speaks its protocol, Google Cloud Storage), by URL.

fsspec opens them. It is imported when a URL is used, because nothing else needs it.

What fsspec and the libraries below it report may quote headers of a request. So messages name the kind of an error
and never repeat its text, and the logs of these libraries are off.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import logging
import os
import pathlib
import re
import urllib.parse
from collections.abc import Iterator
from typing import Any, BinaryIO, Literal, Self

from preprocess.findings import DATA_DIR, FatalInputError, Finding, Level, Reason, counted
from preprocess.inputs.folders import check_size

_PACKAGES = {"s3": "s3fs", "gs": "gcsfs"}
"""What opens each kind of URL; the extras of this project have the names of the schemes."""

# S3: three tries of botocore, which wait 15 seconds for each part of an answer. s3fs repeats them up to five times, and
# where an answer is cut off, too. gcsfs tries six times, at most 60 seconds each.
_SETTINGS: dict[str, dict[str, Any]] = {
    "s3": {"config_kwargs": {"retries": {"mode": "standard", "total_max_attempts": 3}}},
    "gs": {"requests_timeout": 60},
}

_LOGS = ("aiobotocore", "aiohttp", "asyncio", "botocore", "fsspec", "gcsfs", "google", "s3fs", "urllib3")

_FIRST_BYTES = 1 << 22
"""Bytes of an object that the first request asks for: with most images, this is all."""

RANGE_BYTES = 1 << 20
"""Bytes of an archive that one request brings: some images. Fewer bytes would take more requests, and each takes as
long as a range of this size needs to arrive. fsspec keeps the last 32 ranges of an archive, about a study: its images
are read in the order of their numbers, which is not their order in the archive."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)

# Names of buckets (Amazon S3, "Bucket naming rules"; Cloud Storage also allows underscores).
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,221}")


@dataclasses.dataclass(frozen=True)
class Url:
    """A folder or an object of a store: ``s3://bucket/folder``, without user name, password or query."""

    scheme: str
    path: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.path}"

    def __truediv__(self, name: str) -> Url:
        return Url(self.scheme, f"{self.path}/{name}")

    def absolute(self) -> Url:
        """Itself, as a path's method of this name returns a path that depends on nothing else."""
        return self

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]


Place = pathlib.Path | Url
"""Where a folder or an archive lies."""


def place(text: str | os.PathLike[str], flag: str = DATA_DIR) -> Place:
    """What a user means by a path or a URL: ``s3://``, ``gs://`` or ``file://``.

    Raises:
        FatalInputError: the URL is of another kind, or may contain credentials. The message does not repeat it.
    """
    match = _URL.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return pathlib.Path(text)
    scheme, rest = match[1].lower(), match[2]
    bucket, _, folder = rest.partition("/")
    if scheme == "file" and bucket in ("", "localhost"):
        return pathlib.Path(urllib.parse.unquote(f"/{folder}"))
    if scheme not in _PACKAGES:
        raise FatalInputError(
            flag, "is a URL of a kind that is not supported; pass a path, s3://…, gs://… or file:///…"
        )
    if not _BUCKET.fullmatch(bucket) or "?" in folder:
        detail = (
            f"is not the URL of a bucket or of a folder in one, such as {scheme}://bucket/studies. It must not contain "
            "a user name, a password or a query; credentials come from the environment, as for the store's own tools"
        )
        raise FatalInputError(flag, detail)
    return Url(scheme, rest.rstrip("/"))


def local(text: str | os.PathLike[str], flag: str) -> pathlib.Path:
    """The path that a user means where a store cannot be used; raises FatalInputError for the URL of a store."""
    found = place(text, flag)
    if isinstance(found, Url):
        raise FatalInputError(flag, "is the URL of a store, where only a path of this machine can be used")
    return found


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
        with _essential(root):
            objects = _filesystem(root).find(root.path)
        # Names that end with a slash stand for folders, as consoles of stores create them.
        found = [name.removeprefix(f"{root.path}/") for name in objects if not name.endswith("/")]
        paths = [path for path in found if {"", ".", ".."}.isdisjoint(path.split("/"))]
        refused = len(found) - len(paths)
        return cls(root, tuple(sorted(paths)), (_not_a_path(refused),) if refused else ())

    def open(self, path: str) -> BinaryIO:
        filesystem, name = _filesystem(self.root), f"{self.root.path}/{path}"
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
            raise OSError(_WHAT[_kind(error)].format(_named(error))) from error


def _start(filesystem: Any, name: str) -> bytes:
    """The first ``_FIRST_BYTES`` of an object."""
    try:
        return bytes(filesystem.cat_file(name, start=0, end=_FIRST_BYTES))
    except Exception as error:
        # Only an empty object has no range that starts at 0.
        if _code(error) in ("InvalidRange", "416"):
            return b""
        raise


def is_folder(url: Url) -> bool:
    """Whether a URL is a folder, and not an object.

    Raises:
        FatalInputError: it is neither, or the store does not say.
    """
    with _essential(url):
        return bool(_filesystem(url).info(url.path)["type"] == "directory")


def entries(url: Url) -> list[tuple[str, bool]]:
    """The names of what lies in a folder, and whether each is a folder; raises as :func:`is_folder`."""
    with _essential(url):
        found = _filesystem(url).ls(url.path, detail=True)
    return [(entry["name"].rstrip("/").rpartition("/")[2], entry["type"] == "directory") for entry in found]


def state(url: Url) -> tuple[str]:
    """What changes when an object is replaced; raises as :func:`is_folder`."""
    with _essential(url):
        return (_filesystem(url).ukey(url.path),)


class Ranges(io.RawIOBase):
    """An object that is read by ranges. S3 refuses a range of an object that was replaced meanwhile.

    Args:
        url: of the object.

    Raises:
        FatalInputError: it cannot be read, here or later.
    """

    def __init__(self, url: Url) -> None:
        self._url = url
        with _essential(url):
            self._file = _filesystem(url).open(url.path, "rb", cache_type="blockcache", block_size=RANGE_BYTES)

    def readinto(self, buffer: Any) -> int:
        with _essential(self._url):
            return int(self._file.readinto(buffer))

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def _filesystem(url: Url) -> Any:
    """The filesystem of fsspec for a URL, the same for each call.

    Raises:
        FatalInputError: a package is missing.
    """
    package = _PACKAGES[url.scheme]
    try:
        importlib.import_module(package)
    except ImportError as error:
        install = f"pip install '.[preprocess,{url.scheme}]' in the project's folder"
        raise FatalInputError(str(url), f"needs {package}, which is not installed; run {install}") from error
    import fsspec

    for name in _LOGS:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    # Without a cache of listings, which would keep what has changed since.
    return fsspec.filesystem(url.scheme, use_listings_cache=False, **_SETTINGS[url.scheme])


@contextlib.contextmanager
def _essential(url: Url) -> Iterator[None]:
    """Turns an error of a store into one that ends the job, where the job cannot go on without ``url``."""
    try:
        yield
    except (FatalInputError, MemoryError):
        raise
    except Exception as error:
        detail = f"{_WHAT[_kind(error)].format(_named(error))}; {_REMEDY[_kind(error)]}"
        raise FatalInputError(str(url), detail) from error


_Kind = Literal["absent", "denied", "changed", "other"]

_WHAT: dict[_Kind, str] = {
    "absent": "it is not there",
    "denied": "access is denied ({})",
    "changed": "it changed while it was read",
    "other": "the request fails again and again ({})",
}
"""What errors of a store say; the braces stand for their names."""

_REMEDY: dict[_Kind, str] = {
    "absent": f"pass a folder or a zip archive as {DATA_DIR}",
    "denied": "check the credentials that the store's own tools use, and that they may list and read it",
    "changed": "run the job again once nothing writes to it",
    "other": "check the network and the address of the store, and run the job again",
}


def _kind(error: Exception) -> _Kind:
    name, code = type(error).__name__, _code(error)
    if isinstance(error, FileNotFoundError) or code == "404":
        return "absent"
    if isinstance(error, PermissionError) or code in ("401", "403") or "Credentials" in name or _forbidden(error):
        return "denied"
    return "changed" if name == "FileExpired" or code == "412" else "other"


def _forbidden(error: Exception) -> bool:
    """Whether it is how gcsfs reports the status 403."""
    return isinstance(error, OSError) and str(error).startswith("Forbidden:")


def _named(error: Exception) -> str:
    """The name of an error and its code, without its text."""
    return f"{type(error).__name__} {_code(error)}".strip()


def _code(error: Exception) -> str:
    """What the store calls the error; empty where it says nothing."""
    # botocore's error is the cause of the one of s3fs.
    response = getattr(error.__cause__ or error, "response", None)
    code = response.get("Error", {}).get("Code", "") if isinstance(response, dict) else getattr(error, "code", "")
    return str(code) if code is not None and re.fullmatch(r"[A-Za-z0-9.]{1,60}", str(code)) else ""


def _not_a_path(count: int) -> Finding:
    detail = f"{counted(count, 'object')} refused: a part of the name between two slashes is empty, . or .."
    return Finding(Reason.JUNK, "file", ".", detail, level=Level.ERROR)
