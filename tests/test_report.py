import base64
import contextlib
import csv
import html
import itertools
import os
import pathlib
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser

import cv2
import numpy as np
import pydicom
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from pipeline import RecordsError
from preprocess import phantom
from preprocess.config import Config
from preprocess.findings import FatalInputError, Reason
from preprocess.report.page import write_report
from preprocess.run import Summary, run

from .helpers.commands import preprocess
from .helpers.tables import audit_of, read_table
from .helpers.trees import contents, contour, image, zipped

BROWSERS = ("chromium", "chromium-browser", "google-chrome")

# The flaws of the data set: what is reported, and where.
NESTED_BADLY, CROSSING_ITS_OUTER, FAR_OUTSIDE, UNREADABLE, WITHOUT_IMAGE, TWICE = 41, 21, 29, 49, 69, 61


def contour_file(root: pathlib.Path, contour_id: str, number: int, kind: str = "i") -> pathlib.Path:
    return root / "contourfiles" / contour_id / f"{kind}-contours" / phantom.contour_name(number, kind)


@pytest.fixture(scope="module")
def data(phantom_dir: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The phantom with flaws in PH-2, contours in three phases of PH-3, and outer contours of PH-1 copied to PH-3."""
    root = shutil.copytree(phantom_dir, tmp_path_factory.mktemp("flawed") / "phantom")
    for number, kind, dx in ((CROSSING_ITS_OUTER, "o", 10.5), (NESTED_BADLY, "i", 15.0)):
        path = contour_file(root, "PH-2", number, kind)
        np.savetxt(path, np.loadtxt(path) + (dx, 0), "%.2f")
    path = contour_file(root, "PH-2", FAR_OUTSIDE)
    np.savetxt(path, np.vstack([np.loadtxt(path), (900, 900)]), "%.2f")
    contour_file(root, "PH-2", UNREADABLE).write_text("1 2\n3\n")
    (root / "dicoms" / "PHANTOM002" / f"{WITHOUT_IMAGE}.dcm").unlink()
    path = contour_file(root, "PH-2", TWICE)
    shutil.copy(path, path.with_name(path.name.replace("IM-0001", "IM-0002")))
    for index in range(phantom.SLICES):
        start = index * phantom.PHASES
        points = np.loadtxt(contour_file(root, "PH-3", start + 1))
        np.savetxt(contour_file(root, "PH-3", start + 5), points.mean(0) + 0.8 * (points - points.mean(0)), "%.2f")
        shutil.copy(contour_file(root, "PH-1", start + 1, "o"), contour_file(root, "PH-3", start + 1, "o"))
    return root


@pytest.fixture(scope="module")
def made(data: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, Summary]:
    """The report's index, and what the run says that it did."""
    root = tmp_path_factory.mktemp("report")
    summary = run(Config(data, root / "records", split="val=PHANTOM002"))
    return write_report(data, root / "records", root / "report"), summary


@pytest.fixture(scope="module")
def page(made: tuple[pathlib.Path, Summary]) -> pathlib.Path:
    return made[0]


@pytest.fixture(scope="module")
def outer_page(data: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The index of a report on outer contours."""
    root = tmp_path_factory.mktemp("outer")
    run(Config(data, root / "records", contours="o", contour_origin="center"))
    return write_report(data, root / "records", root / "report")


class Tags(HTMLParser):
    """Every tag of a page, with its attributes."""

    def __init__(self, path: pathlib.Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, tag: str, name: str) -> list[str]:
        """The values of an attribute of a kind of tag."""
        return [attributes[name] or "" for found, attributes in self.tags if found == tag and name in attributes]


def pages_of(index: pathlib.Path) -> list[pathlib.Path]:
    return sorted((index.parent / "studies").iterdir())


def figures_of(path: pathlib.Path) -> dict[str, str]:
    """The HTML of each picture of a study's page, by its id."""
    text = path.read_text("utf-8")
    return dict(re.findall(r'<figure id="([^"]*)"[^>]*>\n(.*?)</figure>', text, re.DOTALL))


def outlines(figure: str) -> dict[str, np.ndarray]:
    """The points of each contour of a picture, by its class."""
    return {
        look: np.array([point.split(",") for point in points.split()], float)
        for look, points in re.findall(r'<path class="contour ([^"]*)" d="M([^"]*)Z"', figure)
    }


def test_the_report_needs_nothing_beside_it(page: pathlib.Path) -> None:
    assert set(contents(page.parent)) == {"index.html", *(f"studies/000{number}.html" for number in (1, 2, 3))}
    for path in (page, *pages_of(page)):
        tags = Tags(path)
        ids = {name for _, attributes in tags.tags if (name := attributes.get("id"))}
        for _, attributes in tags.tags:
            for name in ("src", "href", "xlink:href", "action", "data", "srcset"):
                target, _, anchor = (attributes.get(name) or "data:").partition("#")
                if target.startswith("data:"):
                    continue
                assert not target or (path.parent / target).is_file(), attributes
                there = Tags(path.parent / target).tags if target else tags.tags
                assert not anchor or anchor in {one.get("id") for _, one in there}, attributes
        assert len(ids) == sum("id" in attributes for _, attributes in tags.tags)
        text = path.read_text("utf-8")
        assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest|https?://(?!www\.w3\.org)", text)
        assert "default-src 'none'" in tags.all("meta", "content")[0]


def test_a_picture_shows_the_contour_of_the_file_and_the_mask_of_the_record(
    data: pathlib.Path, page: pathlib.Path
) -> None:
    rows = [row for row in read_table(page.parent.parent / "records" / "pairs.csv") if row["written"] == "1"]
    assert len(rows) == 37
    for row in rows:
        figure = figures_of(page.parent / f"studies/000{row['study_id'][-1]}.html")[f"pair-{row['instance_number']}"]
        points = np.loadtxt(data / row["contour_path"])
        assert np.abs(outlines(figure)["own"] - points).max() < 0.006
        # A row of the mask is between its vertical edges, taken in turn.
        (mask,) = re.findall(r'<path class="mask" d="([^"]*)"', figure)
        edges = sorted((int(y), int(x)) for x, y in re.findall(r"M(\d+),(\d+)v1", mask))
        assert sum(right[1] - left[1] for left, right in zip(edges[::2], edges[1::2], strict=True)) == int(
            row["mask_area_px"]
        )
        (crop,) = re.findall(r'<image href="data:image/png;base64,([^"]*)" x="(\d+)" y="(\d+)"', figure)
        picture = cv2.imdecode(np.frombuffer(base64.b64decode(crop[0]), np.uint8), cv2.IMREAD_UNCHANGED)
        assert picture is not None
        x, y = points.mean(0).astype(int) - [int(edge) for edge in crop[1:]]
        # Blood is bright.
        assert picture[y, x] > 200
        assert f'aria-label="{row["study_id"]}, image {row["instance_number"]}, slice {row["slice_index"]}' in figure


def test_a_picture_shows_the_contour_that_was_left_out(data: pathlib.Path, page: pathlib.Path) -> None:
    figures = figures_of(pages_of(page)[1])
    for number in (NESTED_BADLY, FAR_OUTSIDE, WITHOUT_IMAGE, TWICE):
        figure = figures[f"pair-{number}"]
        points = np.loadtxt(contour_file(data, "PH-2", number))
        assert np.abs(outlines(figure)["own bad"] - points).max() < 0.006
        assert ("<image " in figure) == (number != WITHOUT_IMAGE)
        assert "<b>not in the records</b>" in figure
    # Both contours that do not nest, and both files of one number.
    assert set(outlines(figures[f"pair-{NESTED_BADLY}"])) == {"own bad", "other bad"}
    assert figures[f"pair-{TWICE}"].count("contour own bad") == 2
    assert "<image " in figures[f"pair-{UNREADABLE}"]
    assert outlines(figures[f"pair-{UNREADABLE}"]) == {}
    crossing = outlines(figures[f"pair-{CROSSING_ITS_OUTER}"])
    assert np.abs(crossing["other"] - np.loadtxt(contour_file(data, "PH-2", CROSSING_ITS_OUTER, "o"))).max() < 0.006


def test_a_contour_that_leaves_the_study_s_window_is_inside_its_picture(page: pathlib.Path) -> None:
    figure = figures_of(pages_of(page)[1])[f"pair-{FAR_OUTSIDE}"]
    (box,) = re.findall(r'viewBox="([^"]*)"', figure)
    left, top, width, height = map(float, box.split())
    assert left + width > 900
    assert top + height > 900


def test_a_study_without_a_record_has_a_page_with_its_contours(data: pathlib.Path, outer_page: pathlib.Path) -> None:
    figures = figures_of(pages_of(outer_page)[2])
    assert len(figures) == phantom.SLICES
    for number, figure in figures.items():
        points = np.loadtxt(contour_file(data, "PH-3", int(number.removeprefix("pair-")), "o")) + 0.5
        assert np.abs(outlines(figure)["own bad"] - points).max() < 0.006
    text = outer_page.read_text("utf-8")
    assert "pairs written (outer contours)" in text
    # Contrast is measured for inner contours only.
    assert not any("Contrast across the contours" in path.read_text("utf-8") for path in pages_of(outer_page))


def test_every_finding_about_an_image_leads_to_its_picture(page: pathlib.Path, outer_page: pathlib.Path) -> None:
    for index in (page, outer_page):
        records = index.parent.parent / "records"
        numbered = [row for row in audit_of(records) if row["instance_number"]]
        assert len(numbered) > 12
        expected = [f"studies/000{row['study_id'][-1]}.html#pair-{row['instance_number']}" for row in numbered]
        links = [link for link in Tags(index).all("a", "href") if "#pair-" in link]
        assert sorted(links) == sorted(expected)


def test_the_head_counts_what_the_closing_lines_count(made: tuple[pathlib.Path, Summary]) -> None:
    page, summary = made
    text = page.read_text("utf-8")
    head = re.findall(r"<li><b[^>]*>([\d,]+)</b> (.*?)</li>", text.partition("</header>")[0])
    facts = {what: int(count) for count, what in head}
    assert facts["pairs written (inner contours)"] == sum(summary.records.values()) == 37
    assert facts["pairs left out by errors"] + facts["study or other input left out"] == sum(summary.left_out.values())
    assert facts["errors that cost no record"] == sum(summary.harmless.values())
    assert sum(summary.warnings.values()) == facts["warnings"]


def test_counts_agree_in_number(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tree / "link.csv").write_text("patient_id,original_id\nPHANTOM001,PH-1\n")
    for number in (9, 21, 29):
        contour(tree, number).unlink()
    run(Config(tree, tmp_path / "records"))
    text = write_report(tree, tmp_path / "records", tmp_path / "report").read_text("utf-8")
    assert "<h1>1 pair of 1 study</h1>" in text
    assert "<title>Audit: 1 pair of 1 study</title>" in text
    assert "<dd>train: 1 pair of 1 study</dd>" in text


def test_a_study_with_more_than_two_phases_has_a_curve_and_a_column_for_each(page: pathlib.Path) -> None:
    first, _, third = (path.read_text("utf-8") for path in pages_of(page))
    assert "Volume inside the contours by phase" in third
    assert "Volume inside the contours by phase" not in first
    assert re.findall(r"<h3>(phase .*?)</h3>", third) == ["phase 0 (end-diastole)", "phase 4", "phase 8 (end-systole)"]
    assert "end-diastolic volume (phase 0)" in third
    assert "end-systolic volume (phase 8)" in third
    sheet = third.partition('id="sheet"')[2]
    shown = [int(number) for number in re.findall(r"image (\d+)(?:<|,)", re.sub(r'aria-label="[^"]*"', "", sheet))]
    assert shown == [index * 20 + phase + 1 for index in range(6) for phase in (0, 4, 8)]


def test_the_settings_and_the_data_are_named(data: pathlib.Path, page: pathlib.Path) -> None:
    text = page.read_text("utf-8")
    settings = dict(re.findall(r"<dt>(.*)</dt><dd>(.*)</dd>", text))
    assert settings["data"] == str(data)
    assert settings["splits"] == "train: 30 pairs of 2 studies; val: 7 pairs of 1 study"
    assert settings["written by"].startswith("cardiac-lv-records ")
    assert settings["contour_origin"] == "corner"


def test_the_first_pictures_are_one_of_each_reason_and_the_extremes(page: pathlib.Path) -> None:
    text = pages_of(page)[1].read_text("utf-8")
    section = text.partition('id="first"')[2].partition("</section>")[0]
    reasons = re.findall(r"<figcaption><b>(.*?)</b></figcaption>", section)
    kinds = [reason.partition(";")[0] for reason in reasons if reason.startswith(("error", "warning"))]
    assert len(set(kinds)) == len(kinds) == 6
    rows = [row for row in read_table(page.parent.parent / "records" / "pairs.csv") if row["study_id"] == "PHANTOM002"]
    worst = min(
        (row for row in rows if row["written"] == "1"),
        key=lambda row: float(row["mean_inside"]) - float(row["mean_ring"]),
    )
    numbers = re.findall(r'<figure id="pair-(\d+)"', section)
    assert "lowest contrast" in reasons[numbers.index(worst["instance_number"])]


def test_headings_are_in_order(page: pathlib.Path) -> None:
    for path in (page, *pages_of(page)):
        levels = [int(tag[1]) for tag, _ in Tags(path).tags if re.fullmatch("h[1-6]", tag)]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


HOSTILE = (
    '"><img src=x onerror=alert(1)>',
    "=HYPERLINK(1)",
    "{{ 7*7 }}<script>alert(1)",
    "' onmouseover='alert(1)",
    "$^$",
)


@pytest.fixture(scope="module")
def hostile_page(phantom_dir: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The index of a report on studies whose ids are markup, formulas and templates, in a folder that is not UTF-8."""
    root = tmp_path_factory.mktemp("hostile")
    data = root / os.fsdecode(b"caf\xe9 <u>")
    with contextlib.ExitStack() as stack:
        (data / "dicoms").mkdir(parents=True)
        rows = csv.writer(stack.enter_context((data / "link.csv").open("w", newline="")))
        rows.writerow(("patient_id", "original_id"))
        for number, study_id in enumerate(HOSTILE):
            rows.writerow((study_id, study_id[::-1].replace("/", "")))
            (data / "dicoms" / study_id).mkdir()
            folder = data / "contourfiles" / study_id[::-1] / "i-contours"
            folder.mkdir(parents=True)
            for instance in (1, 9, 21, 29):
                dataset = pydicom.dcmread(phantom_dir / "dicoms/PHANTOM001" / f"{instance}.dcm")
                dataset.PatientID = study_id
                pixels = dataset.pixel_array.copy()
                pixels[0, 0] = number
                dataset.PixelData = pixels.tobytes()
                dataset.save_as(data / "dicoms" / study_id / f"{instance}.dcm")
                points = np.loadtxt(contour_file(phantom_dir, "PH-1", instance)) + 0.01 * number
                np.savetxt(folder / phantom.contour_name(instance, "i"), points, "%.2f")
        (data / "dicoms" / "<i>nobody").mkdir()
        (data / "dicoms" / "<i>nobody" / "1.dcm").touch()
    run(Config(data, root / "records"))
    return write_report(data, root / "records", root / "report")


def test_names_from_the_input_inject_nothing(hostile_page: pathlib.Path) -> None:
    paths = [hostile_page, *pages_of(hostile_page)]
    assert len(paths) == 1 + len(HOSTILE)
    for path in paths:
        tags = Tags(path).tags
        assert not [tag for tag, _ in tags if tag in ("img", "u", "i", "iframe", "object")]
        assert sum(tag == "script" for tag, _ in tags) == 1
        assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]
    links = [link for link in Tags(hostile_page).all("a", "href") if link.startswith("studies/")]
    assert {link.partition("#")[0] for link in links} == {f"studies/000{number}.html" for number in range(1, 6)}
    titles = [re.findall(r"<h1>(.*)</h1>", path.read_text("utf-8"))[0] for path in paths[1:]]
    assert sorted(html.unescape(title) for title in titles) == sorted(HOSTILE)


@pytest.mark.slow
def test_a_hundred_studies_give_a_hundred_pages(phantom_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    data = tmp_path / "data"
    rows = ["patient_id,original_id"]
    for number in range(100):
        study_id = f"S{number:03d}"
        rows.append(f"{study_id},{study_id}")
        (data / "dicoms" / study_id).mkdir(parents=True)
        folder = data / "contourfiles" / study_id / "i-contours"
        folder.mkdir(parents=True)
        for instance in (1, 9):
            dataset = pydicom.dcmread(phantom_dir / "dicoms/PHANTOM001" / f"{instance}.dcm")
            pixels = dataset.pixel_array[64:192, 64:192].copy()
            pixels[0, 0] = number
            dataset.PatientID, dataset.Rows, dataset.Columns = study_id, 128, 128
            dataset.PixelData = pixels.tobytes()
            dataset.save_as(data / "dicoms" / study_id / f"{instance}.dcm")
            points = np.loadtxt(contour_file(phantom_dir, "PH-1", instance)) - 64 + 0.01 * number
            np.savetxt(folder / phantom.contour_name(instance, "i"), points, "%.2f")
    (data / "link.csv").write_text("\n".join(rows) + "\n")
    run(Config(data, tmp_path / "records", workers=2))
    index = write_report(data, tmp_path / "records", tmp_path / "report")
    names = re.findall(r'<td data-name="study"><a href="(studies/\d{4}.html)">(S\d{3})</a>', index.read_text("utf-8"))
    assert [study_id for _, study_id in names] == [f"S{number:03d}" for number in range(100)]
    for name, study_id in names:
        text = (index.parent / name).read_text("utf-8")
        assert f"<h1>{study_id}</h1>" in text
        assert len(figures_of(index.parent / name)) == 2
    assert index.stat().st_size < 400_000


def test_a_contour_that_is_not_the_one_in_the_records_is_named(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    run(Config(tree, tmp_path / "records", workers=1))
    index = write_report(tree, tmp_path / "records", tmp_path / "report")
    assert "The data has changed" not in index.read_text("utf-8")
    (row, *_) = read_table(tmp_path / "records" / "pairs.csv")
    contour = tree / row["contour_path"]
    # As large as before.
    np.savetxt(contour, np.loadtxt(contour) + 1, "%.2f")
    index = write_report(tree, tmp_path / "records", tmp_path / "report")
    number = row["instance_number"]
    expected = rf'The data has changed</strong> .*\n<a href="#pair-{number}">image {number}</a>\. Run the job again'
    (page,) = (path for path in index.parent.glob("studies/*") if f"<h1>{row['study_id']}</h1>" in path.read_text())
    assert re.search(expected, page.read_text("utf-8"))
    assert f'<a href="studies/{page.name}">{row["study_id"]}</a>. Run the job again' in index.read_text("utf-8")


def test_data_in_another_layout_than_the_records_were_made_from_is_refused(
    page: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    expected = r"; the records hold PHANTOM001, .*: pass the data that they were made from"
    with pytest.raises(FatalInputError, match=expected):
        write_report(tmp_path, page.parent.parent / "records", page.parent)


def test_other_data_than_the_records_were_made_from_is_refused(page: pathlib.Path, tree: pathlib.Path) -> None:
    before = contents(page.parent)
    with pytest.raises(FatalInputError, match=r"is not there; pass the --data_dir that the records were made from"):
        write_report(tree, page.parent.parent / "records", page.parent)
    assert contents(page.parent) == before


@pytest.mark.parametrize("kind", ["page", "link", "folder", "file"])
def test_what_is_not_a_report_is_not_replaced(
    data: pathlib.Path, page: pathlib.Path, tmp_path: pathlib.Path, kind: str
) -> None:
    if kind == "page":
        (tmp_path / "index.html").write_text("<title>Somebody's home page</title>")
    elif kind == "link":
        shutil.copy(page, tmp_path / "report.html")
        (tmp_path / "index.html").symlink_to("report.html")
    else:
        (tmp_path / "studies").mkdir()
        (tmp_path / "studies" / ("notes.txt" if kind == "file" else "0001.html")).touch()
        if kind == "file":
            shutil.copy(page, tmp_path)
    before = contents(tmp_path)
    what = (
        r"studies: is not part of a report"
        if kind in ("folder", "file")
        else r"index.html: is not a report of this version"
    )
    with pytest.raises(FatalInputError, match=rf"{what}, so it is not replaced; choose an"):
        write_report(data, page.parent.parent / "records", tmp_path)
    assert contents(tmp_path) == before


def test_a_report_is_replaced_by_one_of_the_same_studies_only(
    data: pathlib.Path, page: pathlib.Path, tree: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    shutil.copy(page, tmp_path)
    run(Config(tree, tmp_path / "records"))
    message = (
        r"index.html: is a report of studies that the records do not hold \(PHANTOM003\); choose another --output_dir"
    )
    with pytest.raises(FatalInputError, match=message):
        write_report(tree, tmp_path / "records", tmp_path)
    (tree / "link.csv").write_text("patient_id,original_id\nPHANTOM001,PH-1\n")
    run(Config(tree, tmp_path / "fewer"))
    write_report(tree, tmp_path / "fewer", tmp_path / "report")
    first = contents(tmp_path / "report")
    write_report(tree, tmp_path / "fewer", tmp_path / "report")
    assert contents(tmp_path / "report") == first
    write_report(data, page.parent.parent / "records", tmp_path / "report")
    assert contents(tmp_path / "report") == contents(page.parent)


def test_records_without_a_table_are_refused(data: pathlib.Path, page: pathlib.Path, tmp_path: pathlib.Path) -> None:
    shutil.copytree(page.parent.parent / "records", tmp_path / "records")
    (tmp_path / "records" / "pairs.csv").unlink()
    with pytest.raises(
        RecordsError, match=r"pairs.csv: cannot be read \(No such file or directory\); write the records a"
    ):
        write_report(data, tmp_path / "records", tmp_path)


def test_damaged_records_are_refused(data: pathlib.Path, page: pathlib.Path, tmp_path: pathlib.Path) -> None:
    records = shutil.copytree(page.parent.parent / "records", tmp_path / "records")
    shard = next(records.glob("*.tfrecord-*-of-?????"))
    content = bytearray(shard.read_bytes())
    content[5000] ^= 1
    shard.write_bytes(content)
    with pytest.raises(FatalInputError, match=r"records: .*tfrecord.*record 0"):
        write_report(data, records, tmp_path / "report")
    assert not (tmp_path / "report" / "index.html").exists()


def test_the_data_may_be_an_archive(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    archive = zipped(tree, tmp_path / "data.zip")
    run(Config(archive, tmp_path / "records"))
    index = write_report(archive, tmp_path / "records", tmp_path / "report")
    assert len(figures_of(pages_of(index)[0])) == 4
    contour(tree, 9).unlink()
    other = zipped(tree, tmp_path / "other.zip")
    with pytest.raises(FatalInputError, match=r"PHANTOM001, contour 9: is not there; pass the --data_dir that"):
        write_report(other, tmp_path / "records", tmp_path / "report")


def test_incomplete_volumes_are_marked_beside_the_ejection_fraction(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tree / "contourfiles/PH-1/i-contours" / phantom.contour_name(21, "i")).write_text("1 2\n3\n")
    run(Config(tree, tmp_path / "records"))
    index = write_report(tree, tmp_path / "records", tmp_path / "report")
    text = pages_of(index)[0].read_text("utf-8")
    assert text.count("The volumes are incomplete:</strong> no i-contour could be used on slice 1 at phase 0") == 1
    assert index.read_text("utf-8").count("(slices are missing)") == 1


def test_volumes_with_an_implausible_contour_are_marked_and_lead_to_its_picture(page: pathlib.Path) -> None:
    study_id, number = phantom.MOVED
    text = pages_of(page)[0].read_text("utf-8")
    assert f"<title>{study_id}</title>" in text
    marked = text.partition("The volumes are not reliable:</strong>")[2].partition("</p>")[0]
    assert re.findall(r'href="#([^"]*)"', marked) == [f"pair-{number}"]
    figure = figures_of(pages_of(page)[0])[f"pair-{number}"]
    assert "warning: implausible_contour; most implausible; lowest contrast" in figure
    assert re.search(r"ejection fraction <strong[^>]*>\(not reliable\)<", text)
    assert re.search(rf">{study_id}</a>.*?\(not reliable\)</strong>", page.read_text("utf-8"), re.DOTALL)


def test_volumes_of_contours_of_other_images_are_marked(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tree / "link.csv").write_text("patient_id,original_id\nPHANTOM001,PH-2\nPHANTOM002,PH-1\n")
    run(Config(tree, tmp_path / "records"))
    index = write_report(tree, tmp_path / "records", tmp_path / "report")
    marked = {row["study_id"] for row in read_table(tmp_path / "records/studies.csv") if row["volumes_reliable"] == "0"}
    assert marked == {"PHANTOM001", "PHANTOM002"}
    assert index.read_text("utf-8").count("(not reliable)") == 2
    for path in pages_of(index):
        assert "The volumes are not reliable:</strong> the median contrast of the images along" in path.read_text(
            "utf-8"
        )


def test_a_cavity_that_grows_is_shown_with_its_contour_at_end_diastole(
    tree: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    one, other = contour(tree, 21).read_bytes(), contour(tree, 29).read_bytes()
    contour(tree, 21).write_bytes(other)
    contour(tree, 29).write_bytes(one)
    run(Config(tree, tmp_path / "records"))
    figure = figures_of(pages_of(write_report(tree, tmp_path / "records", tmp_path / "report"))[0])["pair-29"]
    assert np.abs(outlines(figure)["before"] - np.loadtxt(contour(tree, 21))).max() < 0.006


def test_an_image_that_was_left_out_on_a_common_grid_is_shown(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Contours lie on the records' pixels in a picture of a record, and on the image's own elsewhere."""
    contour(tree, 9).write_text("1 2\n3\n")
    run(Config(tree, tmp_path / "records", image_size=(128, 128), pixel_spacing_mm=2.0))
    figures = figures_of(pages_of(write_report(tree, tmp_path / "records", tmp_path / "report"))[0])
    header = pydicom.dcmread(image(tree, 21))
    scale = header.PixelSpacing[0] / 2
    points = (np.loadtxt(contour(tree, 21)) - 128) * scale + 64
    assert np.abs(outlines(figures["pair-21"])["own"] - points).max() < 0.5
    assert "<image " in figures["pair-9"]


def test_a_page_shows_a_few_hundred_rows_of_a_kind_and_counts_the_others(
    data: pathlib.Path, page: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    records = shutil.copytree(page.parent.parent / "records", tmp_path / "records")
    with (records / "audit.csv").open("a") as file:
        file.writelines(f"A,image,{number}.dcm,{number},error,duplicate_image,copied,,1\n" for number in range(2000))
    text = write_report(data, records, tmp_path / "report").read_text("utf-8")
    assert text.count('<td data-name="reason">duplicate_image</td>') == 200
    assert "1,800 more rows of level error, reason duplicate_image: see audit.csv." in text


def without(table: pathlib.Path, *columns: str) -> None:
    """Removes columns of a table."""
    rows = read_table(table)
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, [name for name in rows[0] if name not in columns], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def test_the_tables_of_an_earlier_version_are_shown(
    data: pathlib.Path, page: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    records = shutil.copytree(page.parent.parent / "records", tmp_path / "records")
    rows = audit_of(records)
    without(records / "audit.csv", "contour", "left_out")
    without(records / "pairs.csv", "implausibility")
    without(records / "studies.csv", "volumes_complete", "volumes_reliable")
    text = write_report(data, records, tmp_path / "report").read_text("utf-8")
    assert text.count("<tr data-level=") == len(rows)


def test_the_reasons_that_occur_are_explained(page: pathlib.Path) -> None:
    text = page.read_text("utf-8")
    explained = dict(re.findall(r"<dt>(\w+)</dt>\n<dd>(.*)</dd>", text))
    explained = {name: what for name, what in explained.items() if name in set(Reason)}
    assert explained.keys() == set(re.findall(r'<td data-name="reason">(\w+)</td>', text))
    assert explained["missing_study"].startswith("a study whose images or contours are missing")
    assert explained["missing_study"].endswith(f" <strong>What to do:</strong> {Reason.MISSING_STUDY.remedy}.")
    assert "What to do" not in explained["unlabeled_images"]


def test_the_report_command_writes_the_same_pages(
    data: pathlib.Path, page: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    records = page.parent.parent / "records"
    arguments = f"--data_dir={data}", f"--records_dir={records}", f"--output_dir={tmp_path / 'out'}"
    result = preprocess(*arguments, module="preprocess.report")
    assert (result.returncode, result.stdout) == (0, f"report: {tmp_path / 'out' / 'index.html'}\n")
    assert contents(tmp_path / "out") == contents(page.parent)
    assert preprocess(module="preprocess.report").returncode == 2
    result = preprocess(f"--data_dir={data}", f"--records_dir={tmp_path}", module="preprocess.report")
    assert result.returncode == 1
    assert "manifest.json: missing" in result.stderr


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no Chromium with its driver is installed; on Debian: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1100,900",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()


def shown(browser: webdriver.Chrome, path: pathlib.Path) -> webdriver.Chrome:
    """A page, opened."""
    browser.get("about:blank")
    browser.get(path.as_uri())
    return browser


@pytest.fixture
def opened(browser: webdriver.Chrome, page: pathlib.Path) -> webdriver.Chrome:
    return shown(browser, page)


def rows(browser: webdriver.Chrome) -> list[WebElement]:
    return [row for row in browser.find_elements(By.CSS_SELECTOR, ".findings tbody tr") if row.is_displayed()]


def column(browser: webdriver.Chrome, number: int) -> list[str]:
    return [row.find_elements(By.TAG_NAME, "td")[number].text for row in rows(browser)]


def test_the_pages_load_without_an_error(
    browser: webdriver.Chrome, page: pathlib.Path, hostile_page: pathlib.Path
) -> None:
    for path in (page, *pages_of(page), hostile_page, *pages_of(hostile_page)):
        # An alert of an injected script would be an error of the next command.
        shown(browser, path)
        assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]
        assert browser.execute_script(
            "return [...document.querySelectorAll('svg image')].every(i => i.getBBox().width)"
        )
    assert shown(browser, page).title == "Audit: 37 pairs of 3 studies"


def test_the_filter_hides_other_rows(opened: webdriver.Chrome) -> None:
    everything = len(rows(opened))
    assert column(opened, 0)[0] == "error"
    words = opened.find_element(By.CSS_SELECTOR, ".filter input")
    words.send_keys("phantom001 UNLABELED")
    assert column(opened, 1) == ["unlabeled_images"]
    assert opened.find_element(By.TAG_NAME, "output").text == f"1 of {everything} rows"
    words.send_keys(Keys.CONTROL, "a")
    words.send_keys(Keys.DELETE)
    Select(opened.find_element(By.CSS_SELECTOR, ".filter select")).select_by_visible_text("warning")
    assert set(column(opened, 1)) == {"not_nested", "open_contour", "incomplete_volumes", "implausible_contour"}


def test_the_headings_sort_by_mouse_and_keyboard(opened: webdriver.Chrome) -> None:
    heading = opened.find_elements(By.CSS_SELECTOR, ".findings th button")[2]
    heading.click()
    assert column(opened, 2) == sorted(column(opened, 2))
    heading.send_keys(Keys.ENTER)
    assert column(opened, 2) == sorted(column(opened, 2), reverse=True)
    assert heading.find_element(By.XPATH, "..").get_attribute("aria-sort") == "descending"
    # All headings look as if they sort, before anybody clicks.
    script = "return [...document.querySelectorAll('th button')].map(b => getComputedStyle(b, '::after').content)"
    assert all(mark.strip('" ') in "⇅↑↓" for mark in opened.execute_script(script))


def test_a_row_leads_to_a_picture_of_its_fault(opened: webdriver.Chrome) -> None:
    link = next(
        row.find_element(By.TAG_NAME, "a") for row in rows(opened) if "not_nested" in row.text and "error" in row.text
    )
    assert link.text == f"image {NESTED_BADLY}"
    opened.execute_script("arguments[0].scrollIntoView()", link)
    link.click()
    WebDriverWait(opened, 60).until(lambda browser: browser.current_url.endswith(f"/0002.html#pair-{NESTED_BADLY}"))
    WebDriverWait(opened, 60).until(lambda browser: browser.execute_script("return document.readyState") == "complete")
    figure = opened.find_element(By.CSS_SELECTOR, ":target")
    top, height = opened.execute_script(
        "const box = arguments[0].getBoundingClientRect(); return [box.top, innerHeight]", figure
    )
    assert -1 <= top < height
    rejected = figure.find_element(By.CSS_SELECTOR, ".own.bad")
    assert opened.execute_script("return getComputedStyle(arguments[0]).stroke", rejected) == "rgb(255, 79, 67)"


def test_contours_and_masks_can_be_hidden_alone(browser: webdriver.Chrome, page: pathlib.Path) -> None:
    shown(browser, pages_of(page)[0])
    for look, other in (("mask", "contour"), ("contour", "mask")):
        box = browser.find_element(By.CSS_SELECTOR, f".show-{look}")
        box.click()
        script = "return getComputedStyle(document.querySelector('.pair .' + arguments[0])).display"
        assert browser.execute_script(script, look) == "none"
        assert browser.execute_script(script, other) != "none"
        box.click()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("which", ["index", "study", "hostile"])
def test_a_page_fits_a_phone_and_is_readable(
    browser: webdriver.Chrome, page: pathlib.Path, hostile_page: pathlib.Path, scheme: str, which: str
) -> None:
    shown(browser, {"index": page, "study": pages_of(page)[1], "hostile": hostile_page}[which])
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    metrics = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
        ratios = browser.execute_script(CONTRAST)
        assert len(ratios) >= 5
        assert min(ratios.values()) >= 4.5, ratios
        # Findings are cards: no heading, and each cell names its column.
        assert (
            browser.execute_script("return getComputedStyle(document.querySelector('.findings thead')).display")
            == "none"
        )
        script = "return getComputedStyle(document.querySelector('.findings td'), '::before').content"
        assert browser.execute_script(script) == '"level"'
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_print_is_light_and_has_no_controls(opened: webdriver.Chrome) -> None:
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": features})
    try:
        script = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
        assert opened.execute_script(script, "body", "backgroundColor") == "rgb(255, 255, 255)"
        assert opened.execute_script(script, ".filter", "display") == "none"
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


# The contrast ratio of text and background (WCAG 2.2), which has to be at least 4.5.
CONTRAST = """
const luminance = color => {
  const [r, g, b] = color.match(/[0-9.]+/g).slice(0, 3).map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = element => {
  for (; element; element = element.parentElement) {
    const color = getComputedStyle(element).backgroundColor;
    if (!/, 0\\)$/.test(color)) return color;
  }
  return "rgb(255, 255, 255)";
};
const ratios = {};
const selectors = ["p", "a", "figcaption", ".facts li", "td .error", "td .warning", "td .info", ".quiet", "b.error"];
for (const selector of selectors) {
  const element = document.querySelector(selector);
  if (!element) continue;
  const pair = [luminance(getComputedStyle(element).color), luminance(ground(element))].sort((x, y) => y - x);
  ratios[selector] = (pair[0] + 0.05) / (pair[1] + 0.05);
}
// Plots have the page's ink.
for (const text of document.querySelectorAll(".plots text")) {
  const pair = [luminance(getComputedStyle(text).fill), luminance(ground(text))].sort((x, y) => y - x);
  if (!/^(not moved|peak)$/.test(text.textContent.trim()))
    ratios["plot"] = Math.min(ratios["plot"] ?? 21, (pair[0] + 0.05) / (pair[1] + 0.05));
}
return ratios;
"""
