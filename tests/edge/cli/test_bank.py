"""`procunit bank add`, `bank undo` and `bank show`, as a person at the line calls them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from edge.cli.main import root as cli
from edge.errors import ProcunitError
from edge.frames.image import png_from_pixels
from edge.state_dir import BANK_FOLDER
from tests.support.device import Device
from tests.support.tiny_bundle import build_tiny_bundle, defect_image, good_image, stained_image


def bank(device: Device, *arguments: str | Path, answer: str | None = None) -> Result:
    """Run the command with the device's settings."""
    command, *rest = map(str, arguments)
    runner = CliRunner(env={"COLUMNS": "160"})
    return runner.invoke(cli, ["bank", command, "--config", str(device.config), *rest], input=answer)


def add(device: Device, *arguments: str | Path, key: str = "line-bank.pem", answer: str | None = None) -> Result:
    return bank(device, "add", "--key", device.folder / key, *arguments, answer=answer)


def problem(result: Result) -> str:
    assert isinstance(result.exception, ProcunitError), result.output
    return str(result.exception)


def file(device: Device, image: NDArray[np.uint8], name: str = "cleared.png") -> Path:
    path = device.folder / name
    cv2.imwrite(str(path), image)
    return path


def pin(
    device: Device, image: NDArray[np.uint8], label: str, result_id: str, part_id: str | None = None, **more: str
) -> Path:
    """A frame as the device keeps it for the next training."""
    folder = device.folder / "state/frames/pinned"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result_id}.review.png"
    cv2.imwrite(str(path), image)
    record = {"result_id": result_id, "part_id": part_id, "verdict": "review", "label": label, **more}
    path.with_suffix(".json").write_text(json.dumps(record))
    return path


def versions(device: Device) -> list[str]:
    return sorted(path.parent.name for path in (device.folder / "state" / BANK_FOLDER).glob("*/*/delta.json"))


def test_a_good_part_is_added_shown_and_undone(growing_device: Device) -> None:
    device = growing_device
    pin(device, stained_image(1), "good", "ab-7", "4711")
    pin(device, stained_image(2), "good", "ab-8")
    done = add(device, "--part", "4711", "--result", "ab-8", "--yes")
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.output.splitlines()]
    (first,) = [line for line in lines if line[:2] == ["part", "4711"]]
    (second,) = [line for line in lines if line[:2] == ["result", "ab-8"]]
    before, after, rows = (float(value) for value in first[2:])
    (limits,) = [line for line in lines if line[:2] == ["Anomaly", "threshold:"]]
    assert after < float(limits[4]) <= float(limits[2]) < before
    assert float(second[3]) < float(limits[4]) <= float(limits[2]) < float(second[2])
    added = int(rows) + int(second[4])
    assert f"Bank: 512 -> {512 + added} rows" in done.output
    assert "Version 1 of the memory bank is in use from the next part on" in done.output
    shown = bank(device, "show").output
    assert "Version 1 of the memory bank is in use" in shown
    assert "line-bank.pub" in shown
    assert f"+{added}" in shown
    assert f"part 4711: {int(rows)} rows, score {after:.4f}" in shown
    assert "The bundle's own memory bank is in use" in bank(device, "undo").output
    assert "The bundle's own memory bank is in use" in bank(device, "show").output
    assert "nothing to undo" in problem(bank(device, "undo"))


def test_it_asks_for_confirmation_and_no_changes_nothing(growing_device: Device) -> None:
    frame = file(growing_device, stained_image(1))
    refused = add(growing_device, frame, answer="n\n")
    assert refused.exit_code == 1
    assert "Put this bank in use? [y/N]" in refused.output
    assert versions(growing_device) == []
    assert add(growing_device, frame, answer="y\n").exit_code == 0
    assert versions(growing_device) == ["0001"]


def test_a_frame_whose_score_is_low_already_makes_no_version(growing_device: Device) -> None:
    frame = file(growing_device, stained_image(1))
    assert add(growing_device, "--yes", frame).exit_code == 0
    again = add(growing_device, "--yes", file(growing_device, stained_image(5), "again.png"))
    assert "nothing is added" in again.output
    assert versions(growing_device) == ["0001"]


