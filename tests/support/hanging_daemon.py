"""`procunit run` with an engine that hangs at the third part: a test double of a hanging accelerator.

usage: python -m tests.support.hanging_daemon run --config FILE
"""

from __future__ import annotations

import faulthandler
import sys
from pathlib import Path

from edge.config.file import settings_from_file
from edge.daemon import run_daemon
from edge.system.log import log_to_stderr
from tests.support.engines import Trouble

HANGS_AT = 3

if __name__ == "__main__":
    faulthandler.enable()
    log_to_stderr()
    sys.exit(run_daemon(settings_from_file(Path(sys.argv[3])), Trouble(hangs_at=(HANGS_AT,)).open))
