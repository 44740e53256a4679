"""URLs of stores (Amazon S3 and what speaks its protocol, Google Cloud Storage), and the clients that open them.

fsspec is imported when a URL is used, because nothing else needs it.

What fsspec and the libraries below it report may quote headers of a request. So messages name the kind of an error
and never repeat its text, and the logs of these libraries are off.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import logging
import os
import pathlib
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from preprocess.findings import DATA_DIR, FatalInputError

_PACKAGES = {"s3": "s3fs", "gs": "gcsfs"}
"""What opens each kind of URL; the extras of this project have the names of the schemes."""

# S3: three tries of botocore, which wait 15 seconds for each part of an answer. s3fs repeats them up to five times, and
# where an answer is cut off, too. gcsfs tries six times, at most 60 seconds each.
_SETTINGS: dict[str, dict[str, Any]] = {
    "s3": {"config_kwargs": {"retries": {"mode": "standard", "total_max_attempts": 3}}},
    "gs": {"requests_timeout": 60},
}

_LOGS = ("aiobotocore", "aiohttp", "asyncio", "botocore", "fsspec", "gcsfs", "google", "s3fs", "urllib3")

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


def filesystem(url: Url) -> Any:
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
def reading(url: Url) -> Iterator[None]:
    """Turns an error of a store into one that ends the job, where the job cannot go on without reading ``url``."""
    with _essential(url, _TO_READ):
        yield


@contextlib.contextmanager
def writing(url: Url) -> Iterator[None]:
    """Turns an error of a store into one that ends the job, where the job writes to ``url``."""
    with _essential(url, _TO_WRITE):
        yield


def described(error: Exception) -> str:
    """What a store's error says, without its text."""
    return _WHAT[_kind(error)].format(f"{type(error).__name__} {code_of(error)}".strip())


def code_of(error: Exception) -> str:
    """What the store calls the error; empty where it says nothing."""
    # botocore's error is the cause of the one of s3fs.
    response = getattr(error.__cause__ or error, "response", None)
    code = response.get("Error", {}).get("Code", "") if isinstance(response, dict) else getattr(error, "code", "")
    return str(code) if code is not None and re.fullmatch(r"[A-Za-z0-9.]{1,60}", str(code)) else ""


_Kind = Literal["absent", "denied", "changed", "other"]

_WHAT: dict[_Kind, str] = {
    "absent": "it is not there",
    "denied": "access is denied ({})",
    "changed": "it changed while it was read",
    "other": "the request fails again and again ({})",
}
"""What errors of a store say; the braces stand for their names."""

_TO_READ: dict[_Kind, str] = {
    "absent": f"pass a folder or a zip archive as {DATA_DIR}",
    "denied": "check the credentials that the store's own tools use, and that they may list and read it",
    "changed": "run the job again once nothing writes to it",
    "other": "check the network and the address of the store, and run the job again",
}

_TO_WRITE: dict[_Kind, str] = {
    "absent": "create the bucket, or choose another --output_dir; the job writes to this folder of it",
    "denied": "check the credentials that the store's own tools use, and that they may list, read, write and delete",
    "changed": "run the job again once nothing else writes to it",
    "other": "check the network and the address of the store, and run the job again",
}


@contextlib.contextmanager
def _essential(url: Url, remedies: Mapping[_Kind, str]) -> Iterator[None]:
    try:
        yield
    except (FatalInputError, MemoryError):
        raise
    except Exception as error:
        # Without its cause, whose text a runner may log.
        raise FatalInputError(str(url), f"{described(error)}; {remedies[_kind(error)]}") from None


def _kind(error: Exception) -> _Kind:
    name, code = type(error).__name__, code_of(error)
    if isinstance(error, FileNotFoundError) or code == "404":
        return "absent"
    if isinstance(error, PermissionError) or code in ("401", "403") or "Credentials" in name or _forbidden(error):
        return "denied"
    return "changed" if name == "FileExpired" or code == "412" else "other"


def _forbidden(error: Exception) -> bool:
    """Whether it is how gcsfs reports the status 403."""
    return isinstance(error, OSError) and str(error).startswith("Forbidden:")
