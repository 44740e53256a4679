"""Polygons in pixel coordinates: their areas, their masks, and the grid that they lie on.

(0, 0) is the outer corner of the top-left pixel: pixel (r, c) is the square [c, c+1] × [r, r+1].
"""

import numpy as np
import numpy.typing as npt

Polygon = npt.NDArray[np.float64]
"""Vertices, float64 ``(N, 2)``, columns x (image column) and y (image row), in pixels; the last joins the first."""
