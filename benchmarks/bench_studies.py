"""What the tables of a data set say about how its contours were read and drawn, and how long the job takes.

    python -m benchmarks.bench_studies --data_dir=final_data

The job runs on the data set with --contour_origin=corner and =center, and with --contours=io. The figures come from
pairs.csv and studies.csv, which these runs write.

    peak       how far a study's inner contours have to move for the highest contrast across them: dx, dy in pixels
    unmoved    contrast across the contours as they are, as a share of the peak's
    outside    the largest share of an inner contour's area that lies outside its outer contour
    area       mask area compared with the contour's: mean, and the largest difference
"""

from __future__ import annotations

import argparse
import collections
import csv
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

Row = dict[str, str]

_ROUNDS = 3


def _tables(data_dir: pathlib.Path, *flags: str) -> tuple[dict[str, Row], dict[str, list[Row]]]:
    """The row of each study that has pairs, and the rows of its pairs."""
    with tempfile.TemporaryDirectory() as name:
        records = pathlib.Path(name, "records")
        _run("-m", "preprocess", f"--data_dir={data_dir}", f"--output_dir={records}", *flags)
        studies = {row["study_id"]: row for row in _rows(records / "studies.csv") if int(row["pairs"])}
        pairs: dict[str, list[Row]] = collections.defaultdict(list)
        for row in _rows(records / "pairs.csv"):
            pairs[row["study_id"]].append(row)
        return studies, pairs


def _rows(path: pathlib.Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def _run(*arguments: str) -> float:
    """Runs Python; returns the seconds that it takes."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - begin


def _print(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for row in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(row)} |")
    print()


def _moved(study: Row) -> str:
    """Where a study's contrast peaks, and the share of it without a move."""
    dx, dy = (float(study[f"registration_peak_{axis}_px"]) for axis in ("dx", "dy"))
    return f"({dx:g}, {dy:g}), {float(study['registration_rest']) / float(study['registration_peak']):.0%}"


def _column(rows: Sequence[Row], name: str) -> list[float]:
    """The values of a column, without its empty cells."""
    return [float(row[name]) for row in rows if row[name]]


def _contours(data_dir: pathlib.Path) -> None:
    studies, pairs = _tables(data_dir)
    centered, _ = _tables(data_dir, "--contour_origin=center")
    rows = []
    for study_id, study in studies.items():
        of_study = pairs[study_id]
        contrasts = [float(row["mean_inside"]) - float(row["mean_ring"]) for row in of_study]
        differences = _column(of_study, "area_difference_percent")
        outside = 100 - min(_column(of_study, "inner_inside_outer_percent"), default=100)
        rows.append(
            [
                study_id,
                f"{sum(contrast > 0 for contrast in contrasts)} of {len(contrasts)}",
                f"{min(contrasts):.0f} to {max(contrasts):.0f}",
                _moved(study),
                _moved(centered[study_id]),
                f"{outside:.2f} %",
                f"{statistics.mean(differences):+.1f} %, {max(differences, key=abs):+.1f} %",
                " / ".join(f"{float(study[name]):.1f}" for name in ("edv_ml", "esv_ml", "ejection_fraction_percent")),
            ]
        )
    head = (
        "study", "brighter inside", "contrast inside to ring", "peak and unmoved, corner", "peak and unmoved, center",
        "outside", "area", "EDV, ml / ESV, ml / ejection fraction, %",
    )  # fmt: skip
    _print(head, rows)


def _myocardium(data_dir: pathlib.Path) -> None:
    studies, pairs = _tables(data_dir, "--contours=io")
    rows = []
    for study_id, study in studies.items():
        thickness = _column(pairs[study_id], "wall_thickness_mm")
        range_of = f"{min(thickness):.1f} to {max(thickness):.1f}" if thickness else ""
        rows.append([study_id, *(f"{float(study[name]):.1f}" for name in ("myocardium_volume_ml", "mass_g")), range_of])
    _print(("study", "myocardium, ml", "mass, g", "wall thickness by slice, mm"), rows)


def _time(data_dir: pathlib.Path) -> None:
    """The whole command, beside an import of TensorFlow: in turns, medians."""
    jobs, imports = [], []
    for _ in range(_ROUNDS):
        with tempfile.TemporaryDirectory() as name:
            jobs.append(_run("-m", "preprocess", f"--data_dir={data_dir}", f"--output_dir={name}/records"))
        imports.append(_run("-c", "import tensorflow"))
    job, tensorflow = statistics.median(jobs), statistics.median(imports)
    rows = [
        ["`python -m preprocess`", f"{job:.1f}", f"{job / tensorflow:.2f}"],
        ['`python -c "import tensorflow"`', f"{tensorflow:.1f}", "1.00"],
    ]
    _print(("the whole command", "seconds", "ratio"), rows)


_PARTS = {"contours": _contours, "myocardium": _myocardium, "time": _time}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=pathlib.Path, required=True, help="folder or zip of studies")
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(_PARTS)}; all, if none is named")
    arguments = parser.parse_args()
    for name in arguments.parts or _PARTS:
        _PARTS[name](arguments.data_dir)


if __name__ == "__main__":
    main()
