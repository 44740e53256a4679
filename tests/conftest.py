from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import pathlib
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pytest

from preprocess import phantom
from preprocess.config import Config
from preprocess.geometry.grid import Grid
from preprocess.model import Fingerprint, ImageHeader, Pair
from preprocess.output import publication

# A worker process that unpickles a function of a test imports this module. What takes long to import (TensorFlow, by
# preprocess.run and preprocess.output.writer; hypothesis) is imported by the functions that use it.

ROOT = pathlib.Path(__file__).parent.parent

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

UNREAD = Fingerprint(b"", b"")

GRID = Grid.of((6, 5), (1.5, 1.25), None, None, 1 << 24)

PATIENCE_SECONDS = 600
"""How long a test waits for another process before it fails: on a busy machine, longer than anything here takes."""


def pytest_configure() -> None:
    import hypothesis

    # How long an example takes to draw or to run depends on what else the machine does.
    hypothesis.settings.register_profile(
        "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("any machine")


@contextlib.contextmanager
def shared(factory: pytest.TempPathFactory, name: str) -> Iterator[pathlib.Path]:
    """Gives a path of this test run; the first of pytest-xdist's workers that comes makes it, the others wait."""
    base = factory.getbasetemp()
    # The directory of a worker is inside the one of the test run.
    path = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield path


@pytest.fixture(scope="session")
def phantom_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    with shared(tmp_path_factory, "phantom") as path:
        if not path.exists():
            phantom.write_phantom(path)
    return path


@pytest.fixture(scope="session")
def phantom_records(phantom_dir: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    from preprocess.run import run

    with shared(tmp_path_factory, "phantom-records") as path:
        if not path.exists():
            run(Config(data_dir=phantom_dir, output_dir=path, split="val=PHANTOM002", num_shards=3))
    return path


@pytest.fixture
def tree(phantom_dir: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """Two studies of the phantom, flawless: their labeled images, one that is not, and their contours."""
    root = tmp_path / "tree"
    for study, contours in (("PHANTOM001", "PH-1"), ("PHANTOM002", "PH-2")):
        for kind in ("i-contours", "o-contours"):
            (root / "contourfiles" / contours / kind).mkdir(parents=True)
        (root / "dicoms" / study).mkdir(parents=True)
        for number in (1, 9, 10, 21, 29):
            shutil.copy(phantom_dir / "dicoms" / study / f"{number}.dcm", root / "dicoms" / study)
            for kind in "io":
                name = phantom.contour_name(number, kind)
                source = phantom_dir / "contourfiles" / contours / f"{kind}-contours" / name
                if source.exists():
                    shutil.copy(source, root / "contourfiles" / contours / f"{kind}-contours")
    (root / "link.csv").write_text("patient_id,original_id\nPHANTOM001,PH-1\nPHANTOM002,PH-2\n")
    return root


@pytest.fixture(scope="session")
def real_data() -> pathlib.Path:
    path = pathlib.Path(os.environ.get("CARDIAC_DATA", ROOT.parent / "shared/data/final_data"))
    if not path.exists():
        pytest.skip(f"the real data set is not there ({path}); CARDIAC_DATA names another place")
    return path


@pytest.fixture(scope="session")
def real_records(real_data: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    from preprocess.run import run

    with shared(tmp_path_factory, "real-records") as path:
        if not path.exists():
            run(Config(data_dir=real_data, output_dir=path))
    return path


Synthetic = Callable[..., pathlib.Path]


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    """Makes records of small random images; equal arguments share one directory."""
    made: dict[tuple[object, ...], pathlib.Path] = {}

    def make(count: int, shape: tuple[int, int] = (6, 5), dtype: str = "int16", num_shards: int = 3) -> pathlib.Path:
        key = (count, shape, dtype, num_shards)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("synthetic") / "records"
            write_synthetic(made[key], *synthetic_arrays(count, shape, dtype), num_shards=num_shards)
        return made[key]

    return make


def synthetic_arrays(
    count: int, shape: tuple[int, int] = (6, 5), dtype: str = "int16"
) -> tuple[np.ndarray, np.ndarray]:
    """Images and masks ``(count, H, W)`` that the synthetic records hold, in storage order."""
    rng = np.random.default_rng(count)
    if dtype == "float32":
        images = rng.normal(0, 100, (count, *shape)).astype(np.float32)
    else:
        limits = np.iinfo(dtype)
        images = rng.integers(limits.min, limits.max, (count, *shape), dtype=dtype, endpoint=True)
    images[:, 0, 0] = np.arange(count)
    return images, rng.random((count, *shape)) < 0.3


def write_synthetic(
    path: pathlib.Path, images: np.ndarray, masks: np.ndarray, *, num_shards: int = 3, overwrite: bool = False
) -> None:
    from preprocess.output.writer import RecordsWriter

    with publication.claimed(path, overwrite) as partial:
        (partial / "records").mkdir()
        shape = images.shape[1:]
        with RecordsWriter(partial / "records", shape, images.dtype, {"train": len(images)}, num_shards) as writer:
            for number, (image, mask) in enumerate(zip(images, masks, strict=True)):
                writer.write("train", synthetic_pair(number), image, mask)
            writer.complete({"train": ["A"]}, {}, {"audit.csv": b""})
        publication.publish(partial / "records", path, overwrite)


def synthetic_pair(number: int, **header: object) -> Pair:
    fields = {"instance_number": number, **header}
    return Pair(
        study_id="A",
        contour_id="B",
        kind="i",
        instance_number=number,
        image_path="image",
        contour_path="contour",
        header=header_of(**fields),
        polygon=np.zeros((3, 2)),
        slice_index=1,
        phase_index=2,
        fingerprint=UNREAD,
        grid=GRID,
    )


def header_of(**fields: object) -> ImageHeader:
    plain = ImageHeader(None, None, (6, 5), (0, 1), (1.5, 1.25), AXIAL, (0, 0, 3.5), 0.0)
    return dataclasses.replace(plain, **fields)


def contents(directory: pathlib.Path) -> Mapping[str, bytes]:
    """Every file below a directory, by relative path."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def zipped(tree: pathlib.Path, path: pathlib.Path, *more: tuple[zipfile.ZipInfo | str, bytes]) -> pathlib.Path:
    """A tree as an archive, with more entries behind."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents(tree).items():
            archive.writestr(name, content)
        for entry, content in more:
            archive.writestr(entry, content)
    return path


def listing(order: Callable[[list[os.DirEntry[str]]], None]) -> Callable[..., object]:
    """``os.scandir``, with the entries put in another order."""
    scandir = os.scandir

    @contextlib.contextmanager
    def ordered(*arguments: object) -> Iterator[list[os.DirEntry[str]]]:
        with scandir(*arguments) as found:
            entries = list(found)
        order(entries)
        yield entries

    return ordered
