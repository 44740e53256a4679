"""Write the audit as pages to look at: an index with all findings, and a page for each study.

python -m preprocess.report --data_dir=final_data --records_dir=records --output_dir=report
"""

from __future__ import annotations

import argparse
import pathlib
import sys

from pipeline import RecordsError, __version__
from preprocess import terminal, urls
from preprocess.findings import FatalInputError, InputError
from preprocess.inputs import sources
from preprocess.report.page import write_report


def main() -> int:
    """Writes the report; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m preprocess.report", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--data_dir",
        required=True,
        action="append",
        help="folder or .zip (path or URL) the records were made from; several times if it was several times then",
    )
    parser.add_argument("--records_dir", required=True, help="records directory, or its URL")
    parser.add_argument(
        "--output_dir", default="report", type=pathlib.Path, help="folder to write index.html and studies/ to (report)"
    )
    parser.add_argument("--version", action="version", version=f"cardiac-lv-records {__version__}")
    arguments = parser.parse_args()
    try:
        path = write_report(
            sources.data_dir(arguments.data_dir),
            urls.place(arguments.records_dir, "--records_dir"),
            arguments.output_dir,
        )
    except (FatalInputError, InputError, RecordsError) as error:
        print(f"preprocess.report: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("preprocess.report: interrupted; nothing was published", file=sys.stderr)
        return 1
    terminal.announce(f"report: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
