"""Records that a job has written to a store."""

import json
import re
from typing import Any

from pipeline import schema

from .stores import BUCKET

FOLDER = "deep/records"

S3, GS = f"s3://{BUCKET}/{FOLDER}", f"gs://{BUCKET}/{FOLDER}"


def objects(client: Any, folder: str = FOLDER) -> dict[str, bytes]:
    """The content of each object below a folder of the bucket, by name."""
    root = f"{BUCKET}/{folder}"
    return {name.removeprefix(f"{root}/"): client.cat_file(name) for name in client.find(root)}


def job_of(names: Any) -> str:
    """The prefix that all names have, apart from the manifest and the copies for TFDS."""
    found = {match[0] for name in names if (match := re.match(r"job-[0-9a-f]{16}-", name))}
    (prefix,) = found
    assert {name for name in names if not name.startswith(prefix)} == {schema.MANIFEST_FILE, *schema.TFDS_FILES}
    return prefix


def as_local(files: dict[str, bytes]) -> dict[str, bytes]:
    """Files of a store as a local job writes them: with plain names, also in the manifest and for TFDS.

    The manifest's digests of itself and of ``dataset_info.json``, which has names, are left out: see ``manifest_of``.
    """
    prefix = job_of(files)
    for name in schema.TFDS_FILES:
        assert files[name] == files[prefix + name]
    plain = {name.removeprefix(prefix): content for name, content in files.items()}
    plain[schema.DATASET_INFO_FILE] = plain[schema.DATASET_INFO_FILE].replace(prefix.encode(), b"")
    return {**plain, schema.MANIFEST_FILE: manifest_of(plain[schema.MANIFEST_FILE].replace(prefix.encode(), b""))}


def comparable(files: dict[str, bytes]) -> dict[str, bytes]:
    """Files of a local job, without the digests that :func:`as_local` leaves out."""
    return {**files, schema.MANIFEST_FILE: manifest_of(files[schema.MANIFEST_FILE])}


def manifest_of(content: bytes) -> bytes:
    fields = json.loads(content)
    del fields["sha256"], fields["files"][schema.DATASET_INFO_FILE]
    return json.dumps(fields, sort_keys=True).encode()