def test_frames_of_a_view_that_the_bundle_does_not_know_are_left_out_and_named(growing_device: Device) -> None:
    pin(growing_device, stained_image(1), "good", "ab-1", "4711")
    pin(growing_device, stained_image(2), "good", "ab-2", "4711", view="left")
    pin(growing_device, stained_image(9), "dent", "ab-9", view="left")  # else the bank would be refused for it
    done = add(growing_device, "--part", "4711", "--yes")
    assert done.exit_code == 0, done.output
    assert "left out: part 4711 shows view 'left'; the bundle knows main only" in done.output
    assert "left out: dent of result ab-9 shows view 'left'; the bundle knows main only" in done.output
    assert versions(growing_device) == ["0001"]
    frame = growing_device.folder / "copied.png"
    frame.write_bytes(png_from_pixels(stained_image(3), {"view": "left"}))
    assert "no frame is named" in problem(add(growing_device, "--yes", frame))


def test_a_second_version_includes_the_first_one(growing_device: Device) -> None:
    add(growing_device, "--yes", file(growing_device, stained_image(1), "first.png"))
    other = good_image(3)
    other[40:104, 8:88] = 131
    assert add(growing_device, "--yes", file(growing_device, other, "second.png")).exit_code == 0
    shown = bank(growing_device, "show").output
    assert "Version 2 of the memory bank is in use" in shown
    assert "first.png" in shown
    assert "second.png" in shown
    assert "Version 1 of the memory bank is in use" in bank(growing_device, "undo").output


def test_a_bank_that_would_miss_a_stored_defect_is_refused_and_the_defect_named(growing_device: Device) -> None:
    stored = pin(growing_device, stained_image(9), "dent", "ab-9")
    text = problem(add(growing_device, "--yes", file(growing_device, stained_image(1))))
    assert f"would miss a stored defect: dent at {stored}" in text
    assert "Look at the frames again" in text
    assert versions(growing_device) == []


def test_a_bank_that_would_miss_a_defect_of_the_bundle_is_refused(growing_device: Device) -> None:
    device = growing_device
    build_tiny_bundle(device.folder / "plain", types=(), grows=True)
    device.sections["bundle"] = {**dict(device.sections["bundle"]), "path": "plain/bundle"}  # type: ignore[call-overload]
    device.write_settings()
    text = problem(add(device, "--yes", file(device, defect_image(3001))))
    assert "would miss a stored defect: " in text


def test_a_frame_that_a_type_flags_is_reported_as_not_cleared(growing_device: Device) -> None:
    image = stained_image(1)
    image[2:4, 2:4] = 40
    done = add(growing_device, "--yes", file(growing_device, image))
    assert done.exit_code == 0
    assert "cleared.png is not cleared by this alone: scratch flags it, too" in done.output


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "no frame is named"),
        (("--part", "4712"), "no frame of part 4712 is kept for the next training"),
        (("--result", "ab-77"), "no frame of result ab-77"),
        (("--part", "4711"), "the frame of part 4711 is labelled 'dent', not 'good'"),
        (("absent.png",), "no such file"),
        (("line.yaml",), "not a readable image"),
        (("state/frames/pinned/ab-7.review.png",), "this frame is known as 'dent', not 'good'"),
    ],
)
def test_anything_but_a_good_frame_is_refused(
    growing_device: Device, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], text: str
) -> None:
    pin(growing_device, good_image(1), "dent", "ab-7", "4711")
    monkeypatch.chdir(growing_device.folder)
    assert text in problem(add(growing_device, "--yes", *arguments))


