"""--trust and --demo-trust, for every command that opens a bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from edge.bundle.keys import TrustedKey
from edge.bundle.reader import Bundle, BundleContent, open_bundle, open_without_signature_check

CommandT = TypeVar("CommandT", bound=Callable[..., object])


_FILE = click.Path(path_type=Path, dir_okay=False)


def trust_options(command: CommandT) -> CommandT:
    """Add `--trust PUB` and `--demo-trust PUB`, each as often as there are keys."""
    command = click.option(
        "--demo-trust", type=_FILE, multiple=True, metavar="PUB", help="Public key trusted for demonstrations only."
    )(command)
    return click.option("--trust", type=_FILE, multiple=True, metavar="PUB", help="Public key trusted for production.")(
        command
    )


def open_with_keys(path: Path, keys: tuple[TrustedKey, ...]) -> BundleContent:
    """Open a bundle for an offline tool: by its signature if keys were named, else by its hashes alone.

    Raises:
        ProcunitError: it is not as it was sealed, or not by any of these keys.
    """
    return open_bundle(path, keys) if keys else open_without_signature_check(path)


def signature_line(content: BundleContent) -> str:
    """Which key verified a bundle, or that none did, in words."""
    if not isinstance(content, Bundle):
        return "NOT VERIFIED: only its hashes were checked; name a key with --trust or --demo-trust"
    kind = "demo key: authority in demonstrations only" if content.signed_by.demo else "production key"
    return f"verified by {content.signed_by.name} ({kind})"
