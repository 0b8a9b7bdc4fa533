"""The fuzz drill runs, reaches both readers and detects a changed decision."""

from __future__ import annotations

import random

import pytest
from click.testing import CliRunner

from tools.drills import fuzz as drill_fuzz


def test_a_short_run_reaches_both_readers() -> None:
    result = CliRunner().invoke(drill_fuzz.main, ["--inputs", "600", "--seed", "7"])
    assert result.exit_code == 0, result.output
    for outcome in ("command done", "command invalid", "command not_json", "command signature", "settings refused"):
        assert outcome in result.output


def test_a_changed_decision_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.commands.table.CommandKind.signed", False)
    with pytest.raises(AssertionError, match="without a key"):
        drill_fuzz.Desk().take(b'{"cmdId": "disarm", "args": {}}', random.Random(1))  # noqa: S311  (no secret)
