from __future__ import annotations

import os
import pathlib
import shutil

import pytest

from preprocess import phantom
from preprocess.config import Config

from .helpers import ROOT
from .helpers.shared import shared
from .helpers.synthetic import Synthetic, synthetic_arrays, write_synthetic

# TensorFlow, by preprocess.run, and hypothesis take long to import: the functions that use them import them.


def pytest_configure() -> None:
    import hypothesis

    # The time that an example takes depends on what else the machine does.
    hypothesis.settings.register_profile(
        "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("any machine")


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


@pytest.fixture(scope="session")
def phantom_label_maps(phantom_dir: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    from preprocess.run import run

    with shared(tmp_path_factory, "phantom-label-maps") as path:
        if not path.exists():
            run(Config(phantom_dir, path, contours="io", split="val=PHANTOM002", num_shards=3))
    return path


@pytest.fixture
def tree(phantom_dir: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """Two flawless studies of the phantom: their labeled images, an unlabeled one, and their contours."""
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
