"""The files of a zip archive.

An archive is read in place and never unpacked, so no entry can be written outside of it. An entry whose name would
lead outside is refused all the same. An archive within an archive is an ordinary file, and never opened.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import os
import re
import stat
import struct
import zipfile
import zlib
from typing import BinaryIO, Self

from preprocess.findings import DATA_DIR, FatalInputError, Finding, Level, Reason, counted
from preprocess.inputs import stores
from preprocess.inputs.folders import check_size
from preprocess.urls import Place, Url

MAX_DIRECTORY_BYTES = 1 << 26
"""Largest directory of a zip archive, which is read at once: some 500,000 entries."""

# Deflated data cannot grow more than this when it is inflated (zlib's technical details, "Maximum Compression Factor").
_MAX_RATIO = 1032

# Names that would lead out of the folder where some system unpacks the archive, or garble a terminal, and no name.
_LEADS_OUT = re.compile(r"|/.*|[A-Za-z]:.*|(?:.*/)?\.\.(?:/.*)?|.*[\\\x00-\x1f\x7f].*", re.DOTALL)

_Refusal = (OSError, EOFError, RuntimeError, ValueError, struct.error, zipfile.BadZipFile, zlib.error)
"""What zipfile raises for a damaged archive. RuntimeError: an encrypted entry, or an unsupported feature."""


@dataclasses.dataclass(frozen=True)
class Archive:
    """The files of a zip archive, and the state of the archive when they were listed."""

    root: Place
    paths: tuple[str, ...]
    findings: tuple[Finding, ...]
    file: zipfile.ZipFile
    content: BinaryIO
    state: tuple[object, ...]

    @property
    def name(self) -> str:
        return str(self.root)

    @classmethod
    def list(cls, root: Place) -> Self:
        """Lists every file in the archive at ``root``.

        Raises:
            FatalInputError: the file is not a zip archive, or its directory is too large or contradicts itself, or a
                store does not answer.
        """
        content, state = _open(root)
        try:
            file = zipfile.ZipFile(content)
        except FatalInputError:
            raise
        except _Refusal as error:
            detail = _why_not_a_zip(content, error)
            content.close()
            raise FatalInputError(str(root), detail) from error
        size = content.seek(0, os.SEEK_END)
        # Not is_dir(), which raises IndexError for an entry without a name.
        entries = [entry for entry in file.infolist() if not entry.filename.endswith("/")]
        declared = sum(entry.file_size for entry in entries)
        if declared > _MAX_RATIO * size:
            raise FatalInputError(
                str(root),
                f"its entries claim {declared} bytes, at most {_MAX_RATIO} times the archive's own {size} "
                "expected: they overlap or their sizes are wrong; make the archive again",
            )
        # The original name, because zipfile cuts names at the first NUL.
        refused = {entry for entry in entries if _LEADS_OUT.fullmatch(entry.orig_filename)}
        return cls(
            root,
            tuple(sorted(entry.filename for entry in entries if entry not in refused)),
            (_leading_out(len(refused)),) if refused else (),
            file,
            content,
            state,
        )

    def open(self, path: str) -> BinaryIO:
        try:
            entry = self.file.getinfo(path)
        except KeyError:
            raise OSError("the archive no longer contains it") from None
        # The Unix mode is in the upper half (APPNOTE.TXT 4.4.15, as Info-ZIP uses it).
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise OSError("it is a symbolic link, which is not followed in an archive")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise OSError(f"it is compressed by method {entry.compress_type}, 0 (stored) or 8 (deflated) expected")
        check_size(entry.file_size)
        # Read to the end, which checks the CRC-32, before any of it is used. In pieces, because zipfile may allocate
        # as much as the entry's size claims, and the size may be false.
        content = io.BytesIO()
        try:
            with self.file.open(entry) as unpacked:
                while piece := unpacked.read(1 << 20):
                    content.write(piece)
        except FatalInputError:
            raise
        except _Refusal as error:
            # zipfile repeats the name before the content, which may say more than the one in the directory.
            detail = "it has another name before its content" if " differ" in str(error) else str(error)
            raise OSError(detail or type(error).__name__) from error
        if content.tell() != entry.file_size:
            raise OSError(f"it has {content.tell()} bytes, {entry.file_size} expected from the archive's directory")
        content.seek(0)
        return content

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.content.close()
        if isinstance(error, Exception | None) and self.has_changed():
            detail = "changed while it was read; run the job again once nothing writes to it"
            raise FatalInputError(self.name, detail) from error

    def has_changed(self) -> bool:
        """Whether the archive was removed, replaced or written to since its files were listed."""
        try:
            return _state(self.root) != self.state
        except OSError:
            return True


def _open(root: Place) -> tuple[_BoundedFile, tuple[object, ...]]:
    """An archive, and its state before anything of it is read; raises FatalInputError where it cannot be read."""
    if isinstance(root, Url):
        state = _state(root)
        return _BoundedFile(stores.Ranges(root)), state
    try:
        # Checked before opening, because opening a pipe waits for a writer.
        if not stat.S_ISREG(os.stat(root).st_mode):
            raise OSError("it is not a regular file")
        content = _BoundedFile(io.FileIO(root))
    except OSError as error:
        raise FatalInputError(str(root), f"cannot be read: {error.strerror or error}") from error
    return content, _state(content.fileno())


class _BoundedFile(io.BufferedReader):
    """A file that refuses a read larger than ``MAX_DIRECTORY_BYTES``: zipfile reads the directory at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_DIRECTORY_BYTES:
            raise OSError(f"its directory has {size} bytes, at most {MAX_DIRECTORY_BYTES} expected; divide the archive")
        # zipfile reads an archive's end without a size; what is left is at most its comment.
        return super().read(MAX_DIRECTORY_BYTES if size is None or size < 0 else size)

    def __del__(self) -> None:
        self.close()


