import csv
import io
import itertools
import pathlib

import pytest

from preprocess.findings import COLUMNS, Audit, FatalInputError, Finding, Level, Reason
from preprocess.inputs.exclusions import read_exclusions

FINDINGS = [
    Finding(Reason.JUNK, "file", "dicoms", "2 files"),
    Finding(Reason.NO_IMAGE, "contour", 'a,"b"\n.txt', "no image", "S", 10),
    Finding(Reason.NO_IMAGE, "contour", "c.txt", "no image", "S", 9),
    Finding(Reason.UNLINKED_STUDY, "study", "dicoms/T", "no row", "T"),
]


def test_rows_do_not_depend_on_the_order_of_findings() -> None:
    dumps = set()
    for order in itertools.permutations(FINDINGS):
        audit = Audit()
        audit.add(order[:2])
        audit.add(order[2:])
        dumps.add(audit.dump())
    assert len(dumps) == 1
    rows = list(csv.DictReader(io.StringIO(dumps.pop().decode(), newline="")))
    assert [(row["study_id"], row["instance_number"], row["reason"], row["level"]) for row in rows] == [
        ("", "", "junk", "info"),
        ("S", "9", "no_image", "error"),
        ("S", "10", "no_image", "error"),
        ("T", "", "unlinked_study", "warning"),
    ]
    assert rows[2]["path"] == 'a,"b"\n.txt'
    assert tuple(rows[0]) == COLUMNS


def test_counts_by_level() -> None:
    audit = Audit()
    audit.add(FINDINGS)
    assert (audit.counts(Level.ERROR), audit.counts(Level.WARNING)) == ({"no_image": 2}, {"unlinked_study": 1})
    assert [finding.path for finding in audit.of_level(Level.INFO)] == ["dicoms"]


def test_a_finding_about_several_inputs_counts_them() -> None:
    audit = Audit()
    audit.add(
        [
            Finding(Reason.UNUSED_FILE, "file", "dicoms", "3 files", count=3),
            Finding(Reason.UNUSED_FILE, "file", "a", "1"),
        ]
    )
    assert audit.counts(Level.WARNING) == {"unused_file": 4}


def test_names_that_are_not_utf8_are_written_as_escapes() -> None:
    audit = Audit()
    audit.add([Finding(Reason.JUNK, "file", b"di\xffcoms".decode("utf-8", "surrogateescape"), "1 file")])
    assert b"di\\udcffcoms" in audit.dump()


def exclusions(tmp_path: pathlib.Path, text: str) -> dict[tuple[str, int], str]:
    path = tmp_path / "exclude.csv"
    path.write_text(text)
    return read_exclusions(path)


def test_exclusions_as_audit_rows_or_short(tmp_path: pathlib.Path) -> None:
    expected = {("S", 9): "no_image", ("S", 10): "no_image"}
    audit = Audit()
    audit.add(FINDINGS[1:3])
    assert exclusions(tmp_path, audit.dump().decode()) == expected
    text = "study_id,instance_number,reason\nS, 9 ,no_image\n\nS,10,no_image\n"
    assert exclusions(tmp_path, text) == exclusions(tmp_path, "\ufeff" + text.replace("\n", "\r\n")) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the first line does not name the columns study_id, instance_number, reason"),
        ("study_id,reason\nS,x\n", "does not name the columns instance_number"),
        ("study_id,instance_number,reason\nS,,x\n", "line 2: study_id and a whole instance_number of at most 9 digits"),
        ("study_id,instance_number,reason\nS,1,x\n,2,x\n", "line 3: study_id and a whole"),
        ("study_id,instance_number,reason\nS,-1,x\n", "line 2: study_id and a whole"),
        ("study_id,instance_number,reason\nS\n", "line 2: study_id and a whole"),
        (f"study_id,instance_number,reason\nS,{'9' * 5000},x\n", "line 2: study_id and a whole"),
        ("study_id,study_id,instance_number,reason\nS,T,1,x\n", "names the column study_id more than once"),
    ],
)
def test_exclusions_that_name_no_pair(tmp_path: pathlib.Path, text: str, message: str) -> None:
    with pytest.raises(FatalInputError, match=rf"exclude\.csv: .*{message}"):
        exclusions(tmp_path, text)


def test_exclusions_that_cannot_be_read(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FatalInputError, match=r"nowhere\.csv: no such file; pass a CSV file of pairs to leave out"):
        read_exclusions(tmp_path / "nowhere.csv")
    with pytest.raises(FatalInputError, match=r"cannot be read: Is a directory; --exclude names"):
        read_exclusions(tmp_path)
    (tmp_path / "exclude.csv").write_bytes(b"\xff")
    with pytest.raises(FatalInputError, match=r"exclude\.csv: cannot be read as UTF-8 CSV"):
        read_exclusions(tmp_path / "exclude.csv")
