"""The files of a folder.

Links are followed, to wherever they lead: who can make a link there can put the file there, and data sets are often
trees of links into a store.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import stat
from typing import BinaryIO, Self

from preprocess.findings import FatalInputError, Finding, Reason

MAX_FILE_BYTES = 1 << 28
"""Bytes that one file may have, in a folder or unpacked from an archive: 256 MiB, an image has 128 MiB at most."""

MAX_DEPTH = 100
"""Folders within folders that are listed."""

MAX_REPEATED = 100_000
"""Names that may be listed again because links lead to their folder: a few links can multiply paths without end."""


@dataclasses.dataclass(frozen=True)
class Folder:
    """The files below a folder. Links to folders are followed, and what they lead to is listed under each path."""

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
            FatalInputError: it cannot be listed, or links multiply its files beyond ``MAX_REPEATED``.
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
                    detail = "leads back to a folder that contains it, and is not followed"
                    findings.append(Finding(Reason.CIRCULAR_LINK, "file", folder, detail))
                    continue
                with os.scandir(path) as found:
                    entries = [(entry.name, _is_folder(entry)) for entry in found]
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
        # Checked before opening: opening a pipe waits for a writer.
        status = os.stat(self.root / path)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is not a regular file")
        check_size(status.st_size)
        return (self.root / path).open("rb")


def _identity(path: str, depth: int) -> tuple[int, int]:
    """What a folder has in common with every link to it; raises OSError also where it lies too deep."""
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


def check_size(found: int) -> None:
    """Raises OSError where a file has more than ``MAX_FILE_BYTES``."""
    if found > MAX_FILE_BYTES:
        raise OSError(f"it has {found} bytes, at most {MAX_FILE_BYTES} expected")
