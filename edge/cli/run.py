"""`procunit run` and `procunit check-config`."""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
from pathlib import Path

import click

from edge.bundle.keys import trusted_keys_from_files
from edge.cli.options import config_option
from edge.config.file import ConfigError, settings_from_file
from edge.config.settings import Settings
from edge.contract.topics import RESULT, root_from_device
from edge.daemon import run_daemon
from edge.engine.settings import EngineSettings
from edge.errors import ProcunitError
from edge.system.log import log_to_stderr
from edge.terminal import echo, echo_lines

_logger = logging.getLogger(__name__)


@click.command()
@config_option()
def run(config: Path) -> None:
    """Inspect parts as they come, and send every verdict to the broker.

    Runs until SIGTERM or Ctrl-C, or to the end of a replay; then exits with 0. Exits with 2 if something must be
    corrected before it can start, and with 1 if it failed and should be started again. If no engine passes its check,
    it waits a minute before that under systemd.

    \b
    Examples:
      procunit run --config line.yaml
      systemctl start procunit-edge@line-1      (reads /etc/procunit-edge/line-1.yaml)
    """
    faulthandler.enable()
    log_to_stderr()
    os.umask(0o077)  # results and photographs of the plant are nobody else's
    settings = settings_from_file(config)
    try:
        code = run_daemon(settings, settings_file=config)
    except (RecursionError, MemoryError, OverflowError):  # elsewhere these are about an input, and exit with 2
        _logger.exception("the daemon failed")
        code = 1
    if code:
        sys.exit(code)


@click.command(name="check-config")
@click.argument("config", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE")
def check_config(config: Path) -> None:
    """Check a settings file: print every problem with its line and remedy, or the settings.

    \b
    Examples:
      procunit check-config line.yaml
      procunit check-config /etc/procunit-edge/line-1.yaml
    """
    try:
        settings = settings_from_file(config)
    except ConfigError as error:
        echo_lines(str(error), err=True)
        count = len(error.problems)
        raise ProcunitError(f"{count} problem{'s' if count > 1 else ''}", where=str(config)) from error
    summary = _summary(settings)
    echo(f"{config}: fine")
    for name, value in summary:
        echo(f"  {name:<11}{value}")


def _engine_text(engine: EngineSettings) -> str:
    if engine.kind == "ort":
        return f"ort, {engine.threads or 'all'} threads"
    return f"{engine.kind}, {engine.precision} first; built at the first start"


def _summary(settings: Settings) -> list[tuple[str, str]]:
    files = settings.bundle
    trusted = trusted_keys_from_files(files.trusted_keys, files.demo_keys, files.bank_keys)
    keys = [f"{key.name} (demonstration)" if key.demo else key.name for key in trusted]
    camera = ", ".join(f"{name} {value}" for name, value in settings.camera.model_dump().items())
    mqtt = settings.mqtt
    policy, inspection = settings.policy, settings.inspection
    return [
        ("results", RESULT.at(root_from_device(settings.device))),
        ("broker", f"{mqtt.host}:{mqtt.port}{' with TLS' if mqtt.tls_ca_file else ''}"),
        ("bundle", f"{settings.bundle.path}, signed with {' or '.join(keys)}"),
        ("camera", camera),
        ("engine", _engine_text(settings.engine)),
        ("policy", f"review means {policy.review_action}, {policy.audit_rate:.1%} of passes are audited"),
        ("overload", f"beyond {inspection.frame_slots} waiting frames or {inspection.deadline_s:g} s"),
        ("commands", ", ".join(settings.commands.allowed) or "none"),
        ("state", f"{settings.state_dir}, images up to {settings.frames.quota_mb} MB"),
    ]
