"""Ways to damage a bundle: its tree, bytes of any file, values of its records, tensors, images and graphs.

Each takes the bundle's folder and a random generator. Those in `NEVER` leave nothing that a device may accept, even if
the signer signed it; after the others a bundle may still be valid.
"""

from __future__ import annotations

import json
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from edge.bundle.manifest import BANK, BANK_KEY, CALIBRATION, GOLDEN, HELD_OUT, MANIFEST, SIGNATURE, graph_files

Mutation = Callable[[Path, random.Random], None]
Json = dict[str, "Json"] | list["Json"] | str | float | int | bool | None

MODEL = graph_files()[0]
_VALUES: tuple[object, ...] = (
    *(None, True, 0, -1, 1, 1.5, 5e-324, 1e308, -1e308, 2**31, 2**63, 10**400, float("nan"), float("inf")),
    *("", "x" * 600, "\ud800", "a\nb", "\x1b[2J", "../x", "2026-02-30T25:61:61Z", "0" * 64),
    *([], {}, [[]], {"a": 1}, [0] * 1000),
)
_DEEP = 1200
_SPARSE_BYTES = 8 << 30


def files_of(folder: Path) -> list[Path]:
    """The plain files of a bundle, in the order of their names."""
    found = (*folder.glob("*"), *folder.glob("*/*"))
    return sorted(path for path in found if path.is_file() and not path.is_symlink())


def changed_bytes(folder: Path, rng: random.Random) -> None:
    """Flip, cut, repeat, splice or overwrite bytes of any file."""
    _mangle(rng.choice(files_of(folder)), rng)


def changed_graph(folder: Path, rng: random.Random) -> None:
    """The same, of the graph."""
    _mangle(folder / MODEL, rng)


def changed_frame(folder: Path, rng: random.Random) -> None:
    """The same, of a golden frame; half of them in its header."""
    frame = rng.choice(sorted(folder.glob("golden/*.png")))
    if rng.random() < 0.5:
        data = bytearray(frame.read_bytes())
        struct.pack_into(">II", data, 16, rng.choice((0, 1, 31, 11_584, 2**31 - 1)), rng.choice((1, 11_584, 2**31 - 1)))
        frame.write_bytes(data)
    else:
        _mangle(frame, rng)


def changed_manifest(folder: Path, rng: random.Random) -> None:
    """One to three values anywhere in the manifest replaced, removed or added."""
    _change_json(folder / MANIFEST, rng)


def changed_record(folder: Path, rng: random.Random) -> None:
    """The same, in the record of the golden frames or of the calibration."""
    _change_json(folder / rng.choice((GOLDEN, CALIBRATION)), rng)


def changed_tensors(folder: Path, rng: random.Random) -> None:
    """Another shape, type, name or value of a tensor."""
    path = folder / rng.choice((BANK, HELD_OUT))
    tensors = load(path.read_bytes())
    name = rng.choice(sorted(tensors))
    tensors[name] = _other(tensors[name], rng)
    path.write_bytes(save(tensors))


def changed_tree(folder: Path, rng: random.Random) -> None:
    """Something in the folder that no bundle has: links, pipes, folders in folders, thousands of files."""
    rng.choice(_TREES)(folder, rng)


def contradicting_counts(folder: Path, rng: random.Random) -> None:
    """Counts in the manifest that contradict each other, or are absurd."""
    rng.choice(_COUNTS)(folder, rng)


def deep_json(folder: Path, rng: random.Random) -> None:
    """A record, or the manifest, of brackets within brackets."""
    depth = rng.choice((300, 5_000, 100_000))
    text = "[" * depth + "]" * depth if rng.random() < 0.5 else '{"a":' * depth + "1" + "}" * depth
    (folder / rng.choice((MANIFEST, GOLDEN, CALIBRATION))).write_text(text)


def wild_bank(folder: Path, rng: random.Random) -> None:
    """A bank of not-numbers, of no local scale, of too many rows or of the wrong width."""
    rows = load((folder / BANK).read_bytes())[BANK_KEY]
    wild = (
        np.full_like(rows, np.nan),
        np.full_like(rows, np.inf),
        -np.abs(rows),
        np.zeros((20_000, rows.shape[1]), np.float32),
        rows[:, :-1] * np.float32(0),
        rows[:0],
        rows.astype(np.float64),
    )
    (folder / BANK).write_bytes(save({BANK_KEY: np.ascontiguousarray(rng.choice(wild))}))


MUTATIONS: tuple[Mutation, ...] = (
    changed_bytes,
    changed_graph,
    changed_frame,
    changed_manifest,
    changed_record,
    changed_tensors,
    changed_tree,
    contradicting_counts,
    deep_json,
    wild_bank,
)
NEVER: frozenset[Mutation] = frozenset({changed_tree, contradicting_counts, deep_json, wild_bank})


def _mangle(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(data)) if data else 0
        kind = rng.randrange(5)
        if kind == 0 and data:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at : at + rng.choice((1, 16, 4096))]
        elif kind == 2:
            data[at:at] = data[at : at + 64]
        elif kind == 3:
            data[at:at] = rng.randbytes(rng.choice((1, 8, 64)))
        else:
            data[at : at + 8] = rng.choice((bytes(8), b"\xff" * 8))
    path.write_bytes(data)


