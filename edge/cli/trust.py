"""`--trust` and `--demo-trust`, and opening a bundle with the keys that they name."""

from __future__ import annotations

from pathlib import Path

import click

from edge.bundle.keys import TrustedKey
from edge.bundle.reader import Bundle, BundleContent, open_bundle, open_without_signature_check
from edge.cli.options import CommandT

_FILE = click.Path(path_type=Path, dir_okay=False)


def trust_options(command: CommandT) -> CommandT:
    """Add `--trust PUB` and `--demo-trust PUB`, which may be repeated, as `trust` and `demo_trust`."""
    command = click.option(
        "--demo-trust", type=_FILE, multiple=True, metavar="PUB", help="Public key trusted for demonstrations only."
    )(command)
    return click.option("--trust", type=_FILE, multiple=True, metavar="PUB", help="Public key trusted for production.")(
        command
    )


def open_with_keys(path: Path, keys: tuple[TrustedKey, ...]) -> BundleContent:
    """Open a bundle for an offline tool; without `keys` its hashes are checked, but not its signature.

    Raises:
        ProcunitError: it was changed, or is not signed by any of these keys.
    """
    return open_bundle(path, keys) if keys else open_without_signature_check(path)


def signature_line(content: BundleContent) -> str:
    """One line for people: the key that verified the bundle, or that none did."""
    if not isinstance(content, Bundle):
        return "NOT VERIFIED: only its hashes were checked; name a key with --trust or --demo-trust"
    kind = "demo key: authority in demonstrations only" if content.signed_by.demo else "production key"
    return f"verified by {content.signed_by.name} ({kind})"
