"""Turn MRI studies and left-ventricle contours into training records.

Pairs DICOM images with contours, draws each contour as a mask, lists every problem in audit.csv, and writes sharded
TFRecords with a manifest. The output directory appears complete or not at all.

  python -m preprocess --data_dir=final_data --output_dir=records

Exit status: 0 if the records are published; 1 if nothing is published (standard error says why); 2 for bad flags.
"""

from __future__ import annotations

if __name__ == "__main__":
    # Before the imports that take long.
    from preprocess import interrupts

    interrupts.handle()

import contextlib
import io
import logging as std_logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from absl import app, flags, logging

from pipeline import __version__
from preprocess import interrupts, terminal, urls
from preprocess.config import Config, EngineName
from preprocess.findings import FatalInputError, counted
from preprocess.inputs import sources
from preprocess.model import Contours, Origin
from preprocess.urls import Place

if TYPE_CHECKING:
    from preprocess.run import Summary

_Value = TypeVar("_Value")

_DATA_DIR = flags.DEFINE_multi_string(
    "data_dir",
    None,
    "Folder or .zip of studies, in one of the layouts below, at any depth; or a folder of .zip files. A path, or a URL "
    "as s3://bucket/studies or gs://bucket/studies.zip. Pass it several times for a data set in several folders or "
    "archives.",
)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir",
    None,
    "Records directory to create; it must not exist, unless --overwrite is set. A path, or a URL as "
    "s3://bucket/records or gs://bucket/records.",
)
_LAYOUT = flags.DEFINE_enum(
    "layout",
    "auto",
    ["auto", "challenge", "sunnybrook", "rtstruct"],
    "How the files are arranged. challenge: dicoms/, contourfiles/ and link.csv. sunnybrook: the whole Sunnybrook "
    "Cardiac Data, as it is distributed. rtstruct: DICOM images and RT Structure Sets, in any folders. auto: the one "
    "that is there.",
)
_ROI = flags.DEFINE_string(
    "roi",
    "",
    'For RT Structure Sets: names of the ROIs of inner and outer contours, inner="LV endo",outer="LV epi". * and ? '
    "stand for any text and any letter; upper and lower case are the same.",
)
_CONTOURS = flags.DEFINE_enum(
    "contours", "i", ["i", "o", "io"], "Inner (endocardial) or outer (epicardial) contours, or both, as a label map."
)
_CONTOUR_ORIGIN = flags.DEFINE_enum(
    "contour_origin",
    None,
    ["corner", "center"],
    "Which point of the top-left pixel is (0, 0) in the contours (default: corner). Only for the layout challenge; "
    "the contours of the others state it.",
)
_SPLIT = flags.DEFINE_string(
    "split",
    "train",
    "Which studies go to which split: one name for all, fractions (train:0.6,val:0.2,test:0.2), or ids of studies "
    "(val=SCD0000301+SCD0000401; the others go to train). A study is never divided.",
)
_IMAGE_SIZE = flags.DEFINE_string(
    "image_size",
    None,
    "Rows and columns of every image, as 256x320, or one number for a square. Images are cropped or padded about the "
    "center (default: images keep their size).",
)
_PIXEL_SPACING_MM = flags.DEFINE_float(
    "pixel_spacing_mm",
    None,
    "Edge length of every pixel in mm. Images are resampled, contours are scaled with them before masks are drawn, and "
    "--image_size applies to the result (default: images keep their pixels).",
)
_EXCLUDE = flags.DEFINE_string(
    "exclude",
    None,
    "CSV of pairs to leave out: an audit.csv, rows of one, or columns study_id, instance_number, reason and, to name "
    "contours of one kind, contour (i or o).",
)
_NUM_SHARDS = flags.DEFINE_integer("num_shards", None, "Shards per split (default: about 128 MiB each).")
_MAX_IMAGE_PIXELS = flags.DEFINE_integer(
    "max_image_pixels",
    1 << 24,
    "Largest rows × columns of an image; larger images are left out before they are decoded.",
)
_WORKERS = flags.DEFINE_integer(
    "workers", None, "Number of processes on this machine (default: one for each available core)."
)
_FILE_TIMEOUT_S = flags.DEFINE_float(
    "file_timeout_s",
    60,
    "Seconds that reading and decoding one file may take. A file that takes longer twice is left out, like one that "
    "ends its process twice.",
)
_ENGINE = flags.DEFINE_enum(
    "engine",
    "local",
    ["local", "beam", "dask"],
    "Where the work runs: on this machine, on Apache Beam, or on a Dask cluster.",
)
_BEAM_ARGS = flags.DEFINE_string("beam_args", "", "Arguments for Beam, in one string; docs/SCALE.md has examples.")
_SCHEDULER = flags.DEFINE_string("scheduler", "", "Address of the Dask cluster's scheduler, tcp://HOST:8786.")
_STRICT = flags.DEFINE_bool("strict", False, "Publish nothing if an error left a pair, a study or another input out.")
_OVERWRITE = flags.DEFINE_bool(
    "overwrite",
    False,
    "Replace the output directory in one step. It must contain only records of studies that the data set names.",
)
flags.DEFINE_bool("version", False, "Print the version and exit.")


