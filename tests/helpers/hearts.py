"""Hearts of any number of slices and phases, from formulas: contours as a reader draws them, and their images."""

import dataclasses

import numpy as np

from preprocess.model import ContourKind, Pair

from .synthetic import header_of, synthetic_pair

SIZE = 160
"""Rows and columns."""

_WALL = 8.0


@dataclasses.dataclass(frozen=True)
class Heart:
    """A half ellipsoid that contracts, drifts from slice to slice, and is elliptic in each slice; lengths in pixels."""

    slices: int
    phases: int
    seed: int = 0

    def pair(self, slice_index: int, phase_index: int, kind: ContourKind = "i") -> Pair:
        """A contour with the reader's error, on an image that the pair only names."""
        number = slice_index * self.phases + phase_index + 1
        return dataclasses.replace(
            synthetic_pair(number),
            kind=kind,
            header=header_of(instance_number=number, shape=(SIZE, SIZE), pixel_spacing_mm=(1.4, 1.4)),
            image_path=f"{number}.dcm",
            contour_path=f"{kind}-contours/{number}.txt",
            polygon=self.contour(slice_index, phase_index, kind),
            slice_index=slice_index,
            phase_index=phase_index,
        )

    def contour(self, slice_index: int, phase_index: int, kind: ContourKind = "i") -> np.ndarray:
        """Float64 ``(60, 2)``, columns x and y."""
        rng = np.random.default_rng([self.seed, slice_index, phase_index, kind == "o"])
        angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
        # A hand is wrong by the same amount along a part of the outline: by half a pixel in position and in size.
        radius = self._radius(slice_index, phase_index, angles, kind) + rng.normal(0, 0.4)
        wave = rng.normal(0, 0.3, 2) @ [np.cos(2 * angles), np.sin(2 * angles)]
        points = (radius + wave)[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        return np.asarray(self._center(slice_index) + points + rng.normal(0, 0.5, 2))

    def image(self, slice_index: int, phase_index: int) -> np.ndarray:
        """Int16 ``(SIZE, SIZE)``: bright blood, dark muscle, gray around, and noise."""
        rng = np.random.default_rng([self.seed, slice_index, phase_index, 2])
        y, x = np.mgrid[:SIZE, :SIZE] + 0.5
        dx, dy = x - self._center(slice_index)[0], y - self._center(slice_index)[1]
        distance, angles = np.hypot(dx, dy), np.arctan2(dy, dx)
        values = np.full((SIZE, SIZE), 180.0)
        values[distance < self._radius(slice_index, phase_index, angles, "o")] = 80
        values[distance < self._radius(slice_index, phase_index, angles, "i")] = 400
        return np.asarray(np.rint(values + rng.normal(0, 15, values.shape)), np.int16)

    def _center(self, slice_index: int) -> np.ndarray:
        angle = np.random.default_rng(self.seed).uniform(0, 2 * np.pi)
        along = slice_index / self.slices
        return np.array([84.0, 76.0]) + 6 * along * np.array([np.cos(angle), np.sin(angle)])

    def _radius(self, slice_index: int, phase_index: int, angles: np.ndarray, kind: ContourKind) -> np.ndarray:
        taper = np.sqrt(1 - (slice_index / (self.slices + 1)) ** 2)
        # Contraction takes a third of the cycle.
        phase = phase_index / self.phases
        beat = np.sin(np.pi / 2 * min(3 * phase, 1.5 * (1 - phase))) ** 2
        # The outer wall moves less than the inner one.
        outer = (24 * taper + _WALL) * (1 - 0.05 * beat)
        inner = 24 * taper * (1 - 0.3 * beat)
        return np.asarray((outer if kind == "o" else inner) * (1 + 0.06 * np.cos(2 * (angles - 1))))
