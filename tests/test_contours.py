import io
import pathlib

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from preprocess.findings import InputError
from preprocess.inputs.contours import MAX_POINTS, read_contour


def read(text: str | bytes) -> np.ndarray:
    return read_contour(io.BytesIO(text if isinstance(text, bytes) else text.encode()))


@pytest.mark.parametrize(
    "text",
    [
        "1.5 2\n3 4.25\n5 0\n",
        "1.5 2\r\n3 4.25\r\n5 0",
        "1.5 2\r3 4.25\r5 0\r",
        "\n\n1.5 2\n   \n3 4.25\n5 0\n\n",
        "1.5,2\n3, 4.25\n5 ,0\n",
        "\t1.5\t2 \n  3   4.25\n5 0",
        "\ufeff1.5 2\n3 4.25\n5 0",
        "15e-1 +2.\n.3E1 4.25\n5 -0\n",
    ],
)
def test_every_way_to_write_points_gives_the_same_contour(text: str) -> None:
    assert read(text).tolist() == [[1.5, 2], [3, 4.25], [5, 0]]


finite = st.floats(allow_nan=False, allow_infinity=False, width=64)


@hypothesis.given(
    st.lists(st.tuples(finite, finite), min_size=3, max_size=30), st.sampled_from([" ", ",", "\t", " , "])
)
def test_points_that_are_written_are_read_back(points: list[tuple[float, float]], separator: str) -> None:
    text = "".join(f"{x!r}{separator}{y!r}\n" for x, y in points)
    try:
        assert read(text).tolist() == [list(point) for point in points]
    except InputError as error:
        assert error.reason in ("degenerate_contour", "outside_image")


@hypothesis.given(st.binary(max_size=200))
def test_any_bytes_give_points_or_an_input_error(data: bytes) -> None:
    try:
        polygon = read(data)
    except InputError:
        return
    assert polygon.shape[1] == 2
    assert np.isfinite(polygon).all()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("1 2\n3\n5 6\n", 2),
        ("1 2\n\n3 4 5\n", 3),
        ("1 2\r\nx y\r\n", 2),
        ("1;2\n", 1),
        ("1,,2\n", 1),
        ("1_0 2\n", 1),
        ("1 2,\n", 1),
        ("0x1 2\n", 1),
        ("٣ 4\n", 1),
        (b"1 2\n\x00\xff 3\n", 2),
    ],
)
def test_a_bad_line_is_named(text: str | bytes, line: int) -> None:
    with pytest.raises(
        InputError, match=rf"^line {line} is not two numbers, x and y; copy or export the file again$"
    ) as raised:
        read(text)
    assert raised.value.reason == "unreadable_contour"


@pytest.mark.parametrize(
    ("text", "reason", "message"),
    [
        ("1 2\nnan 3\n4 5\n", "nonfinite_contour", "point 2 is not finite"),
        ("1 2\n3 4\n4 -inf\n", "nonfinite_contour", "point 3 is not finite"),
        ("1 2\n3 4\n4 1e999\n", "nonfinite_contour", "point 3 is not finite"),
        ("", "degenerate_contour", "0 distinct points, at least 3 expected"),
        ("1 2\n3 4\n1 2\n3 4\n", "degenerate_contour", "2 distinct points, at least 3 expected"),
        ("1 1\n2 2\n3.5 3.5\n1 1\n", "degenerate_contour", "all points lie on one line"),
        ("1 2\n" * (MAX_POINTS + 1), "oversized_contour", "100001 points, at most 100000 expected"),
        (" " * 7_000_000, "oversized_contour", "over 6400000 bytes"),
    ],
)
def test_points_that_make_no_contour_are_refused(text: str, reason: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        read(text)
    assert raised.value.reason == reason


@pytest.mark.parametrize("number", ["%.2f", "%.18e"])
def test_a_file_cut_anywhere_loses_whole_points_or_is_refused(phantom_dir: pathlib.Path, number: str) -> None:
    points = np.loadtxt(next(phantom_dir.rglob("*-icontour-manual.txt")))[:20]
    text = io.BytesIO()
    np.savetxt(text, points, number)
    refused = 0
    for length in range(len(text.getvalue())):
        try:
            polygon = read(text.getvalue()[:length])
        except InputError as error:
            refused += "is cut off" in error.detail
            continue
        assert np.array_equal(polygon, points[: len(polygon)]), length
    assert refused > 20


@pytest.mark.parametrize(
    "text",
    [
        "1.5 2.25\n3.5 4.25\n5.5 0.2",
        "1.50 2.25\n3.50 4.25\n5.50 0.2\n",
        "1 2\n3 4\n5 0",
        "1.50 2.25\n3.50 4.25\n5.50 0.25",
    ],
)
def test_a_last_line_without_an_end_is_read_where_it_may_be_whole(text: str) -> None:
    assert len(read(text)) == 3


def test_real_contours_are_what_numpy_reads(real_data: pathlib.Path) -> None:
    paths = sorted(real_data.rglob("IM-*contour-manual.txt"))
    assert len(paths) == 111
    for path in paths:
        with path.open("rb") as file:
            assert np.array_equal(read_contour(file), np.loadtxt(path))
