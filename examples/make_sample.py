"""Makes docs/sample: a run on the phantom, and pictures of its report, to look at without running anything.

python -m examples.make_sample build/phantom docs/sample
"""

from __future__ import annotations

import io
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import PIL.Image
from selenium import webdriver
from selenium.webdriver.common.by import By

# Lines of TensorFlow, and the start of a line of absl, which differ between runs.
_TENSORFLOW = re.compile(r"[IWE]0000 |WARNING: All log messages|To enable the following")
_PREFIX = re.compile(r"^[IWE]\d{4} [\d:.]+ +\d+ \S+\] ")


def run(command: list[str], directory: pathlib.Path) -> str:
    """A command and what it prints, without what differs between runs."""
    result = subprocess.run(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
    )
    lines = [_PREFIX.sub("", line) for line in result.stdout.splitlines() if not _TENSORFLOW.match(line)]
    return "\n".join([f"$ python {' '.join(command)}", *lines, ""]).replace(f"{directory}/", "")


def photograph(page: pathlib.Path, output_dir: pathlib.Path) -> None:
    """Pictures of the report: its index, and the page of a study."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--disable-background-networking",
    ):
        options.add_argument(argument)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver") or ""))
    try:
        study = page.parent / "studies" / "0001.html"
        for name, path in (("index", page), ("study", study)):
            browser.get(path.as_uri())
            height = browser.find_element(By.TAG_NAME, "html").size["height"]
            metrics = {"width": 1000, "height": min(height, 2400), "deviceScaleFactor": 1, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            picture = PIL.Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
            picture.save(output_dir / f"report-{name}.jpg", quality=80)
    finally:
        browser.quit()


def main() -> None:
    """Runs the three commands on the phantom, and keeps what they print, write and show."""
    data_dir, output_dir = map(pathlib.Path, sys.argv[1:])
    output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        records, report = root / "records", root / "report"
        job = ["-m", "preprocess", f"--data_dir={data_dir}", f"--output_dir={records}", "--split=val=PHANTOM003"]
        text = run(job, root)
        text += run(["-m", "pipeline.verify", f"{records}"], root)
        page = [
            "-m",
            "preprocess.report",
            f"--data_dir={data_dir}",
            f"--records_dir={records}",
            f"--output_dir={report}",
        ]
        text += run(page, root)
        (output_dir / "run.txt").write_text(text)
        for table in ("audit.csv", "pairs.csv", "studies.csv", "manifest.json"):
            shutil.copy(records / table, output_dir)
        photograph(report / "index.html", output_dir)


if __name__ == "__main__":
    main()