def _state(file: Place | int) -> tuple[object, ...]:
    """What changes when a file, given by its place or descriptor, is replaced or written to."""
    if isinstance(file, Url):
        return stores.state(file)
    status = os.stat(file)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _leading_out(count: int) -> Finding:
    detail = (
        f"{counted(count, 'entry', 'entries')} refused: the name leads out of the archive (.., an absolute path, "
        "a drive, a backslash or a control character), or is empty"
    )
    return Finding(Reason.JUNK, "file", ".", detail, level=Level.ERROR)


_KINDS_OF_ARCHIVES = {
    b"\x1f\x8b": "a gzip file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"\x28\xb5\x2f\xfd": "a Zstandard file",
    b"7z\xbc\xaf": "a 7-Zip archive",
    b"Rar!": "a RAR archive",
}
"""The first bytes of other kinds of archives."""


def _why_not_a_zip(content: BinaryIO, error: Exception) -> str:
    """Why a file cannot be read as a zip archive, and what to do."""
    content.seek(0)
    head = content.read(512)
    kinds = [kind for start, kind in _KINDS_OF_ARCHIVES.items() if head.startswith(start)]
    if head[257:262] == b"ustar":
        kinds = ["a tar archive"]
    if kinds:
        return f"is {kinds[0]}; unpack it and pass the folder as {DATA_DIR}"
    if not head:
        return "is an empty file; copy or download it again"
    if head.startswith(b"PK\x03\x04") and not zipfile.is_zipfile(content):
        return "is a zip archive that is cut short: the directory at its end is missing; copy or download it again"
    return f"cannot be read as a zip archive ({error}); pass a folder or a zip archive as {DATA_DIR}"


def reopen(root: Place) -> Archive:
    """The archive for another process, which lists it again only when it has changed; raises as ``Archive.list``."""
    if _listed(root).has_changed():
        _listed.cache_clear()
    return _listed(root)


# More archives than a data set is divided into.
_listed = functools.lru_cache(maxsize=64)(Archive.list)
