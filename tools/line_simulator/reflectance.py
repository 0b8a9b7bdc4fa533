"""Reflectance maps: the radiance that a facet of given slope sends to a camera above it, under the ring light.

With a distant camera and light, radiance depends on the facet's slope alone (B. K. P. Horn, "Understanding image
intensities", Artificial Intelligence 8, 1977), so the ring is summed once over a grid of slopes and a part is shaded by
looking its slopes up. The specular lobe is GGX with Smith's shadowing (B. Walter et al., "Microfacet models for
refraction through rough surfaces", 2007), stretched across the brushing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from tools.line_simulator.surface import Map

MAX_SLOPE = 1.6
_NODES = 161
_LED_ELEVATIONS_DEG = (34.0, 41.0, 48.0)
_LEDS = 32
_LED_UNEVENNESS = 0.38
"""The ring is a little off the axis: its bright side is this share above the mean, its dark side this share below."""
_BRIGHT_SIDE_RAD = np.deg2rad(235.0)


@dataclass(frozen=True)
class Material:
    """Microfacet roughness along and across the brushing (x), and reflectance at normal incidence."""

    roughness_x: float
    roughness_y: float
    specular: float


COATED = Material(roughness_x=0.17, roughness_y=0.27, specular=0.42)
BARE = Material(roughness_x=0.11, roughness_y=0.22, specular=0.62)
DIFFUSE_COATED, DIFFUSE_BARE = 0.22, 0.06


@dataclass(frozen=True)
class ReflectanceMaps:
    """Diffuse irradiance and both materials' specular radiance over the grid of slopes, float32 [q, p]."""

    diffuse: Map
    coated: Map
    bare: Map

    def shade(self, p: Map, q: Map, albedo: Map, bare: Map) -> Map:
        """Radiance of a surface; `bare` in [0, 1] blends from the coated to the bare material."""
        scale = (_NODES - 1) / (2 * MAX_SLOPE)
        at_p, at_q = (p + MAX_SLOPE) * np.float32(scale), (q + MAX_SLOPE) * np.float32(scale)
        diffuse = _look_up(self.diffuse, at_p, at_q)
        radiance = albedo * (DIFFUSE_COATED * diffuse + _look_up(self.coated, at_p, at_q))
        if bare.any():
            metal = albedo * (DIFFUSE_BARE * diffuse + _look_up(self.bare, at_p, at_q))
            radiance = radiance + bare * (metal - radiance)
        return np.asarray(radiance, np.float32)


@cache
def ring_light_maps() -> ReflectanceMaps:
    """The maps of the simulator's ring light, relative to its brightness on a white, level, matt surface."""
    axis = np.linspace(-MAX_SLOPE, MAX_SLOPE, _NODES)
    p, q = np.meshgrid(axis, axis)
    diffuse, coated, bare = np.zeros((3, *p.shape))
    for elevation_deg in _LED_ELEVATIONS_DEG:
        for azimuth in np.arange(_LEDS) * 2 * np.pi / _LEDS:
            elevation = np.deg2rad(elevation_deg)
            light = np.array(
                [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)]
            )
            power = 1 + _LED_UNEVENNESS * np.cos(azimuth - _BRIGHT_SIDE_RAD)
            facing = np.maximum(_cosine(p, q, light), 0)
            diffuse += power * facing
            coated += power * facing * _ggx(p, q, light, COATED)
            bare += power * facing * _ggx(p, q, light, BARE)
    level = diffuse[_NODES // 2, _NODES // 2]
    return ReflectanceMaps(*(np.asarray(table / level, np.float32) for table in (diffuse, coated, bare)))


def _cosine(p: NDArray[np.float64], q: NDArray[np.float64], direction: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosine between the facets' normals (-p, -q, 1) and a direction."""
    upright = -p * direction[0] - q * direction[1] + direction[2]
    return np.asarray(upright / np.sqrt(1 + p * p + q * q))


def _ggx(
    p: NDArray[np.float64], q: NDArray[np.float64], light: NDArray[np.float64], material: Material
) -> NDArray[np.float64]:
    """GGX lobe towards a camera straight above, times pi (the diffuse term also omits its 1 / pi)."""
    half = light + np.array([0.0, 0.0, 1.0])
    half /= np.linalg.norm(half)
    length = np.sqrt(1 + p * p + q * q)
    along_x = (half[0] + half[2] * p) / np.sqrt(1 + p * p)
    along_n = _cosine(p, q, half)
    along_y = np.sqrt(np.maximum(1 - along_x**2 - along_n**2, 0))
    stretched = (along_x / material.roughness_x) ** 2 + (along_y / material.roughness_y) ** 2 + along_n**2
    lobe = 1 / (material.roughness_x * material.roughness_y * stretched**2)
    roughness = np.sqrt(material.roughness_x * material.roughness_y)
    to_camera, to_light = 1 / length, np.maximum(_cosine(p, q, light), 1e-3)
    shadowing = _smith(to_camera, roughness) * _smith(to_light, roughness)
    grazing = (1 - half @ light) ** 5
    fresnel = material.specular + (1 - material.specular) * grazing
    return np.asarray(fresnel * lobe * shadowing / (4 * to_camera * to_light))


def _smith(cosine: NDArray[np.float64], roughness: float) -> NDArray[np.float64]:
    squared = roughness**2
    return np.asarray(2 * cosine / (cosine + np.sqrt(squared + (1 - squared) * cosine**2)))


def _look_up(table: Map, at_p: Map, at_q: Map) -> Map:
    return np.asarray(cv2.remap(table, at_p, at_q, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32)