def test_a_copy_of_a_labelled_defect_or_another_photograph_of_its_part_is_refused(growing_device: Device) -> None:
    dent = pin(growing_device, stained_image(1), "dent", "ab-7", "4711")
    text = problem(add(growing_device, "--yes", file(growing_device, stained_image(1))))
    assert "this frame is known as 'dent', not 'good'" in text
    assert "correct the label, signed" in text
    record: dict[str, object] = {"result_id": "ab-7", "part_id": "4711"}
    in_ring = growing_device.folder / "ring.png"  # the other file of the same result
    in_ring.write_bytes(png_from_pixels(stained_image(2), record))
    assert "this frame is known as 'dent'" in problem(add(growing_device, "--yes", in_ring))
    of_part = growing_device.folder / "part.png"
    of_part.write_bytes(png_from_pixels(stained_image(3), {**record, "result_id": "ab-8"}))
    text = problem(add(growing_device, "--yes", of_part))
    assert "the frame of result ab-7, of the same part, is known as 'dent'" in text
    pin(growing_device, stained_image(4), "good", "ab-9", "4711")
    assert "of the same part" in problem(add(growing_device, "--yes", "--result", "ab-9"))
    assert versions(growing_device) == []
    dent.unlink()
    assert add(growing_device, "--yes", "--result", "ab-9").exit_code == 0


def test_adding_shows_who_called_the_frame_good_and_what_it_was_before(growing_device: Device) -> None:
    path = pin(growing_device, stained_image(1), "good", "ab-7", "4711")
    pin(growing_device, stained_image(2), "good", "ab-8")
    record = json.loads(path.with_suffix(".json").read_text())
    record["label_history"] = [
        {"label": "dent", "by": "quality-2", "signed_by": None, "labelled_at_utc": "2026-11-22T19:00:00.000Z"},
        {"label": "good", "by": "m.huber", "signed_by": "release.pub", "labelled_at_utc": "2026-11-23T07:00:00.000Z"},
    ]
    path.with_suffix(".json").write_text(json.dumps(record))
    done = add(growing_device, "--part", "4711", "--result", "ab-8", answer="n\n")
    assert (
        "part 4711: labelled good by m.huber on 2026-11-23T07:00:00.000Z (signed with release.pub); "
        "before that dent by quality-2 on 2026-11-22T19:00:00.000Z (unsigned)\n"
    ) in done.output
    assert "result ab-8: labelled good (not recorded by whom)\n" in done.output


def test_a_pinned_frame_without_its_record_is_reported(growing_device: Device) -> None:
    path = pin(growing_device, stained_image(1), "good", "ab-7")
    path.with_suffix(".json").write_text('{"label": "good"}')
    assert "ab-7.review.json: key result_id" in problem(add(growing_device, "--yes", "--result", "ab-7"))
    path.with_suffix(".json").unlink()
    assert "missing" in problem(add(growing_device, "--yes", "--result", "ab-7"))


def test_a_key_that_the_device_does_not_trust_to_sign_its_bank(growing_device: Device) -> None:
    growing_device.sections["bundle"] = {"path": "bundle", "demo_keys": ["demo-key.pub"]}
    growing_device.write_settings()
    frame = file(growing_device, stained_image(1))
    assert "under bundle.bank_keys" in problem(add(growing_device, "--yes", frame))
    assert add(growing_device, "--yes", frame, key="demo-key.pem").exit_code == 0  # it signed the bundle


def test_a_bundle_without_the_files_for_growing_has_to_be_built_again(growing_device: Device) -> None:
    build_tiny_bundle(growing_device.folder / "old")
    growing_device.sections["bundle"] = {
        "path": "old/bundle",
        "demo_keys": ["demo-key.pub"],
        "bank_keys": ["line-bank.pub"],
    }
    growing_device.write_settings()
    text = problem(add(growing_device, "--yes", file(growing_device, stained_image(1))))
    assert "too old for a bank that grows" in text
    assert "Build it again" in text


def test_show_reports_a_refused_version(growing_device: Device) -> None:
    add(growing_device, "--yes", file(growing_device, stained_image(1)))
    (rows,) = (growing_device.folder / "state" / BANK_FOLDER).glob("*/0001/rows.safetensors")
    rows.write_bytes(rows.read_bytes()[:-1])
    shown = bank(growing_device, "show").output
    assert "refused: version 1: " in shown
    assert "The bundle's own memory bank is in use" in shown
