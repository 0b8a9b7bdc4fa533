"""Recipes without a bundle on the disk, for tests of what carries them around."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.bundle.manifest import BANK, GOLDEN, FileEntry, Manifest, Provenance, graph_files
from edge.bundle.reader import BundleContent
from edge.engine.protocol import EngineError, Outputs
from edge.geometry import Geometry
from edge.policy import Policy
from edge.recipe import Recipe, recipe_from_bundle


class NoEngine:
    """An engine that inspects nothing."""

    def infer(self, tiles_u8: NDArray[np.uint8]) -> Outputs:
        """Fail."""
        raise EngineError("there is no engine")

    def swap_bank(self, bank: NDArray[np.float32]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def recipe_of(
    policy: Policy, *, bundle_id: str = "b" * 64, product: str = "bracket", version: int = 3, **geometries: Geometry
) -> Recipe:
    """The recipe of a bundle of which there are a name and a policy alone; views other than `main` are additional."""
    manifest = Manifest(
        product=product,
        version=version,
        created_at_utc="2026-01-01T00:00:00Z",
        geometry=Geometry(),
        types=(),
        anomaly=policy.anomaly,
        budget=None,
        imaging=None,
        provenance=Provenance(dataset_sha256="", code_version="", seed=1, backbone="", weights="", packages={}),
        files={name: FileEntry(sha256="0" * 64, size_bytes=1) for name in (BANK, GOLDEN, *graph_files())},
    )
    recipe = recipe_from_bundle(BundleContent(Path(bundle_id), manifest, bundle_id), policy, NoEngine())
    return replace(recipe, geometries={**recipe.geometries, **geometries})
