"""Heatmap of a frame: a small relevance map, stored with the frame and drawn over it when it is published."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.geometry import Geometry
from edge.messages import Scores
from edge.preprocess import frame_map_from_tile_maps, patches_with_any, uninspected_pixels

MAP_SIDE_PX = 128
"""The longer side of a stored map; the network's grid is coarser."""
_OPACITY = 0.5


def relevance_from_scores(scores: Scores, height_px: int, width_px: int, geometry: Geometry) -> NDArray[np.uint8]:
    """Relevance of each place of a frame for its scores: uint8 [h, w] with the frame's aspect ratio, but small.

    The maximum of two maps: that of the strongest defect type (sigmoid), and the anomaly map scaled between its lowest
    and highest value in this frame. It shows where to look, not how severe a defect is. Padding and ignored areas
    are 0.
    """
    anomaly = np.nan_to_num(scores.anomaly_map)
    inspected = patches_with_any(~uninspected_pixels(height_px, width_px, geometry))
    lowest, span = float(anomaly[inspected].min()), float(np.ptp(anomaly[inspected]))
    relevance = (anomaly - lowest) / span if span > 0 else np.zeros_like(anomaly)
    if scores.type_scores:
        logits = np.nan_to_num(scores.defect_maps[:, int(np.argmax(scores.type_scores))])
        relevance = np.maximum(relevance, 1 / (1 + np.exp(-np.clip(logits, -30, 30))))
    relevance = np.where(inspected, relevance, 0)
    scale = min(1.0, MAP_SIDE_PX / max(height_px, width_px))
    height, width = max(1, round(height_px * scale)), max(1, round(width_px * scale))
    over_frame = frame_map_from_tile_maps(relevance.astype(np.float32), height, width, geometry)
    return np.rint(255 * np.clip(over_frame, 0, 1)).astype(np.uint8)


def overlay(frame_u8: NDArray[np.uint8], relevance_u8: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Blend the map in cividis (dark blue to yellow, safe for colour-blind people) over the grey frame: uint8 BGR."""
    grey = frame_u8 if frame_u8.ndim == 2 else cv2.cvtColor(frame_u8[:, :, :3], cv2.COLOR_BGR2GRAY)
    size = (grey.shape[1], grey.shape[0])
    colours = cv2.applyColorMap(cv2.resize(relevance_u8, size, interpolation=cv2.INTER_LINEAR), cv2.COLORMAP_CIVIDIS)
    blended = cv2.addWeighted(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), 1 - _OPACITY, colours, _OPACITY, 0)
    return np.asarray(blended, np.uint8)
