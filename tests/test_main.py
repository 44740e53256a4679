"""The program, run from a shell."""

import os
import pathlib
import pty
import re
import shlex
import subprocess
import sys
import termios

import pytest
from absl import flags

import pipeline
from pipeline import verify
from preprocess.__main__ import _closing
from preprocess.run import Summary

from .helpers import ROOT
from .helpers.commands import preprocess
from .helpers.trees import contents


def test_the_last_lines_of_a_run_count_what_was_written(phantom_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    output = tmp_path / "records"
    result = preprocess(f"--data_dir={phantom_dir}", f"--output_dir={output}", "--split=val=PHANTOM003")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        f"36 pairs written to {output} (24 train, 12 val)",
        "2 inputs left out: 1 no_image, 1 missing_study",
        "1 warning: 1 implausible_contour",
        f"audit: {output}/audit.csv",
    ]
    # Without a terminal, the log reports the progress.
    assert "PHANTOM002: 120 images, 12 pairs" in result.stderr

    before = contents(output)
    again = preprocess(f"--data_dir={phantom_dir}", f"--output_dir={output}")
    assert (again.returncode, again.stdout) == (1, "")
    assert f"preprocess: {output}: exists already" in again.stderr
    assert contents(output) == before


@pytest.mark.parametrize("stdout", ["> /dev/full", "| true", ">&-"])
def test_records_are_published_although_nobody_can_read_the_output(
    tree: pathlib.Path, tmp_path: pathlib.Path, stdout: str
) -> None:
    arguments = [sys.executable, "-m", "preprocess", f"--data_dir={tree}", f"--output_dir={tmp_path / 'records'}"]
    shell = f"set -o pipefail; {shlex.join(arguments)} {stdout}"
    result = subprocess.run(["bash", "-c", shell], stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert not re.search("Traceback|Exception", result.stderr)
    assert list(verify.faults(tmp_path / "records")) == []


def test_records_are_published_in_a_folder_whose_name_is_not_utf_8(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    output = tmp_path / os.fsdecode(b"\xff")
    result = subprocess.run(
        [sys.executable, "-m", "preprocess", f"--data_dir={tree}", f"--output_dir={output}"],
        capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert f"8 pairs written to {tmp_path}/\\udcff (8 train)" in result.stdout
    assert list(verify.faults(output)) == []


def test_a_terminal_shows_a_progress_bar(phantom_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-m", "preprocess", f"--data_dir={phantom_dir}", f"--output_dir={tmp_path / 'records'}"]
    main, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    process = subprocess.Popen(command, cwd=ROOT, stdout=terminal, stderr=terminal, stdin=terminal)
    os.close(terminal)
    shown = b""
    try:
        while chunk := os.read(main, 4096):
            shown += chunk
    except OSError:
        pass  # The terminal closes when the process ends.
    os.close(main)
    assert process.wait() == 0
    assert re.search(rb"headers: +\d+%\|.*/360 ", shown)
    assert b"audit: " in shown.splitlines()[-1]


def test_help_explains_every_flag() -> None:
    result = preprocess("--help")
    assert result.returncode == 0
    defined = [flag.name for flag in flags.FLAGS.flags_by_module_dict()["preprocess.__main__"]]
    assert {"data_dir", "output_dir", "workers", "engine", "beam_args", "version"} <= set(defined)
    for name in defined:
        assert re.search(rf"--(\[no\])?{name}: \S", result.stdout), name
    assert "python -m preprocess --data_dir=final_data --output_dir=records" in result.stdout


@pytest.mark.parametrize("flag", ["--help", "--helpfull", "--version"])
def test_a_text_that_nobody_reads_to_its_end_ends_quietly(flag: str) -> None:
    shell = f"set -o pipefail; {shlex.join([sys.executable, '-m', 'preprocess', flag])} | true"
    result = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "preprocess: --data_dir is missing: pass a folder or a zip archive of studies"),
        (["--data_dir=x"], "preprocess: --output_dir is missing: pass the records directory to create"),
        (["--data_dir=x", "--output_dir=y", "--worker=3"], "Unknown command line flag 'worker'"),
        (["--data_dir=x", "--output_dir=y", "stray"], "unexpected argument 'stray'"),
        (["--data_dir=x", "--output_dir=y", "--contours=e"], "value should be one of <i|o|io>"),
        (["--data_dir=x", "--output_dir=y", "--num_shards=0"], "num_shards is 0, 1 to 99999 expected"),
        (["--data_dir=x", "--output_dir=y", "--file_timeout_s=0"], "file_timeout_s is 0, 0.001 to 1000000 expected"),
        (["--data_dir=x", "--output_dir=y", "--file_timeout_s=nan"], "file_timeout_s is nan, 0.001 to"),
        (["--data_dir=x", "--output_dir=y", "--engine=dask"], "needs the address of a scheduler: pass --scheduler="),
        (
            ["--data_dir=x", "--output_dir=y", "--image_size=9x"],
            "image_size is '9x', ROWSxCOLUMNS or one number expected",
        ),
        (["--data_dir=x", "--output_dir=y", "--split=a:0.5"], "fractions above 0 that add up to 1 expected"),
    ],
)
def test_bad_flags_exit_with_2(arguments: list[str], message: str) -> None:
    result = preprocess(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("module", ["preprocess", "pipeline.verify", "preprocess.report", "preprocess.phantom"])
def test_every_command_has_a_version(module: str) -> None:
    result = preprocess("--version", module=module)
    assert (result.returncode, result.stdout) == (0, f"cardiac-lv-records {pipeline.__version__}\n"), result.stderr


@pytest.mark.parametrize(
    ("missing", "module", "message"),
    [
        ("absl", "preprocess", "preprocess needs absl: pip install '.[preprocess]' in the project's folder"),
        ("jinja2", "preprocess.report", "preprocess.report needs jinja2: pip install '.[preprocess,report]'"),
        (
            "matplotlib",
            "preprocess.report",
            "preprocess.report needs matplotlib: pip install '.[preprocess,report]'",
        ),
    ],
)
def test_without_an_extra_an_error_says_what_to_install(missing: str, module: str, message: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; import {module}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert message in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_the_flags_of_the_job_alone(flag: str) -> None:
    result = preprocess(flag)
    assert (result.returncode, result.stderr) == (0, "")
    assert "\nflags:\n\n  --beam_args: " in result.stdout
    assert result.stdout.rstrip().endswith("(an integer)")
    assert "__main__" not in result.stdout


def test_a_count_of_one_is_singular() -> None:
    summary = Summary({"train": 1}, {"no_image": 1}, {"duplicate_contour": 1}, {"not_nested": 1}, 1, "audit.csv")
    assert _closing(summary, pathlib.Path("records")) == [
        "1 pair written to records (1 train)",
        "1 excluded by --exclude",
        "1 input left out: 1 no_image",
        "1 error that cost no record: 1 duplicate_contour",
        "1 warning: 1 not_nested",
        "audit: records/audit.csv",
    ]


def test_a_job_that_cannot_be_done_exits_with_1(tmp_path: pathlib.Path) -> None:
    result = preprocess(f"--data_dir={tmp_path / 'nowhere'}", f"--output_dir={tmp_path / 'records'}")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.splitlines()[-1] == (
        f"preprocess: {tmp_path / 'nowhere'}: no such folder or zip archive; "
        "pass one as --data_dir (make records DATA=…)"
    )
    assert list(tmp_path.iterdir()) == []


def test_the_phantom_command_refuses_a_bad_output(tmp_path: pathlib.Path) -> None:
    result = preprocess(module="preprocess.phantom")
    assert result.returncode == 2
    assert "the following arguments are required: --output_dir" in result.stderr
    (tmp_path / "dicoms" / "PHANTOM001").mkdir(parents=True)
    result = preprocess(f"--output_dir={tmp_path}", module="preprocess.phantom")
    assert result.returncode == 1
    assert result.stderr == f"preprocess.phantom: {tmp_path}: already contains dicoms; choose another --output_dir\n"
    result = preprocess("--output_dir=/dev/null/new", module="preprocess.phantom")
    assert result.stderr == "preprocess.phantom: /dev/null/new: cannot be written: Not a directory\n"
