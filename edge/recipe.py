"""What judges a part: everything between its frames and its verdict, as one object that never changes.

Another memory bank, other thresholds or another product is another recipe. It is exchanged as a whole between two
parts, so that no part is ever judged by pieces of two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.bundle.manifest import ScoreLimit
from edge.bundle.reader import BundleContent
from edge.engine.protocol import Engine
from edge.geometry import Geometry
from edge.policy import Policy

MAIN_VIEW = "main"


@dataclass(frozen=True, eq=False)
class BankInUse:
    """The bank for inspection: the version (0: the bundle's bank), the rows [M, D + 1] and the anomaly limit."""

    version: int
    rows: NDArray[np.float32]
    limit: ScoreLimit


@dataclass(frozen=True, eq=False)
class Recipe:
    """Bundle, geometry of each view, policy, memory bank and engine.

    `policy` is that of the bundle, with the limit of `bank` and the thresholds that signed commands set. `bank` is None
    while the engine has the bundle's own. `engine` is open while the inspect thread, its owner, inspects.
    """

    bundle: BundleContent
    geometries: Mapping[str, Geometry]
    policy: Policy
    engine: Engine
    bank: BankInUse | None = None

    @property
    def bank_version(self) -> int:
        """The version of the memory bank, 0 for the bundle's own."""
        return 0 if self.bank is None else self.bank.version


def recipe_from_bundle(bundle: BundleContent, policy: Policy, engine: Engine) -> Recipe:
    """The recipe of a bundle, with its own memory bank."""
    return Recipe(bundle, {MAIN_VIEW: bundle.manifest.geometry}, policy, engine)
