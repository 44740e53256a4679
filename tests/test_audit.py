import itertools
import pathlib
import pickle

import pytest

from preprocess.findings import COLUMNS, Audit, FatalInputError, Finding, InputError, Level, Reason, about
from preprocess.inputs.exclusions import read_exclusions

from .helpers import ROOT
from .helpers.tables import read_table

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
    rows = read_table(dumps.pop())
    assert [(row["study_id"], row["instance_number"], row["reason"], row["level"]) for row in rows] == [
        ("", "", "junk", "info"),
        ("S", "9", "no_image", "error"),
        ("S", "10", "no_image", "error"),
        ("T", "", "unlinked_study", "warning"),
    ]
    assert rows[2]["path"] == 'a,"b"\n.txt'
    assert tuple(rows[0]) == COLUMNS


def test_findings_are_counted_by_level() -> None:
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


def test_exclusions_are_read_from_rows_of_the_audit_or_shorter_ones(tmp_path: pathlib.Path) -> None:
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
def test_exclusions_that_name_no_pair_are_refused(tmp_path: pathlib.Path, text: str, message: str) -> None:
    with pytest.raises(FatalInputError, match=rf"exclude\.csv: .*{message}"):
        exclusions(tmp_path, text)


def test_exclusions_that_cannot_be_read_are_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FatalInputError, match=r"nowhere\.csv: no such file; pass a CSV file of pairs to leave out"):
        read_exclusions(tmp_path / "nowhere.csv")
    with pytest.raises(FatalInputError, match=r"cannot be read: Is a directory; pass a CSV file"):
        read_exclusions(tmp_path)
    (tmp_path / "exclude.csv").write_bytes(b"\xff")
    with pytest.raises(FatalInputError, match=r"exclude\.csv: cannot be read as UTF-8 CSV"):
        read_exclusions(tmp_path / "exclude.csv")


def test_build_md_explains_every_reason_as_the_audit_does() -> None:
    text = (ROOT / "BUILD.md").read_text("utf-8")
    table = text.partition("### Reasons in `audit.csv`")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    assert rows == [
        f"| `{reason}` | {', '.join(reason.levels)} | {reason.meaning} | {reason.remedy} |" for reason in Reason
    ]


def test_a_level_that_the_reason_does_not_have_is_an_error() -> None:
    with pytest.raises(ValueError, match="a finding with reason no_image cannot have level info"):
        Finding(Reason.NO_IMAGE, "contour", "c.txt", "no image", level=Level.INFO)


def test_an_error_keeps_its_path_and_its_remedy_in_another_process() -> None:
    with pytest.raises(InputError, match=r"^a\.dcm: damaged; copy or export the file again$") as raised, about("a.dcm"):
        raise InputError(Reason.UNREADABLE_IMAGE, "damaged")
    again = pickle.loads(pickle.dumps(raised.value))
    assert (str(again), again.reason) == (str(raised.value), "unreadable_image")
    assert str(pickle.loads(pickle.dumps(FatalInputError("data", "is empty")))) == "data: is empty"
