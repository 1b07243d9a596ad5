"""Drawing one solid: silhouettes supersampled four times by pillow, shading from closed formulas by numpy.

Every shape is a list of faces in unit coordinates: x right, y down, centred on 0, about 1 across
(:func:`extent` gives the exact box). A face is an outline and its shading: a constant, or a function of the
position. Later faces cover earlier ones. The light comes from the upper left.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from glide_fast.data.vocabulary import RGB, SHAPES
from glide_fast.errors import invalid

SUPERSAMPLING = 4

FloatArray = NDArray[np.float32]
Shading = Callable[[FloatArray, FloatArray], tuple[FloatArray, FloatArray]]
Point = tuple[float, float]

# Kept well above black and near 1: a darker orange is brown, a paler red is pink.
_TOP, _LIT, _SHADED = 1.12, 0.98, 0.74


@dataclass(frozen=True)
class Face:
    """A filled outline; ``shade`` is a factor on the colour, or gives (factor, added white) at each point."""

    outline: tuple[Point, ...]
    shade: float | Shading


def _ellipse(
    cx: float, cy: float, rx: float, ry: float, start: float = 0.0, stop: float = 360.0
) -> list[Point]:
    steps = max(8, int(abs(stop - start) / 5))
    angles = [math.radians(start + (stop - start) * i / steps) for i in range(steps + 1)]
    return [(cx + rx * math.cos(a), cy + ry * math.sin(a)) for a in angles]


def _sphere_shade(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    nx, ny = x / 0.5, y / 0.5
    nz = np.sqrt(np.maximum(0.0, 1.0 - nx * nx - ny * ny))
    lambert = np.maximum(0.0, -0.45 * nx - 0.55 * ny + 0.70 * nz)
    highlight = np.exp(-((x + 0.16) ** 2 + (y + 0.20) ** 2) / (2 * 0.055**2))
    return np.float32(0.64) + np.float32(0.46) * lambert, np.float32(0.55) * highlight


def _tube_shade(radius: float) -> Shading:
    def shade(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        across = np.clip(x / radius, -1.0, 1.0)
        lambert = np.maximum(0.0, -0.62 * across + 0.78 * np.sqrt(1.0 - across * across))
        return 0.62 + 0.43 * lambert, np.zeros_like(x)

    return shade


def _cone_shade(apex: float, base: float, radius: float) -> Shading:
    def shade(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        width = np.maximum(radius * (y - apex) / (base - apex), 1e-3)
        across = np.clip(x / width, -1.0, 1.0)
        lambert = np.maximum(0.0, -0.62 * across + 0.78 * np.sqrt(1.0 - across * across))
        return 0.62 + 0.43 * lambert, np.zeros_like(x)

    return shade


def _cube(turn: float) -> list[Face]:
    """A cube seen from above by 28 degrees, turned about its upright axis so that two side faces show."""
    yaw, pitch = math.radians(38.0 + 14.0 * turn), math.radians(28.0)
    side = 0.60

    def project(x: float, y: float, z: float) -> Point:
        depth = x * math.sin(yaw) + z * math.cos(yaw)
        return side * (x * math.cos(yaw) - z * math.sin(yaw)), side * (
            -y * math.cos(pitch) + depth * math.sin(pitch)
        )

    h = 0.5
    top = [project(-h, h, -h), project(h, h, -h), project(h, h, h), project(-h, h, h)]
    left = [project(-h, h, h), project(h, h, h), project(h, -h, h), project(-h, -h, h)]
    right = [project(h, h, h), project(h, h, -h), project(h, -h, -h), project(h, -h, h)]
    return [Face(tuple(right), _SHADED), Face(tuple(left), _LIT), Face(tuple(top), _TOP)]


def _pyramid(turn: float) -> list[Face]:
    """A square pyramid whose front edge divides a lit face from a shaded one."""
    edge = 0.06 + 0.08 * turn
    apex, left, right, front = (0.0, -0.46), (-0.5, 0.24), (0.5, 0.22), (edge, 0.46)
    return [Face((apex, front, right), _SHADED - 0.02), Face((apex, left, front), _LIT + 0.06)]


def _cylinder(turn: float) -> list[Face]:
    radius, half, lid = 0.32, 0.37, 0.12
    body = _ellipse(0, -half, radius, lid, 180, 0) + _ellipse(0, half, radius, lid, 0, 180)
    return [Face(tuple(body), _tube_shade(radius)), Face(tuple(_ellipse(0, -half, radius, lid)), _TOP + 0.06)]


def _cone(turn: float) -> list[Face]:
    radius, apex, base = 0.42, -0.5, 0.38
    outline = [(0.0, apex), *_ellipse(0, base, radius, 0.12, 0, 180)]
    return [Face(tuple(outline), _cone_shade(apex, base, radius))]


def _star(turn: float) -> list[Face]:
    tilt = math.radians(-90.0 + 8.0 * turn)
    points = []
    for i in range(10):
        radius = 0.53 if i % 2 == 0 else 0.225
        angle = tilt + i * math.pi / 5
        points.append((radius * math.cos(angle), 0.03 + radius * math.sin(angle)))
    return [Face(tuple(points), 1.0)]


def _heart(turn: float) -> list[Face]:
    points = []
    for i in range(72):
        t = 2 * math.pi * i / 72
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((x / 32.5, -(y + 2.5) / 32.5))
    return [Face(tuple(points), 1.0)]


def _triangle(turn: float) -> list[Face]:
    return [Face(((0.0, -0.45), (0.5, 0.42), (-0.5, 0.42)), 1.0)]


def _ring(turn: float) -> list[Face]:
    # One outline out and back along the same radius, so that the hole is outside it.
    return [Face(tuple(_ellipse(0, 0, 0.5, 0.5) + _ellipse(0, 0, 0.27, 0.27, 360, 0)), 1.0)]


def _sphere(turn: float) -> list[Face]:
    return [Face(tuple(_ellipse(0, 0, 0.5, 0.5)), _sphere_shade)]


_MODELS: dict[str, Callable[[float], list[Face]]] = {
    "cube": _cube,
    "sphere": _sphere,
    "cylinder": _cylinder,
    "cone": _cone,
    "pyramid": _pyramid,
    "star": _star,
    "heart": _heart,
    "triangle": _triangle,
    "ring": _ring,
}


@lru_cache(maxsize=256)
def _faces(shape: str, turn: float) -> tuple[Face, ...]:
    return tuple(_MODELS[shape](turn))


def extent(shape: str, turn: float = 0.0) -> tuple[float, float, float, float]:
    """The box (left, top, right, bottom) that a shape fills, in units, about its centre."""
    if shape not in _MODELS:
        raise invalid("shape", shape, ", ".join(SHAPES))
    points = [point for face in _faces(shape, turn) for point in face.outline]
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    return min(xs), min(ys), max(xs), max(ys)


def _coverage(index: Image.Image, face: int) -> FloatArray:
    """Share of each picture element that shows face ``face``, in [0, 1]."""
    table = [0] * 256
    table[face] = 255
    return np.asarray(index.point(table).reduce(SUPERSAMPLING), dtype=np.float32) / 255.0


def draw_solid(
    canvas: FloatArray,
    shape: str,
    colour: RGB,
    centre: Point,
    size: float,
    turn: float = 0.0,
) -> None:
    """Draw one solid over ``canvas``, in place.

    Args:
        canvas: [H, W, 3] float32, sRGB in 0..255.
        shape: a name from :data:`glide_fast.data.vocabulary.SHAPES`.
        colour: sRGB of the unshaded surface, 0..255.
        centre: (x, y) of the shape's centre in picture elements; (0, 0) is the canvas's upper left corner.
        size: length of one unit in picture elements; a shape is about one unit across.
        turn: -1..1, turns cube, pyramid and star a little; the others are the same from every side.

    The shares of faces that meet are rounded to bytes one by one, so a value may leave 0..255 by a step or so.

    Raises:
        InvalidInputError: an unknown shape, or a size that is not positive.
    """
    if not size > 0:
        raise invalid("size", size, "a positive number of picture elements")
    left, top, right, bottom = extent(shape, turn)
    height, width = canvas.shape[:2]
    x0 = max(0, math.floor(centre[0] + left * size))
    y0 = max(0, math.floor(centre[1] + top * size))
    x1 = min(width, math.ceil(centre[0] + right * size) + 1)
    y1 = min(height, math.ceil(centre[1] + bottom * size) + 1)
    if x0 >= x1 or y0 >= y1:
        return
    faces = _faces(shape, turn)
    index = Image.new("L", ((x1 - x0) * SUPERSAMPLING, (y1 - y0) * SUPERSAMPLING))
    pen = ImageDraw.Draw(index)
    for number, face in enumerate(faces, start=1):
        # Pillow's coordinates name the middles of picture elements, hence the half.
        pen.polygon(
            [
                (
                    (centre[0] + x * size - x0) * SUPERSAMPLING - 0.5,
                    (centre[1] + y * size - y0) * SUPERSAMPLING - 0.5,
                )
                for x, y in face.outline
            ],
            fill=number,
        )
    x = (np.arange(x0, x1, dtype=np.float32)[None, :] + np.float32(0.5 - centre[0])) / np.float32(size)
    y = (np.arange(y0, y1, dtype=np.float32)[:, None] + np.float32(0.5 - centre[1])) / np.float32(size)
    x, y = np.broadcast_arrays(x, y)
    covered = np.zeros((y1 - y0, x1 - x0), dtype=np.float32)
    factor = np.zeros_like(covered)
    white = np.zeros_like(covered)
    for number, face in enumerate(faces, start=1):
        share = _coverage(index, number)
        covered += share
        if callable(face.shade):
            diffuse, highlight = face.shade(x, y)
            factor += share * diffuse
            white += share * highlight
        else:
            factor += share * np.float32(face.shade)
    surface = factor[..., None] * np.asarray(colour, dtype=np.float32) + 255.0 * white[..., None]
    patch = canvas[y0:y1, x0:x1]
    # Clamped to full brightness of the covered part of the pixel, so that a bright edge does not glow.
    patch[...] = patch * (1.0 - covered[..., None]) + np.minimum(surface, 255.0 * covered[..., None])
