"""Records in a store: servers of S3 and Cloud Storage on this machine."""

import pathlib
import re
from typing import Any

import pytest

from pipeline import schema, verify

from .helpers.commands import preprocess
from .helpers.stores import BUCKET, KEY, SECRET, Proxy
from .helpers.trees import contents

pytestmark = [
    pytest.mark.clients,
    # Clients and servers use deprecated parts of the standard library.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning"),
]

S3, GS = f"s3://{BUCKET}/deep/records", f"gs://{BUCKET}/deep/records"


def objects(client: Any, folder: str = "deep/records") -> dict[str, bytes]:
    """The content of each object below a folder of the bucket, by name."""
    root = f"{BUCKET}/{folder}"
    return {name.removeprefix(f"{root}/"): client.cat_file(name) for name in client.find(root)}


def plain(files: dict[str, bytes]) -> dict[str, bytes]:
    """Files by their plain names, with plain names in their content; checks that all have the token of one job."""
    tokens = {match[1] for name in files if (match := re.match(r"job-([0-9a-f]{16})-", name))}
    (token,) = tokens
    copies = {name: files[name] for name in schema.TFDS_FILES}
    others = {name: content for name, content in files.items() if name not in (*copies, schema.MANIFEST_FILE)}
    prefix = f"job-{token}-"
    assert all(name.startswith(prefix) for name in others)
    assert copies == {name: others[prefix + name] for name in copies}
    return {name.removeprefix(prefix): content.replace(prefix.encode(), b"") for name, content in others.items()}


def published(data_dir: object, output_dir: object, *flags: str) -> None:
    result = preprocess(f"--data_dir={data_dir}", f"--output_dir={output_dir}", *flags)
    assert result.returncode == 0, result.stderr
    for text in (result.stdout, result.stderr):
        assert SECRET not in text
        assert KEY not in text


def test_records_in_s3_have_the_bytes_of_local_ones(
    s3: Proxy, s3_client: Any, phantom_dir: pathlib.Path, phantom_records: pathlib.Path, in_process: None
) -> None:
    published(phantom_dir, S3, "--split=val=PHANTOM002", "--num_shards=3", "--workers=2")
    print(s3.requests)
    local = contents(phantom_records)
    del local[schema.MANIFEST_FILE]
    assert plain(objects(s3_client)) == local
    assert list(verify.faults(S3)) == []
