"""Writes the tables of docs/DEPENDENCIES.md: the packages of this environment, and what requires each.

make dependencies
"""

from __future__ import annotations

import importlib.metadata
import pathlib
import re
import sys
import tomllib
from collections.abc import Iterable

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).parent.parent

_HEADING = "\n## Packages of an installation\n"

_REASONS = {
    "absl-py": "flags and the log of the job",
    "distributed": "`--engine=dask`",
    "gcsfs": "data at `gs://`",
    "google-crc32c": "checksums of records",
    "jinja2": "pages of the report",
    "matplotlib": "pictures of the report",
    "numpy": "arrays",
    "opencv-python": "drawing polygons, resampling",
    "protobuf": "records, which are `tf.train.Example` messages",
    "pydicom": "DICOM files",
    "pylibjpeg": "loads the two codecs below",
    "pylibjpeg-libjpeg": "JPEG, JPEG Lossless and JPEG-LS images",
    "pylibjpeg-openjpeg": "JPEG 2000 images",
    "s3fs": "data at `s3://`",
    "shapely": "areas, nesting and crossings of contours",
    "tensorflow": "`make_dataset`",
    "tqdm": "progress on a terminal",
}
"""What we use each direct requirement for."""


def requirements_of(name: str, extras: Iterable[str]) -> list[Requirement]:
    """What a distribution of this environment requires here, with these extras."""
    found = map(Requirement, importlib.metadata.requires(name) or [])
    return [one for one in found if not one.marker or any(one.marker.evaluate({"extra": extra}) for extra in extras)]


def walk(requirements: Iterable[Requirement]) -> dict[str, set[str]]:
    """Each package that requirements bring, by canonical name, and the packages that require it (none: we do)."""
    required_by: dict[str, set[str]] = {}
    done: set[tuple[str, str]] = set()
    waiting = [(one, "") for one in requirements]
    while waiting:
        requirement, parent = waiting.pop()
        name = canonicalize_name(requirement.name)
        required_by.setdefault(name, set()).update({parent} - {""})
        extras = {"", *requirement.extras}
        if extras <= {extra for known, extra in done if known == name}:
            continue
        done |= {(name, extra) for extra in extras}
        waiting += [(one, name) for one in requirements_of(name, extras)]
    return required_by


def license_of(name: str) -> str:
    """The license that a distribution names: an SPDX expression, or else its classifiers, or else its own words."""
    metadata = importlib.metadata.metadata(name)
    for expression in metadata.get_all("License-Expression") or []:
        return str(expression)
    classifiers = metadata.get_all("Classifier") or []
    named = [one.rpartition(" :: ")[2] for one in classifiers if one.startswith("License :: OSI Approved :: ")]
    words = [text.strip().partition("\n")[0] for text in metadata.get_all("License") or []]
    return "; ".join(named) or "; ".join(words) or "not stated"


def main() -> None:
    """Replaces the tables of the document."""
    (path,) = map(pathlib.Path, sys.argv[1:])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    direct: dict[str, list[str]] = {}
    required_by: dict[str, set[str]] = {}
    extras: dict[str, list[str]] = {}
    for extra, texts in groups.items():
        requirements = [Requirement(text) for text in texts]
        for one in requirements:
            direct.setdefault(canonicalize_name(one.name), []).append(extra)
        for name, parents in walk(requirements).items():
            required_by.setdefault(name, set()).update(parents)
            extras.setdefault(name, []).append(extra)

    lines = ["", "| package | version | license | brought by | for |", "|---|---|---|---|---|"]
    for name in [*direct, *sorted(required_by.keys() - direct.keys())]:
        # What every installation has needs no extra.
        brought = "every installation" if "" in extras[name] else ", ".join(f"`{extra}`" for extra in extras[name])
        reason = _REASONS[name] if name in direct else "used by " + ", ".join(sorted(required_by[name]))
        lines.append(f"| {name} | {importlib.metadata.version(name)} | {license_of(name)} | {brought} | {reason} |")

    lines_of_lock = re.findall(r"^(\w.*?) \\$", (ROOT / "requirements.txt").read_text("utf-8"), re.MULTILINE)
    locked = [one for one in map(Requirement, lines_of_lock) if not one.marker or one.marker.evaluate()]
    tools = [name for name in (canonicalize_name(one.name) for one in locked) if name not in extras]
    lines += ["", "## Packages of tests, lint and release", ""]
    lines += ["`requirements.txt` also pins these. Nothing that is installed with `pip install .` uses them.", ""]
    lines += ["| package | version | license |", "|---|---|---|"]
    lines += [f"| {name} | {importlib.metadata.version(name)} | {license_of(name)} |" for name in tools]

    before, heading, _ = path.read_text("utf-8").partition(_HEADING)
    path.write_text(before + heading + "\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
