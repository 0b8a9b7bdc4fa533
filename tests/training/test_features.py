"""Training samples: photographs as the device sees them, and mirrored if the line could produce that."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console

from edge.geometry import Geometry
from edge.image_file import read_image
from edge.messages import PixelArray
from edge.preprocess import tensor_from_pixels
from tests.support.photographs import BACKBONE, write_photographs, write_weights
from training.data.dataset import dataset_from_folder
from training.features import samples_from_photos
from training.model import InspectionModel, head_features
from training.weights import trunk_weights

QUIET = Console(quiet=True)


def test_the_mirrored_photograph_is_added_with_its_mask(tmp_path: Path) -> None:
    data = dataset_from_folder(write_photographs(tmp_path, 2, {"spot": 2}))
    geometry = Geometry(input_height_px=64, input_width_px=64, channels=1)
    model = InspectionModel(BACKBONE, 0, 1)
    model.trunk.load_state_dict(trunk_weights(BACKBONE, write_weights(tmp_path / "w.safetensors")).state)
    plain = samples_from_photos(model, data.photos, geometry, (), 0, QUIET)
    mirrored = samples_from_photos(model, data.photos, geometry, ("horizontal",), 0, QUIET)
    for photo, before, now in zip(data.photos, plain, mirrored, strict=True):
        assert before.mirrored is None
        assert now.mirrored is not None
        assert torch.equal(now.patches, before.patches)
        reflection: PixelArray = read_image(photo.path)[:, ::-1].copy()
        tiles_u8 = tensor_from_pixels(reflection, geometry)
        with torch.no_grad():
            wanted = head_features(model.taps(torch.from_numpy(tiles_u8)))[0].flatten(1).t()
        torch.testing.assert_close(now.mirrored.patches.float(), wanted, atol=1e-2, rtol=1e-2)
        if before.coverage is not None and now.mirrored.coverage is not None:
            across = before.coverage.reshape(before.grid).flip(2).flatten()
            torch.testing.assert_close(now.mirrored.coverage, across, atol=0.2, rtol=0)
        assert (before.coverage is None) == (now.mirrored.coverage is None)
