"""`procunit mqtt check`: tests the connection to the broker."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click
from rich.table import Table

from edge.cli.options import config_option
from edge.config.file import settings_from_file
from edge.contract.topics import root_from_device
from edge.faults import FaultId
from edge.mqtt.check import Finding, Outcome, check
from edge.outbox.database import in_use
from edge.outbox.look import epoch_of, newest_event
from edge.state_dir import OUTBOX_FILE
from edge.terminal import Console, echo_json, styled

EVENT_MAX_AGE_S = 4000.0
"""The running device repeats the event about its client id every hour."""

_STYLES: dict[Outcome, str] = {"ok": "green", "warning": "yellow", "failed": "bold red"}


@click.command(name="check")
@config_option()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def mqtt_check(config: Path, as_json: bool) -> None:
    """Check the connection to the broker: clock, name, TCP, TLS, login, limits, client id, rights.

    No receiver gets a message of the check, and a running device is not disturbed. Exits with 1 if any step failed.

    \b
    Examples:
      procunit mqtt check --config line.yaml
      procunit mqtt check --config /etc/procunit-edge/line-1.yaml --json
    """
    settings = settings_from_file(config)
    outbox = settings.state_dir / OUTBOX_FILE
    findings = list(
        check(
            settings.mqtt,
            settings.device.device,
            root_from_device(settings.device),
            running=in_use(outbox),
            epoch=epoch_of(outbox) or "unknown",
            taken_over_at=newest_event(outbox, FaultId.CLIENT_ID_IN_USE.value, EVENT_MAX_AGE_S),
        )
    )
    if as_json:
        echo_json([asdict(finding) for finding in findings], indent=2)
    else:
        Console().print(_table(findings))
    if any(finding.outcome == "failed" for finding in findings):
        sys.exit(1)


def _table(findings: list[Finding]) -> Table:
    table = Table(show_lines=False, box=None, pad_edge=False)
    for column in ("step", "", "detail", "what to do"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        table.add_row(finding.step, styled(finding.outcome, _STYLES[finding.outcome]), finding.detail, finding.remedy)
    return table
