"""Files of a data set that are not used: those that look like images or contours, and junk."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable

from preprocess.findings import Finding, Reason, counted, some

# Names and extensions of images and contours in other data sets, and the expected names with additions.
_LOOKS_USABLE = re.compile(
    r"\.(dcm|dicom|ima)(?![^\W_])|contour|\A(im|img|mr)[-_. ]?\d|\A[\d._-]*\d(\.txt)?\Z", re.IGNORECASE | re.ASCII
)

# From macOS: AppleDouble files, folder settings, and the folder where its archiver keeps both.
_JUNK_NAME = re.compile(r"\._.*|\.DS_Store|__MACOSX", re.DOTALL)


class Unused:
    """Collects files that are not used, by folder: junk, and files that look like images or contours.

    Args:
        used: what the layout uses, for messages: an image, a contour or ...
        names: how its files are named.
    """

    def __init__(self, used: str, names: str) -> None:
        self._used = used
        self._names = names
        self._junk = collections.Counter[str]()
        self._usable: dict[str, list[str]] = collections.defaultdict(list)

    def add(self, path: str) -> None:
        """Adds a file that is not used."""
        folder, _, name = path.rpartition("/")
        if _LOOKS_USABLE.search(name):
            self._usable[folder].append(name)
        else:
            self._junk[folder] += 1

    def without_junk(self, paths: Iterable[str]) -> list[str]:
        """The paths without files of the operating system, which are added as junk."""
        kept = []
        for path in paths:
            parts = path.split("/")
            if any(_JUNK_NAME.fullmatch(part) for part in parts):
                self._junk["/".join(parts[:-1]) or "."] += 1
            else:
                kept.append(path)
        return kept

    def findings(self) -> list[Finding]:
        """A finding for each folder and kind of file."""
        findings = []
        for folder, count in sorted(self._junk.items()):
            detail = f"{counted(count, 'file')} skipped: not named like {self._used}"
            findings.append(Finding(Reason.JUNK, "file", folder, detail))
        for folder, names in sorted(self._usable.items()):
            like = (
                "looks like an image or contour and is" if len(names) == 1 else "look like images or contours and are"
            )
            # Escaped: a name may hold line breaks, or bytes that are not UTF-8.
            shown = some([repr(name) for name in names])
            detail = f"{counted(len(names), 'file')} {like} not used: {shown}; {self._names}"
            findings.append(Finding(Reason.UNUSED_FILE, "file", folder, detail))
        return findings
