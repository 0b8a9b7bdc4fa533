"""A kind of camera or output that is found as that of another package would be."""

from __future__ import annotations

from pathlib import Path


def install_kind(folder: Path, group: str, kind: str, kind_class: type) -> None:
    """Register the class of a kind under an entry-point group; `folder` must be on the import path."""
    package = folder / f"{kind}_{group.rpartition('.')[2]}-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package.name.partition('-')[0]}\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(f"[{group}]\n{kind} = {kind_class.__module__}:{kind_class.__name__}\n")