def _change_json(path: Path, rng: random.Random) -> None:
    document = json.loads(path.read_bytes())
    for _ in range(rng.choice((1, 1, 2, 3))):
        node = document
        while rng.random() < 0.8:
            inner = [n for n in (node.values() if isinstance(node, dict) else node) if isinstance(n, dict | list) and n]
            if not inner:
                break
            node = rng.choice(inner)
        value, action = rng.choice(_VALUES), rng.random()
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        if action < 0.15:
            del node[key]
            if not node:
                break
        elif action < 0.25 and isinstance(node, dict):
            node[rng.choice(("surprise", "\x1b", "x" * 999))] = value
        else:
            node[key] = value
    path.write_bytes(json.dumps(document).encode())


def _other(tensor: NDArray[np.generic], rng: random.Random) -> NDArray[np.generic]:
    values = np.array(tensor)
    kind = rng.randrange(5)
    if kind == 0:
        return np.ascontiguousarray(values[: rng.randrange(len(values) + 1)])
    if kind == 1:
        return values.astype(rng.choice((np.float64, np.float16, np.int32, np.uint8)))
    if kind == 2:
        return values.reshape(-1)
    if kind == 3:
        values.reshape(-1)[rng.randrange(values.size)] = rng.choice((-1, 0, 2**31 - 1))
        return values
    return np.repeat(values, 3, axis=0)


def nested_folders(folder: Path, depth: int) -> None:
    """Make `d/d/d/...`; remove it with `rm -rf`, as Python's own ways are recursive."""
    inner = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=inner)
        outer, inner = inner, os.open("d", os.O_RDONLY, dir_fd=inner)
        os.close(outer)
    os.close(inner)


def _deep_folders(folder: Path, _rng: random.Random) -> None:
    nested_folders(folder, _DEEP)


def _many(folder: Path, rng: random.Random) -> None:
    place = rng.choice((folder, folder / "golden"))
    for number in range(rng.choice((1, 520, 2000))):
        (place / f"extra-{number}").touch()


def _link(folder: Path, rng: random.Random) -> None:
    file = rng.choice(files_of(folder))
    target = rng.choice((file.with_name("elsewhere"), Path("/dev/zero"), Path("/nonexistent"), folder))
    if target.name == "elsewhere":
        file.rename(target)
    else:
        file.unlink()
    file.symlink_to(target)


def _pipe(folder: Path, rng: random.Random) -> None:
    file = rng.choice(files_of(folder))
    file.unlink()
    os.mkfifo(file)


def _folder_for_file(folder: Path, rng: random.Random) -> None:
    file = rng.choice(files_of(folder))
    file.unlink()
    file.mkdir()


def _signed_files(folder: Path) -> list[Path]:
    """All but the signature, which signing again makes whole."""
    return [path for path in files_of(folder) if path.name != SIGNATURE]


def _sparse(folder: Path, rng: random.Random) -> None:
    with rng.choice(_signed_files(folder)).open("r+b") as stream:
        stream.truncate(_SPARSE_BYTES)


def _odd_name(folder: Path, rng: random.Random) -> None:
    name = rng.choice((b"\x1b[2J", b"\xff\xfe", b"a\nb", b"-rf", b"x" * 255))
    Path(os.fsdecode(os.path.join(os.fsencode(folder), name))).touch()


def _missing(folder: Path, rng: random.Random) -> None:
    rng.choice(_signed_files(folder)).unlink()


_TREES: tuple[Mutation, ...] = (
    _deep_folders,
    _many,
    _link,
    _pipe,
    _folder_for_file,
    _sparse,
    _odd_name,
    _missing,
)


def _count(change: Callable[[dict[str, object]], None]) -> Mutation:
    def mutation(folder: Path, _rng: random.Random) -> None:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        change(manifest)
        (folder / MANIFEST).write_text(json.dumps(manifest))

    return mutation


def _in_type(**values: object) -> Mutation:
    def change(manifest: dict[str, object]) -> None:
        types = manifest["types"]
        assert isinstance(types, list)
        types[0].update(values)

    return _count(change)


def _in_section(section: str, **values: object) -> Mutation:
    def change(manifest: dict[str, object]) -> None:
        found = manifest[section]
        assert isinstance(found, dict)
        found.update(values)

    return _count(change)


def _in_seeded(**values: object) -> Mutation:
    def change(manifest: dict[str, object]) -> None:
        types = manifest["types"]
        assert isinstance(types, list)
        types[0]["seeded"].update(values)

    return _count(change)


def _many_types(manifest: dict[str, object]) -> None:
    types = manifest["types"]
    assert isinstance(types, list)
    manifest["types"] = [{**types[0], "name": f"type-{number}"} for number in range(5_000)]


_COUNTS: tuple[Mutation, ...] = (
    _in_type(images=3, parts=40),
    _in_type(images=10**18, parts=10**18),
    _in_type(images=-1),
    _in_seeded(parts=15, detected=16),
    _in_seeded(good_parts=10**15, false_rejects=10**14),
    _in_seeded(parts=10**300, detected=10**300),
    _in_seeded(good_parts=0, false_rejects=1),
    _in_seeded(confidence=1.5),
    _in_section("budget", good_parts=5, flagged_parts=6),
    _in_section("budget", good_parts=2**62),
    _in_section("anomaly", spread=5e-324),
    _in_section("anomaly", threshold=1e308),
    _in_section("geometry", regions=[{}] * 64, input_height_px=2048, input_width_px=2048),
    _in_section("geometry", regions=[{}] * 1000),
    _in_section("files", **{BANK: {"sha256": "0" * 64, "size_bytes": 4 << 30}}),
    _count(lambda manifest: manifest.update(version=10**4000)),
    _count(_many_types),
)
