import itertools
import pathlib
import pickle

import pytest

from preprocess import tables
from preprocess.findings import COLUMNS, Audit, FatalInputError, Finding, InputError, Level, Reason, about, counts
from preprocess.inputs.exclusions import read_exclusions

from .helpers import ROOT
from .helpers.tables import read_table

FINDINGS = [
    Finding(Reason.JUNK, "file", "dicoms", "2 files"),
    Finding(Reason.NO_IMAGE, "contour", 'a,"b"\n.txt', "no image", "S", 10, contour="i"),
    Finding(Reason.NO_IMAGE, "contour", "c.txt", "no image", "S", 9, contour="i"),
    Finding(Reason.UNLINKED_STUDY, "study", "dicoms/T", "no row", "T"),
]


def dumped(findings: list[Finding]) -> bytes:
    audit = Audit()
    audit.add(findings)
    return tables.dump(COLUMNS, audit.rows())


def test_rows_do_not_depend_on_the_order_of_findings() -> None:
    dumps = set()
    for order in itertools.permutations(FINDINGS):
        dumps.add(dumped(list(order)))
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
    assert counts(audit.of_level(Level.ERROR)) == {"no_image": 2}
    assert counts(audit.of_level(Level.WARNING)) == {"unlinked_study": 1}
    assert [finding.path for finding in audit.of_level(Level.INFO)] == ["dicoms"]


def test_a_pair_with_several_errors_is_left_out_once_for_its_cause() -> None:
    audit = Audit()
    audit.add(
        [
            Finding(Reason.NO_IMAGE, "contour", "9.txt", "", "S", 9, contour="i"),
            Finding(Reason.UNREADABLE_IMAGE, "image", "9.dcm", "", "S", 9),
            Finding(Reason.UNREADABLE_IMAGE, "image", "8.dcm", "", "S", 8),
            Finding(Reason.NOT_NESTED, "contour", "9o.txt", "", "S", 9, level=Level.ERROR, contour="o"),
            Finding(Reason.MISSING_STUDY, "study", "T", "", "T"),
            Finding(Reason.BAD_LINK, "link", "link.csv", "line 2"),
            Finding(Reason.BAD_LINK, "link", "link.csv", "line 3"),
        ]
    )
    audit.settle("i", {("S", 9)})
    assert counts(audit.left_out()) == {"bad_link": 2, "unreadable_image": 1, "missing_study": 1}
    assert [(row[2], row[-1]) for row in audit.rows()] == [
        ("link.csv", 1),
        ("link.csv", 1),
        ("8.dcm", 0),
        ("9.txt", 1),
        ("9o.txt", 0),
        ("9.dcm", 1),
        ("T", 1),
    ]


HOSTILE = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "'=1+1", "''-x", "'", "it's", "a=1", ""]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_text_that_a_spreadsheet_would_run_is_quoted_and_read_back(text: str) -> None:
    content = tables.dump(["text", "number", "fraction"], [(text, -1, -0.5)])
    (row,) = read_table(content)
    assert row["text"][:1] not in (*"=+-@\t\r", "\n")
    assert row["text"] == text or row["text"] == f"'{text}"
    assert (row["number"], row["fraction"]) == ("-1", "-0.5")
    assert tables.load(content) == [{"text": text, "number": "-1", "fraction": "-0.5"}]


def test_exclusions_of_studies_named_like_formulas_are_those_of_the_audit(tmp_path: pathlib.Path) -> None:
    ids = [text for text in HOSTILE if text.strip() == text and text]
    content = dumped([Finding(Reason.NO_IMAGE, "contour", "9.txt", "", text, 9, contour="i") for text in ids])
    assert exclusions(tmp_path, content.decode()) == {(text, 9): "no_image" for text in ids}


def test_names_that_are_not_utf8_are_written_as_escapes() -> None:
    finding = Finding(Reason.JUNK, "file", b"di\xffcoms".decode("utf-8", "surrogateescape"), "1 file")
    assert b"di\\udcffcoms" in dumped([finding])


