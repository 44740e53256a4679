"""A records directory in a store, and the choice between it and a local one."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import hashlib
import io
import os
import re
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, BinaryIO, TypeVar

from pipeline import arguments
from pipeline.cache import Cache
from pipeline.directory import FileInfo, RecordsDirectory
from pipeline.errors import RecordsError

_Result = TypeVar("_Result")

# What one request brings: large enough that its latency does not matter, and small enough to be repeated.
_PIECE_BYTES = 8 << 20

# Of a file whose size is not known.
_MOST_BYTES = (1 << 28) + 1

# Requests of a process at the same time.
_MOST_REQUESTS = 8

# The package that a protocol needs, and the extra of this project that brings it.
_PACKAGES = {"s3": ("s3fs", "s3"), "s3a": ("s3fs", "s3"), "gs": ("gcsfs", "gs"), "gcs": ("gcsfs", "gs")}


class RemoteDirectory:
    """A records directory in a store, whose files are read from a local cache.

    Files are fetched by fsspec, which takes settings and credentials from where each store's own tools find them, and
    from its configuration (``FSSPEC_S3_…`` in the environment, ``~/.config/fsspec``). It retries a request that fails.
    The size and the SHA-256 of a file are checked when it arrives; a wrong one is fetched once more.

    Args:
        url: any URL of fsspec. User, password and query never appear in messages or in the cache.
        cache: where files are kept.

    Raises:
        RecordsError: fsspec, or the package for this protocol, is not installed, or does not know the protocol.
    """

    def __init__(self, url: str, cache: Cache) -> None:
        self._url = url.rstrip("/")
        self.path = _without_secrets(self._url)
        self._cache = cache
        self._of_process: tuple[int, Any, str] | None = None
        self._requests: dict[int, threading.Semaphore] = {}
        self._store()

    @property
    def cache_bytes(self) -> int:
        """Bytes that the cache holds at most."""
        return self._cache.limit

    def location(self, name: str) -> str:
        """A file's URL, as messages show it."""
        return f"{self.path}/{name}"

    def open(
        self, name: str, expected: FileInfo | None = None, made_room: Callable[[], object] = lambda: None
    ) -> BinaryIO:
        """Opens a file for reading, and fetches it if the cache does not hold it.

        Args:
            name: of the file.
            expected: its size and digest; None for a file without an entry in the manifest, which is not cached.
            made_room: called before it is fetched, after others were removed from the cache.

        Raises:
            RecordsError: it cannot be fetched, is not the one expected, or is larger than the cache.
        """
        if expected is None:
            return io.BytesIO(self._request(name, 0, _MOST_BYTES))
        self.check_fits(name, expected)

        def fetch(file: BinaryIO) -> None:
            made_room()
            self._fetch(name, expected, file)

        return self._cache.open(expected, fetch)

    def check_fits(self, name: str, file: FileInfo) -> None:
        """Checks that the cache has room for a file.

        Raises:
            RecordsError: the file is larger.
        """
        if file.bytes > self.cache_bytes:
            raise RecordsError(
                f"{self.location(name)}: {file.bytes} bytes, but the cache holds at most {self.cache_bytes}; pass a "
                "larger cache_bytes"
            )

    def use(self, file: FileInfo) -> None:
        """Counts a use of a file, so that the cache keeps it longer."""
        self._cache.use(file)

    def holds(self, file: FileInfo) -> bool:
        """Whether the cache holds a file."""
        return self._cache.holds(file)

    def cached(self, file: FileInfo) -> str:
        """Where the cache keeps a file."""
        return os.fspath(self._cache.entry(file))

    def bring(self, files: Mapping[str, FileInfo]) -> None:
        """Fetches files, several at the same time.

        Raises:
            RecordsError: as :meth:`open`.
        """
        for future in [self.start(functools.partial(self.open, *item)) for item in files.items()]:
            future.result().close()

    def start(self, function: Callable[[], _Result]) -> concurrent.futures.Future[_Result]:
        """Calls a function in a thread of its own; at most eight of this process run at a time.

        The threads do not keep the process from ending, unlike those of ``ThreadPoolExecutor``.
        """
        future: concurrent.futures.Future[_Result] = concurrent.futures.Future()
        # In a process that was forked, a semaphore that a thread of the former process holds is never released.
        requests = self._requests.setdefault(os.getpid(), threading.Semaphore(_MOST_REQUESTS))

        def run() -> None:
            with requests:
                try:
                    future.set_result(function())
                except BaseException as error:
                    future.set_exception(error)

        threading.Thread(target=run, name="records of a store", daemon=True).start()
        return future

    def size(self, name: str) -> int | None:
        """The size of a file in bytes; None if the store does not list its files.

        Raises:
            FileNotFoundError: it is missing.
        """
        if self.sizes is None:
            return None
        if name not in self.sizes:
            raise FileNotFoundError(None, "No such file in the store", name)
        return self.sizes[name]

    @functools.cached_property
    def sizes(self) -> Mapping[str, int] | None:
        """The sizes of the files by name; None if the store does not list them."""
        store, root = self._store()
        # A reader may have no right to list, and a web server has no listing.
        with contextlib.suppress(Exception):
            store.invalidate_cache(root)
            listed = {each["name"].rstrip("/").rpartition("/")[2]: each["size"] for each in store.ls(root, detail=True)}
            if all(isinstance(size, int) for size in listed.values()):
                return listed
        return None

    def names(self) -> Collection[str]:
        """What the directory contains; nothing if the store does not list it."""
        return self.sizes or ()

    @contextlib.contextmanager
    def stream(self, name: str) -> Iterator[BinaryIO]:
        """Opens a file for a ``with`` block that reads it from start to end, past the cache.

        Raises:
            RecordsError: it cannot be opened, or not be read within the block.
        """
        with self._errors(name):
            store, root = self._store()
            with store.open(self._path(root, name), block_size=_PIECE_BYTES, cache_type="readahead") as file:
                yield file

    def _fetch(self, name: str, expected: FileInfo, file: BinaryIO) -> None:
        """Writes a file of the store to ``file`` and checks it; tries it twice."""
        try:
            arrived = self._copied(name, expected, file)
        except RecordsError:
            arrived = False
        if not arrived and not self._copied(name, expected, file):
            raise RecordsError(
                f"{self.location(name)}: does not match the manifest, also when it is fetched again; see "
                f"python -m pipeline.verify {self.path}"
            )

    def _copied(self, name: str, expected: FileInfo, file: BinaryIO) -> bool:
        """Writes a file of the store to ``file``; returns whether it is the one expected."""
        file.seek(0)
        digest = hashlib.sha256()
        arrived = 0
        while arrived < expected.bytes:
            piece = self._request(name, arrived, min(arrived + _PIECE_BYTES, expected.bytes))
            arrived += len(piece)
            if not piece or arrived > expected.bytes:
                return False
            digest.update(piece)
            file.write(piece)
        return digest.hexdigest() == expected.sha256

    def _request(self, name: str, start: int, end: int) -> bytes:
        """The bytes of a file from ``start`` to ``end``, or to its end."""
        with self._errors(name):
            store, root = self._store()
            content: bytes = store.cat_file(self._path(root, name), start=start, end=end)
        return content

    def _path(self, root: str, name: str) -> str:
        """A file's path in the store."""
        # A web server's query, which may be a signature, comes last.
        folder, mark, query = root.partition("?") if self._is_web else (root, "", "")
        return f"{folder.rstrip('/')}/{name}{mark}{query}"

    @property
    def _is_web(self) -> bool:
        return self._url.startswith(("http://", "https://"))

    def _store(self) -> tuple[Any, str]:
        """The file system of this process, and the directory's path in it."""
        # A connection does not work in a process that was forked.
        if self._of_process is None or self._of_process[0] != os.getpid():
            protocol = re.split(":", self._url, maxsplit=1)[0]
            package, extra = _PACKAGES.get(protocol, ("fsspec", ""))
            remedy = f"pip install '.[{extra}]'" if extra else f"pip install {package}"
            try:
                from fsspec.core import url_to_fs

                self._of_process = os.getpid(), *url_to_fs(self._url)
            except ImportError as error:
                # fsspec's own message says what another protocol needs.
                reason = "" if extra or isinstance(error, ModuleNotFoundError) else f" ({error})"
                raise RecordsError(f"{self.path}: needs {package}{reason}: {remedy}") from None
            except Exception as error:
                raise RecordsError(f"{self.path}: cannot be opened ({self._reason(error)}); check the URL") from None
        return self._of_process[1:]

    @contextlib.contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        """Turns an error of the store into one line; without its cause, whose text may have the URL's secrets."""
        location = self.location(name)
        try:
            yield
        except RecordsError:
            raise
        except FileNotFoundError as error:
            raise RecordsError(
                f"{location}: missing ({self._reason(error)}), so this is not a complete records directory; check the "
                "URL"
            ) from None
        except PermissionError as error:
            raise RecordsError(
                f"{location}: access denied ({self._reason(error)}); check the credentials, which fsspec finds where "
                "the store's own tools do"
            ) from None
        except Exception as error:
            raise RecordsError(
                f"{location}: cannot be fetched ({self._reason(error)}); check URL, credentials and connection, and "
                "try again"
            ) from None

    def _reason(self, error: Exception) -> str:
        """What an error says, on one line; only its type if it may quote secrets of the URL."""
        kind = type(error).__name__
        text = " ".join(str(error).split())[:200] if self.path == self._url else ""
        return f"{kind}: {text}" if text else kind

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_of_process": None, "_requests": {}}


Directory = RecordsDirectory | RemoteDirectory


def open_directory(
    path: str | os.PathLike[str] | Directory,
    cache_dir: str | os.PathLike[str] | None = None,
    cache_bytes: int | None = None,
) -> Directory:
    """Opens a records directory; one that is open already is returned as it is.

    Args:
        path: of a local directory, or a URL.
        cache_dir: where files of a URL are kept.
        cache_bytes: how many bytes of them.

    Raises:
        TypeError: ``cache_bytes`` is not a whole number.
        RecordsError: a local directory is missing; a URL cannot be used, see :class:`RemoteDirectory`.
    """
    limit = None if cache_bytes is None else arguments.whole_number("cache_bytes", cache_bytes, 1)
    if isinstance(path, RecordsDirectory | RemoteDirectory):
        return path
    if isinstance(path, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]*(://|::)", path):
        return RemoteDirectory(path, Cache(cache_dir, limit))
    return RecordsDirectory(path)


def _without_secrets(url: str) -> str:
    """A URL without user, password and query."""
    return re.sub(r"\?.*?(?=::|$)", "", re.sub(r"(?<=://)[^/]*@", "", url))
