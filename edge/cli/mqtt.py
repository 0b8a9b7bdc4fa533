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
from edge.mqtt.check import Finding, Outcome, check
from edge.terminal import Console, echo_json, styled

_STYLES: dict[Outcome, str] = {"ok": "green", "warning": "yellow", "failed": "bold red"}


@click.command(name="check")
@config_option()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def mqtt_check(config: Path, as_json: bool) -> None:
    """Check the connection to the broker: clock, name, TCP, TLS, login, limits, rights on every topic.

    The messages of the check are empty and not retained; receivers ignore them. A running device is not disturbed.
    Exits with 1 if any step failed.

    \b
    Examples:
      procunit mqtt check --config line.yaml
      procunit mqtt check --config /etc/procunit-edge/line-1.yaml --json
    """
    settings = settings_from_file(config)
    findings = list(check(settings.mqtt, settings.device.device, root_from_device(settings.device)))
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
