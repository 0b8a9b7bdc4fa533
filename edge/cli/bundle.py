"""`procunit bundle show` and `procunit bundle verify`."""

from __future__ import annotations

from pathlib import Path

import click
from rich import box
from rich.console import Group
from rich.table import Table

from edge.bank.evidence import can_grow, evidence_from_bundle
from edge.bundle.consistency import check_records
from edge.bundle.keys import trusted_keys_from_files
from edge.bundle.manifest import NO_BUDGET, DefectType, Manifest
from edge.bundle.reader import Bundle, BundleContent, open_bundle
from edge.cli.trust import open_with_keys, signature_line, trust_options
from edge.errors import ProcunitError
from edge.policy import earned_authority
from edge.preprocess import areas_in_words
from edge.terminal import Console, echo

_DIRECTORY = click.Path(path_type=Path)


@click.command()
@click.argument("bundle", type=_DIRECTORY)
@trust_options
def show(bundle: Path, trust: tuple[Path, ...], demo_trust: tuple[Path, ...]) -> None:
    """Show the contents of BUNDLE: types, evidence, thresholds, authority, and the key that signed it.

    \b
    Examples:
      procunit bundle show bundle/
      procunit bundle show bundle/ --demo-trust run/demo-key.pub
    """
    content = open_with_keys(bundle, trusted_keys_from_files(trust, demo_trust))
    console = Console()
    console.print(_facts(content))
    if content.manifest.types:
        demo_key = content.signed_by.demo if isinstance(content, Bundle) else True
        console.print(_types_table(content.manifest.types, demo_key))
    else:
        console.print("No defect types taught: only the anomaly score is used, which never rejects.")


@click.command()
@click.argument("bundle", type=_DIRECTORY)
@trust_options
def verify(bundle: Path, trust: tuple[Path, ...], demo_trust: tuple[Path, ...]) -> None:
    """Verify BUNDLE as a device does: signature, names, sizes, hashes, bank, golden records and evidence.

    \b
    Examples:
      procunit bundle verify bundle/ --trust factory.pub
      procunit bundle verify bundle/ --demo-trust run/demo-key.pub
    """
    keys = trusted_keys_from_files(trust, demo_trust)
    if not keys:
        raise ProcunitError(
            "no public key to verify the bundle with",
            where=str(bundle),
            remedy="Name one with --trust PUB or --demo-trust PUB",
        )
    content = open_bundle(bundle, keys)
    check_records(content)
    manifest = content.manifest
    if can_grow(manifest):
        evidence_from_bundle(content)
    echo(f"{manifest.product} version {manifest.version}, {content.bundle_id[:12]}: {signature_line(content)}")


def _facts(content: BundleContent) -> Table:
    manifest = content.manifest
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    size_mb = sum(entry.size_bytes for entry in manifest.files.values()) / 1e6
    facts = {
        "Product": f"{manifest.product}, version {manifest.version}, sealed {manifest.created_at_utc}",
        "Bundle id": content.bundle_id,
        "Signature": signature_line(content),
        "Input": _input_text(manifest),
        "Inspected": areas_in_words(manifest.geometry),
        "Network": f"{manifest.provenance.backbone}, weights: {manifest.provenance.weights}",
        "Data": f"dataset {manifest.provenance.dataset_sha256[:12]}, seed {manifest.provenance.seed}",
        "False alarms": manifest.budget.in_words() if manifest.budget else NO_BUDGET,
        "Anomaly": f"to a person from {manifest.anomaly.threshold:.4f} on" if manifest.anomaly else "not used",
        "Memory bank": "can be grown at the line" if can_grow(manifest) else "cannot be grown at the line",
        "Files": f"{len(manifest.files)}, {size_mb:.1f} MB",
    }
    for name, text in facts.items():
        table.add_row(name, text)
    return table


def _input_text(manifest: Manifest) -> str:
    geometry = manifest.geometry
    colour = "grey" if geometry.channels == 1 else "colour"
    return f"{geometry.input_width_px} x {geometry.input_height_px} px, {colour}"


def _types_table(types: tuple[DefectType, ...], demo_key: bool) -> Group:
    table = Table("Type", "Photos taught", "Flagged from", "Seeded run", "Authority", box=box.SIMPLE)
    reasons = []
    for defect_type in types:
        earned, reason = earned_authority(defect_type, demo_key=demo_key)
        run = defect_type.seeded
        authority = defect_type.authority if defect_type.authority == earned else "review"
        claim = "" if authority == defect_type.authority else f"claims {defect_type.authority}: "
        table.add_row(
            defect_type.name,
            f"{defect_type.images} ({defect_type.parts} parts)",
            f"{defect_type.limit.threshold:.4f}",
            f"{run.detected} of {run.parts}{' (simulated)' if run.simulated else ''}" if run else "none",
            authority,
        )
        reasons.append(f"  {defect_type.name}: {claim}{reason}")
    return Group(table, *reasons)