def main(argv: Sequence[str]) -> int:
    """Runs the job; returns its exit status."""
    del argv
    # A terminal shows a progress bar, other outputs get our log lines. Libraries log warnings only.
    logging.set_verbosity(logging.WARNING)
    # Which layout was taken is worth a line everywhere.
    shown = "preprocess.layouts" if sys.stderr.isatty() else "preprocess"
    std_logging.getLogger(shown).setLevel(std_logging.INFO)
    try:
        config = Config(
            data_dir=sources.data_dir(_required(_DATA_DIR, "a folder or a zip archive of studies")),
            output_dir=urls.place(_required(_OUTPUT_DIR, "the records directory to create"), "--output_dir"),
            layout=cast(Any, _LAYOUT.value),
            roi=_ROI.value,
            contours=cast(Contours, _CONTOURS.value),
            contour_origin=cast(Origin | None, _CONTOUR_ORIGIN.value),
            split=_SPLIT.value,
            image_size=_parse_image_size(_IMAGE_SIZE.value) if _IMAGE_SIZE.value is not None else None,
            pixel_spacing_mm=_PIXEL_SPACING_MM.value,
            exclude=urls.local(_EXCLUDE.value, "--exclude") if _EXCLUDE.value else None,
            num_shards=_NUM_SHARDS.value,
            max_image_pixels=_MAX_IMAGE_PIXELS.value,
            strict=_STRICT.value,
            overwrite=_OVERWRITE.value,
            workers=len(os.sched_getaffinity(0)) if _WORKERS.value is None else _WORKERS.value,
            file_timeout_s=_FILE_TIMEOUT_S.value,
            engine=cast(EngineName, _ENGINE.value),
            beam_args=_BEAM_ARGS.value,
            scheduler=_SCHEDULER.value,
        )
    except ValueError as error:
        print(f"preprocess: {error}", file=sys.stderr)
        return 2
    # Imported late, because a wrong flag should be reported at once.
    from preprocess.run import run

    try:
        summary = run(config)
    except FatalInputError as error:
        print(f"preprocess: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(interrupts.MESSAGE, file=sys.stderr)
        return 1
    finally:
        interrupts.ignore()
    terminal.announce(*_closing(summary, config.output_dir))
    return 0


def _required(flag: flags.FlagHolder[_Value | None], what: str) -> _Value:
    """The value of a flag; raises ValueError where the flag is missing."""
    if flag.value is None:
        raise ValueError(f"--{flag.name} is missing: pass {what}")
    return flag.value


def _parse_image_size(text: str) -> tuple[int, int]:
    """Rows and columns from ``256x320``, or ``256`` for a square.

    Raises:
        ValueError: the text is neither.
    """
    match = re.fullmatch(r"([0-9]+)(?:x([0-9]+))?", text)
    if not match:
        raise ValueError(f"image_size is {text!r}, ROWSxCOLUMNS or one number expected, such as 256x256 or 256")
    return int(match[1]), int(match[2] or match[1])


def _closing(summary: Summary, output_dir: Place) -> list[str]:
    """The summary that the command prints at its end."""

    def each(counts: Mapping[str, int]) -> str:
        return ", ".join(f"{count} {name}" for name, count in counts.items())

    lines = [f"{counted(sum(summary.records.values()), 'pair')} written to {output_dir} ({each(summary.records)})"]
    if summary.excluded:
        lines.append(f"{summary.excluded} excluded by --exclude")
    if summary.left_out:
        lines.append(f"{counted(sum(summary.left_out.values()), 'input')} left out: {each(summary.left_out)}")
    if summary.harmless:
        errors = counted(sum(summary.harmless.values()), "error")
        lines.append(f"{errors} that cost no record: {each(summary.harmless)}")
    if summary.warnings:
        lines.append(f"{counted(sum(summary.warnings.values()), 'warning')}: {each(summary.warnings)}")
    return [*lines, f"audit: {output_dir / summary.audit}"]


def _parse_flags(argv: list[str]) -> list[str]:
    """Parses the flags. Exits with 0 after --help and --version, with 2 for a bad flag; absl exits with 1."""
    if "--version" in argv:
        terminal.announce(f"cardiac-lv-records {__version__}")
        sys.exit(0)
    shown = io.StringIO()
    try:
        with contextlib.redirect_stdout(shown):
            rest = flags.FLAGS(["--help" if argument == "-h" else argument for argument in argv])
        if len(rest) > 1:
            raise flags.Error(f"unexpected argument {rest[1]!r}")
    except flags.Error as error:
        print(f"preprocess: {error}\nSee python -m preprocess --help.", file=sys.stderr)
        sys.exit(2)
    except SystemExit:
        # Without the path of this file and the flag for absl's own flags.
        text = re.sub(r"^/.*:\n", "", shown.getvalue(), flags=re.MULTILINE)
        terminal.announce(text.partition("\nTry --helpfull")[0].rstrip("\n"))
        sys.exit(0)
    return rest


if __name__ == "__main__":
    app.run(main, flags_parser=_parse_flags)