def exclusions(tmp_path: pathlib.Path, text: str) -> dict[tuple[str, int], str]:
    path = tmp_path / "exclude.csv"
    path.write_bytes(text.encode())
    return read_exclusions(path, "i")


def test_exclusions_are_read_from_rows_of_the_audit_or_shorter_ones(tmp_path: pathlib.Path) -> None:
    expected = {("S", 9): "no_image", ("S", 10): "no_image"}
    outer = Finding(Reason.DUPLICATE_CONTOUR, "contour", "o.txt", "", "S", 8, contour="o")
    assert exclusions(tmp_path, dumped([*FINDINGS, outer]).decode()) == expected
    text = "study_id,instance_number,reason\nS, 9 ,no_image\n\nS,10,no_image\n"
    assert exclusions(tmp_path, text) == exclusions(tmp_path, "\ufeff" + text.replace("\n", "\r\n")) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the first line does not name the columns study_id, instance_number, reason"),
        ("study_id,reason\nS,x\n", "does not name the columns instance_number"),
        (
            "study_id,instance_number,reason\nS,,x\n",
            "line 2: instance_number is '', a whole number of at most 9 digits",
        ),
        ("study_id,instance_number,reason\nS,1.0,x\n", "line 2: instance_number is '1.0', a whole"),
        ("study_id;instance_number;reason\nS;1;x\n", "study_id, instance_number, reason; separate columns with commas"),
        ("study_id,instance_number,reason\nS,1,x\n,2,x\n", "line 3: study_id is empty"),
        ("study_id,instance_number,reason\nS,-1,x\n", "line 2: instance_number is "),
        ("study_id,instance_number,reason\nS\n", "line 2: instance_number is "),
        (
            "study_id,instance_number,reason,contour\nS,1,x,inner\n",
            "line 2: contour is 'inner', i, o or nothing expected",
        ),
        ("study_id,kind,instance_number,reason\nS,contour,,x\n", "line 2: instance_number is "),
        (f"study_id,instance_number,reason\nS,{'9' * 5000},x\n", "line 2: instance_number is "),
        ("study_id,study_id,instance_number,reason\nS,T,1,x\n", "names the column study_id more than once"),
    ],
)
def test_exclusions_that_name_no_pair_are_refused(tmp_path: pathlib.Path, text: str, message: str) -> None:
    with pytest.raises(FatalInputError, match=rf"exclude\.csv: .*{message}"):
        exclusions(tmp_path, text)


def test_a_row_about_an_earlier_exclusion_keeps_the_reason_behind_it(tmp_path: pathlib.Path) -> None:
    excluded = Finding(Reason.EXCLUDED, "pair", "i.txt", "left out by --exclude: moved by a slice", "S", 9, contour="i")
    assert exclusions(tmp_path, dumped([excluded]).decode()) == {("S", 9): "moved by a slice"}


def test_an_endless_file_of_exclusions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preprocess.inputs.exclusions.MAX_FILE_BYTES", 1000)
    with pytest.raises(FatalInputError, match=r"/dev/zero: has over 1000 bytes, a row for each pair expected"):
        read_exclusions(pathlib.Path("/dev/zero"), "i")


def test_exclusions_that_cannot_be_read_are_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FatalInputError, match=r"nowhere\.csv: no such file; pass a CSV file of pairs to leave out"):
        read_exclusions(tmp_path / "nowhere.csv", "i")
    with pytest.raises(FatalInputError, match=r"cannot be read: Is a directory; pass a CSV file"):
        read_exclusions(tmp_path, "i")
    (tmp_path / "exclude.csv").write_bytes(b"\xff")
    with pytest.raises(FatalInputError, match=r"exclude\.csv: cannot be read as UTF-8 CSV"):
        read_exclusions(tmp_path / "exclude.csv", "i")


def test_the_documentation_explains_every_reason_as_the_audit_does() -> None:
    text = (ROOT / "docs/AUDIT.md").read_text("utf-8")
    table = text.partition("## Reasons in `audit.csv`")[2].partition("\n## ")[0]
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
