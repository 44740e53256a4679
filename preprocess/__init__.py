"""Turns MRI studies (DICOM) and left-ventricle contours (text) into TFRecords: ``python -m preprocess --help``."""

from importlib.util import find_spec

# The module google is a namespace, which other packages share.
_missing = [
    name
    for name in ("absl", "cv2", "google.protobuf", "pydicom", "shapely", "tqdm")
    if find_spec(name.partition(".")[0]) is None or find_spec(name) is None
]
if _missing:
    # With a name, python -m prints one line and not a traceback.
    raise ModuleNotFoundError(
        f"preprocess needs {', '.join(_missing)}: pip install '.[preprocess]' in the project's folder, "
        "'.[preprocess,report]' for the report too",
        name=__name__,
    )
