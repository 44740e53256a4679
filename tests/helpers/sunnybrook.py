"""The distributions of the Sunnybrook Cardiac Data, made from a data set in the challenge's layout."""

import pathlib
import re
import shutil

# By hand, from the table in the design: not from the code under test.
ORIGINALS = {"SCD0000101": "SC-HF-I-1", "SCD0000201": "SC-HF-I-2", "SCD0000301": "SC-HF-I-4", "SCD0000401": "SC-HF-I-5"}


def padded(original: str) -> str:
    """The name with two digits at its end, as folders of contours have it."""
    return re.sub(r"-(\d)$", r"-0\1", original)


def image_path(distribution: int, study_id: str, original: str, number: int) -> str:
    """The path of an image in one of the three distributions."""
    index = int(study_id[3:8])
    match distribution:
        case 1:
            return f"SCD_IMAGES_{index // 10 + 1:02d}/{study_id}/CINESAX_{299 + index}/IM-0003-{number:04d}.dcm"
        case 2:
            return f"Sunnybrook DICOMPart3/TrainingDataDICOM/{padded(original)}/DICOM/IM-0001-{number:04d}.dcm"
        case _:
            return f"challenge_training/{original}/IM-{index:04d}-{number:04d}.dcm"


def contour_path(original: str, number: int, kind: str, rest: str = "contour-manual.txt") -> str:
    folder = f"SCD_ManualContours/{padded(original)}/contours-manual/IRCCI-expert"
    return f"{folder}/IM-0001-{number:04d}-{kind}{rest}"


def lay_out(
    challenge: pathlib.Path, output: pathlib.Path, distribution: int, originals: dict[str, str] = ORIGINALS
) -> pathlib.Path:
    """Copies images and contours to where a distribution has them.

    Args:
        challenge: ``dicoms`` and ``contourfiles``, whose folders have the names of ``originals``.
        output: folder to create.
        distribution: 1, 2 or 3.
        originals: original name of each study, by id.
    """
    for study_id, original in originals.items():
        for path in (challenge / "dicoms" / study_id).glob("*.dcm"):
            copy(path, output / image_path(distribution, study_id, original, int(path.stem)))
        for kind in "io":
            for path in (challenge / "contourfiles" / original / f"{kind}-contours").glob("*.txt"):
                copy(path, output / contour_path(original, int(path.name[8:12]), kind))
    return output


def copy(source: pathlib.Path, target: pathlib.Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
