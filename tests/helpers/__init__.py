"""What several test modules use.

A worker process that unpickles a function of a test imports the test's module, and what that imports. Therefore the
functions here import what takes long to import (TensorFlow, by preprocess.run and preprocess.output.writer) themselves;
``records`` is the exception, and only modules that read records with TensorFlow import it.
"""

import pathlib

ROOT = pathlib.Path(__file__).parent.parent.parent

PATIENCE_SECONDS = 600
"""How long a test waits for another process before it fails: on a busy machine, longer than anything here takes."""
