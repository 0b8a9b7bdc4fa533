"""What the stages hand to each other: the names of views, and a part that loses its frames."""

from __future__ import annotations

import numpy as np
import pytest

from edge.messages import MAIN_VIEW, Frame, NotInspected, Trigger, View

FRAME = Frame("f1", "P1", 1, "2026-01-01T00:00:00Z", 0, np.zeros((32, 32), np.uint8))


@pytest.mark.parametrize("name", [MAIN_VIEW, "left", "cam-2", "top_3", "0", "a" * 32])
def test_a_name_that_fits_topics_and_file_names_is_a_view(name: str) -> None:
    assert View(name, FRAME).name == name


@pytest.mark.parametrize("name", ["", "a" * 33, "Left", "a/b", "a.b", "+", "#", "-a", "_a", "a b", "left\n", "\u0430"])
def test_any_other_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="names no view"):
        View(name, FRAME)


def test_a_part_that_is_refused_has_a_reason_and_no_frames() -> None:
    trigger = Trigger(7, "f1", "P1", 1, "2026-01-01T00:00:00Z", 5, (View(MAIN_VIEW, FRAME), View("left", FRAME)))
    refused = trigger.refused(NotInspected.OVERLOAD)
    assert refused == Trigger(7, "f1", "P1", 1, "2026-01-01T00:00:00Z", 5, (), NotInspected.OVERLOAD)
