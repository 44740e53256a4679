"""The audit as pages to look at: ``python -m preprocess.report --help``."""

from importlib.util import find_spec

_missing = [name for name in ("jinja2", "matplotlib") if find_spec(name) is None]
if _missing:
    # With a name, python -m prints one line and not a traceback.
    raise ModuleNotFoundError(
        f"preprocess.report needs {', '.join(_missing)}: pip install '.[preprocess,report]' in the project's folder",
        name=__name__,
    )
