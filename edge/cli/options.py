"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

CommandT = TypeVar("CommandT", bound=Callable[..., object])


def config_option(text: str = "Settings file (YAML).", *, required: bool = True) -> Callable[[CommandT], CommandT]:
    """`--config FILE`, passed to the command as `config`; `text` is its help."""
    return click.option(
        "--config", type=click.Path(dir_okay=False, path_type=Path), required=required, metavar="FILE", help=text
    )
