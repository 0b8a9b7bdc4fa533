"""The fault table is complete, with a text and an action for technicians."""

from __future__ import annotations

import pytest

from edge.faults import FaultId


@pytest.mark.parametrize("fault_id", list(FaultId))
def test_every_fault_has_a_text_and_an_action(fault_id: FaultId) -> None:
    fault = fault_id.fault
    for sentence in (fault.text, fault.action):
        assert sentence[0].isupper()
        assert sentence.endswith(".")
        assert len(sentence) > 20
    assert fault.text != fault.action


def test_an_id_is_its_name_in_lower_case_so_that_none_stands_twice() -> None:
    assert [fault_id.value for fault_id in FaultId] == [name.lower() for name in FaultId.__members__]


def test_ids_are_valid_in_topics_and_file_names() -> None:
    assert all(fault_id.value.replace("_", "").isalpha() and fault_id.value.islower() for fault_id in FaultId)
