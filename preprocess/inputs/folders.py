"""The files of a folder.

Links are followed wherever they lead: data sets are often trees of links into a store, and whoever can make a link in
the folder can also put a file there.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import stat
from typing import BinaryIO, Self

from preprocess.findings import FatalInputError, Finding, Reason

MAX_FILE_BYTES = 1 << 28
"""Largest file, in a folder or unpacked from an archive: 256 MiB; an image has at most 128 MiB."""

MAX_DEPTH = 100
"""How deep folders may be nested."""

MAX_REPEATED = 100_000
"""How many names may be listed again through links: a few links can multiply paths without end."""


@dataclasses.dataclass(frozen=True)
class Folder:
    """The files below a folder. Links to folders are followed; a file is listed under each path that leads to it."""

    root: pathlib.Path
    paths: tuple[str, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def name(self) -> str:
        return os.fspath(self.root)

    @classmethod
    def list(cls, root: pathlib.Path) -> Self:
        """Lists every file below ``root``.

        Raises:
            FatalInputError: ``root`` cannot be listed, or links repeat more than ``MAX_REPEATED`` names.
        """
        paths: list[str] = []
        findings: list[Finding] = []
        listed: set[tuple[int, int]] = set()
        repeated = 0
        # A folder's path, and the identities of the folders above it.
        waiting: list[tuple[str, tuple[tuple[int, int], ...]]] = [("", ())]
        while waiting:
            folder, above = waiting.pop()
            path = os.path.join(root, folder)
            try:
                identity = _identity(path, len(above))
                if identity in above:
                    detail = "leads to a folder that contains it, and is not followed"
                    findings.append(Finding(Reason.CIRCULAR_LINK, "file", folder, detail))
                    continue
                with os.scandir(path) as scanned:
                    entries = [(entry.name, _is_folder(entry)) for entry in scanned]
            except OSError as error:
                detail = f"cannot be listed: {error.strerror or error}"
                if not folder:
                    raise FatalInputError(os.fspath(root), detail) from error
                findings.append(Finding(Reason.UNREADABLE_FOLDER, "file", folder, f"{detail}; nothing in it is used"))
                continue
            repeated += len(entries) if identity in listed else 0
            if repeated > MAX_REPEATED:
                raise FatalInputError(
                    os.fspath(root),
                    f"links lead to the same folders again and again: over {MAX_REPEATED} names are listed more than "
                    f"once, the last ones in {folder}; remove such links",
                )
            listed.add(identity)
            for name, is_folder in entries:
                path = f"{folder}/{name}" if folder else name
                if is_folder:
                    waiting.append((path, (*above, identity)))
                else:
                    paths.append(path)
        return cls(root, tuple(sorted(paths)), tuple(findings))

    def open(self, path: str) -> BinaryIO:
        # Checked before opening, because opening a pipe waits for a writer.
        status = os.stat(self.root / path)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is not a regular file")
        check_size(status.st_size)
        return (self.root / path).open("rb")


def _identity(path: str, depth: int) -> tuple[int, int]:
    """Device and inode, which a folder shares with every link to it; raises OSError if it lies too deep."""
    if depth > MAX_DEPTH:
        raise OSError(f"it lies more than {MAX_DEPTH} folders deep")
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link that cannot be followed counts as a file, and fails when it is opened.
        return False


def check_size(size: int) -> None:
    """Raises OSError if a file has more than ``MAX_FILE_BYTES``."""
    if size > MAX_FILE_BYTES:
        raise OSError(f"it has {size} bytes, at most {MAX_FILE_BYTES} expected")
