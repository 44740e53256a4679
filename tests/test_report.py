import base64
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
from selenium.webdriver.support.ui import Select

from pipeline import RecordsError
from preprocess import phantom
from preprocess.config import Config
from preprocess.findings import FatalInputError, Reason
from preprocess.report.page import write_report
from preprocess.run import run

from .helpers.commands import preprocess
from .helpers.trees import contents

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def data(phantom_dir: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The phantom, with an o-contour of one study too small for its i-contour."""
    root = shutil.copytree(phantom_dir, tmp_path_factory.mktemp("flawed") / "phantom")
    path = root / "contourfiles" / "PH-2" / "o-contours" / phantom.contour_name(21, "o")
    points = np.loadtxt(path)
    np.savetxt(path, points + (10.5, 0), "%.2f")
    return root


@pytest.fixture(scope="module")
def page(data: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    root = tmp_path_factory.mktemp("report")
    run(Config(data, root / "records", split="val=PHANTOM002"))
    return write_report(data, root / "records", root / "report")


class Tags(HTMLParser):
    """Every tag of a page, with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_needs_nothing_beside_it(page: pathlib.Path) -> None:
    assert set(contents(page.parent)) == {"index.html"}
    text = page.read_text("utf-8")
    assert len(text) < 10_000_000
    tags = Tags(text).tags
    for _, attributes in tags:
        for name in ("src", "href", "action", "data", "srcset"):
            assert (attributes.get(name) or "#").startswith(("data:", "#")), attributes
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|https?://(?!www\.w3\.org)", text)


def test_every_pair_has_its_picture_and_every_picture_a_text(page: pathlib.Path) -> None:
    tags = Tags(page.read_text("utf-8")).tags
    assert len({attributes["id"] for tag, attributes in tags if tag == "figure" and "id" in attributes}) == 36
    images = [attributes for tag, attributes in tags if tag == "img"]
    assert len(images) == 36 + 3 * 2 + 2
    for attributes in images:
        assert len(attributes["alt"] or "") > 20
        media_type, _, content = (attributes["src"] or "").partition(";base64,")
        assert media_type in ("data:image/webp", "data:image/svg+xml")
        if media_type == "data:image/webp":
            picture = cv2.imdecode(np.frombuffer(base64.b64decode(content), np.uint8), cv2.IMREAD_COLOR)
            assert picture is not None
            assert picture.shape == (352, 352, 3)
            # Yellow contour on gray: blue is far below red and green.
            blue, green, red = picture.astype(int).transpose(2, 0, 1)
            assert ((red - blue > 60) & (green - blue > 60)).sum() > 300


def test_headings_are_in_order(page: pathlib.Path) -> None:
    levels = [int(tag[1]) for tag, _ in Tags(page.read_text("utf-8")).tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_other_data_than_the_records_were_made_from_is_refused(page: pathlib.Path, tree: pathlib.Path) -> None:
    with pytest.raises(FatalInputError, match=r"is not there; pass the --data_dir that the records were made from"):
        write_report(tree, page.parent.parent / "records", page.parent)


@pytest.mark.parametrize("kind", ["page", "link"])
def test_what_is_not_a_report_is_not_replaced(
    data: pathlib.Path, page: pathlib.Path, tmp_path: pathlib.Path, kind: str
) -> None:
    if kind == "link":
        shutil.copy(page, tmp_path / "report.html")
        (tmp_path / "index.html").symlink_to("report.html")
    else:
        (tmp_path / "index.html").write_text("<title>Somebody's home page</title>")
    before = contents(tmp_path)
    with pytest.raises(
        FatalInputError, match=r"index.html: is not a report of this version, so it is not replaced; choose an"
    ):
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
    first = write_report(tree, tmp_path / "fewer", tmp_path / "report").read_bytes()
    assert write_report(tree, tmp_path / "fewer", tmp_path / "report").read_bytes() == first
    assert write_report(data, page.parent.parent / "records", tmp_path / "report").read_bytes() == page.read_bytes()
    assert os.listdir(tmp_path / "report") == ["index.html"]


def test_records_without_a_table_are_refused(data: pathlib.Path, page: pathlib.Path, tmp_path: pathlib.Path) -> None:
    shutil.copytree(page.parent.parent / "records", tmp_path / "records")
    (tmp_path / "records" / "pairs.csv").unlink()
    with pytest.raises(
        RecordsError, match=r"pairs.csv: cannot be read \(No such file or directory\); write the records a"
    ):
        write_report(data, tmp_path / "records", tmp_path)


def test_incomplete_volumes_are_marked_beside_the_ejection_fraction(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tree / "contourfiles/PH-1/i-contours" / phantom.contour_name(21, "i")).write_text("1 2\n3\n")
    run(Config(tree, tmp_path / "records"))
    text = write_report(tree, tmp_path / "records", tmp_path / "report").read_text("utf-8")
    assert text.count("The volumes are incomplete:</strong> no i-contour could be used on slice 1 at phase 0") == 1
    assert text.count("(slices are missing)") == 1


def test_a_page_shows_a_few_hundred_rows_of_a_kind_and_counts_the_others(
    data: pathlib.Path, page: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    records = shutil.copytree(page.parent.parent / "records", tmp_path / "records")
    with (records / "audit.csv").open("a") as file:
        file.writelines(f"A,image,{number}.dcm,{number},error,duplicate_image,copied\n" for number in range(2000))
    text = write_report(data, records, tmp_path / "report").read_text("utf-8")
    assert text.count("<td>duplicate_image</td>") == 200
    assert "1800 more rows of level error, reason duplicate_image: see audit.csv." in text


def test_the_reasons_that_occur_are_explained(page: pathlib.Path) -> None:
    text = page.read_text("utf-8")
    explained = dict(re.findall(r"<dt>(\w+)</dt>\n<dd>(.*)</dd>", text))
    assert explained.keys() == set(re.findall(r"<tr data-level=.*?</td><td>(\w+)</td>", text))
    assert explained["missing_study"].startswith("a row of <code>link.csv</code> names a study")
    assert explained["missing_study"].endswith(f" <strong>What to do:</strong> {Reason.MISSING_STUDY.remedy}.")
    assert "What to do" not in explained["unlabeled_images"]


def test_a_study_named_like_a_formula_in_a_folder_that_is_not_utf_8_is_shown(
    tree: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (tree / "dicoms" / "PHANTOM001").rename(tree / "dicoms" / "$^$")
    for path in (tree / "dicoms" / "$^$").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.PatientID = "$^$"
        dataset.save_as(path)
    (tree / "link.csv").write_text("patient_id,original_id\n$^$,PH-1\nPHANTOM002,PH-2\n")
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    tree.rename(folder / "tree")
    run(Config(tmp_path, tmp_path / "records"))
    page = write_report(tmp_path, tmp_path / "records", tmp_path / "report")
    assert '<h2 id="study-$^$">$^$</h2>' in page.read_text("utf-8")


def test_the_page_of_outer_contours_shows_no_contrast(data: pathlib.Path, tmp_path: pathlib.Path) -> None:
    run(Config(data, tmp_path / "records", contours="o", contour_origin="center"))
    text = write_report(data, tmp_path / "records", tmp_path / "report").read_text("utf-8")
    assert text.count("<figure id=") == 18
    assert "pairs written (outer contours)" in text
    # Contrast is measured for inner contours only.
    assert "Contrast across the contours" not in text


def test_the_report_command_writes_the_same_page(
    data: pathlib.Path, page: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    records = page.parent.parent / "records"
    arguments = f"--data_dir={data}", f"--records_dir={records}", f"--output_dir={tmp_path / 'out'}"
    result = preprocess(*arguments, module="preprocess.report")
    assert (result.returncode, result.stdout) == (0, f"report: {tmp_path / 'out' / 'index.html'}\n")
    assert (tmp_path / "out" / "index.html").read_bytes() == page.read_bytes()
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


@pytest.fixture
def opened(browser: webdriver.Chrome, page: pathlib.Path) -> webdriver.Chrome:
    browser.get("about:blank")
    browser.get(page.as_uri())
    return browser


def rows(browser: webdriver.Chrome) -> list[WebElement]:
    return [row for row in browser.find_elements(By.CSS_SELECTOR, "tbody tr") if row.is_displayed()]


def column(browser: webdriver.Chrome, number: int) -> list[str]:
    return [row.find_elements(By.TAG_NAME, "td")[number].text for row in rows(browser)]


def test_the_page_loads_without_an_error(opened: webdriver.Chrome) -> None:
    assert opened.get_log("browser") == []  # type: ignore[no-untyped-call]
    broken = opened.execute_script(
        "for (const image of document.images) image.loading = 'eager';"
        "return Promise.all([...document.images].map(image => image.decode().then(() => 0, () => 1)))"
    )
    assert sum(broken) == 0
    assert opened.title == "Audit: 36 pairs of 3 studies"


def test_the_filter_hides_other_rows(opened: webdriver.Chrome) -> None:
    everything = len(rows(opened))
    assert column(opened, 0)[0] == "error"
    words = opened.find_element(By.ID, "words")
    words.send_keys("phantom001 UNLABELED")
    assert column(opened, 1) == ["unlabeled_images"]
    assert opened.find_element(By.ID, "shown").text == f"1 of {everything} rows"
    words.send_keys(Keys.CONTROL, "a")
    words.send_keys(Keys.DELETE)
    Select(opened.find_element(By.ID, "level")).select_by_visible_text("warning")
    assert column(opened, 1) == ["not_nested"]


def test_the_headings_sort_by_mouse_and_keyboard(opened: webdriver.Chrome) -> None:
    heading = opened.find_elements(By.CSS_SELECTOR, "th button")[2]
    heading.click()
    assert column(opened, 2) == sorted(column(opened, 2))
    heading.send_keys(Keys.ENTER)
    assert column(opened, 2) == sorted(column(opened, 2), reverse=True)
    assert heading.find_element(By.XPATH, "..").get_attribute("aria-sort") == "descending"


def test_a_row_leads_to_its_picture(opened: webdriver.Chrome) -> None:
    link = opened.find_element(By.CSS_SELECTOR, "tbody a")
    assert link.text == "image 21"
    opened.execute_script("arguments[0].scrollIntoView()", link)
    link.click()
    figure = opened.find_element(By.ID, "pair-PHANTOM002-21")
    top, height = opened.execute_script(
        "const box = arguments[0].getBoundingClientRect(); return [box.top, innerHeight]", figure
    )
    assert -1 <= top < height
    assert opened.execute_script("return document.querySelector(':target').id") == "pair-PHANTOM002-21"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_and_is_readable(opened: webdriver.Chrome, scheme: str) -> None:
    opened.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    metrics = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        assert opened.execute_script("return document.documentElement.scrollWidth") <= 390
        ratios = opened.execute_script(CONTRAST)
        assert min(ratios.values()) >= 4.5, ratios
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


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
for (const selector of ["p", "a", "figcaption", ".facts li", "td.error", "td.warning", "td.info", "b.error"]) {
  const element = document.querySelector(selector);
  const pair = [luminance(getComputedStyle(element).color), luminance(ground(element))].sort((x, y) => y - x);
  ratios[selector] = (pair[0] + 0.05) / (pair[1] + 0.05);
}
return ratios;
"""
