"""The settings file: what is accepted, and the text of every problem."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from edge.camera.replay import ReplaySettings
from edge.config.file import ConfigError, settings_from_file
from edge.config.located_yaml import MAX_BYTES, YamlError, located_yaml_from_bytes
from edge.config.settings import Settings
from edge.config.yaml_file import Problem
from tests.doubles import scripted_output
from tests.doubles.scripted_output import ScriptedOutputSettings

GOOD = """\
device: {enterprise: demo, line: line-1, device: edge-1}
bundle:
  path: ../bundle
  demo_keys: [demo-key.pub]
camera:
  kind: replay
  path: photos
  parts_per_min: 120
  at_end: stop
mqtt:
  host: 127.0.0.1
  port: 1883
policy: {review_action: hold, audit_rate: 0.01}
state_dir: state
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a settings file, with every file and folder that `GOOD` names."""
    folder = tmp_path / "etc"
    (folder / "photos").mkdir(parents=True)
    (tmp_path / "bundle").mkdir()
    (folder / "demo-key.pub").write_text("key")
    return folder


def problems_of(folder: Path, text: str) -> tuple[Problem, ...]:
    path = folder / "line.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        settings_from_file(path)
    return caught.value.problems


def only_problem(folder: Path, text: str) -> Problem:
    problems = problems_of(folder, text)
    assert len(problems) == 1, [str(p) for p in problems]
    return problems[0]


def test_a_good_file_gives_settings_with_paths_from_its_folder(folder: Path) -> None:
    (folder / "line.yaml").write_text(GOOD)
    read = settings_from_file(folder / "line.yaml")
    assert read.bundle.path == folder / "../bundle"
    assert read.bundle.demo_keys == (folder / "demo-key.pub",)
    assert read.state_dir == folder / "state"
    assert isinstance(read.camera, ReplaySettings)
    assert read.camera.parts_per_min == 120
    assert read.policy.review_action == "hold"
    assert read.inspection.deadline_s == 2.0
    assert read.mqtt.client_id is None


def test_settings_do_not_change(folder: Path) -> None:
    (folder / "line.yaml").write_text(GOOD)
    read = settings_from_file(folder / "line.yaml")
    with pytest.raises(ValueError, match="frozen"):
        read.mqtt.port = 1  # type: ignore[misc]


def test_all_problems_are_reported_at_once_in_the_order_of_the_lines(folder: Path) -> None:
    text = GOOD.replace("host:", "hots:").replace("port: 1883", "port: 99999").replace("kind: replay", "kind: replya")
    problems = problems_of(folder, text)
    assert [(p.line, p.key) for p in problems] == [
        (6, "camera.kind"),
        (10, "mqtt.host"),
        (11, "mqtt.hots"),
        (12, "mqtt.port"),
    ]
    assert all(p.file == folder / "line.yaml" and p.remedy for p in problems)
    assert str(problems[2]) == (
        f"{folder}/line.yaml:11: mqtt.hots: unknown key (it is '127.0.0.1'). Did you mean 'host'?"
    )


@pytest.mark.parametrize("key", ["cameras", "camera_2", "camera.path"])
def test_a_mistyped_section_is_reported_beside_a_wrong_kind_of_camera(folder: Path, key: str) -> None:
    problems = problems_of(folder, GOOD.replace("kind: replay", "kind: replya") + f"{key}: photos\n")
    assert [(p.line, p.key) for p in problems] == [(6, "camera.kind"), (15, key)]


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "what", "remedy"),
    [
        ("port: 1883", "prot: 1883", 12, "mqtt.prot", "unknown key", "Did you mean 'port'?"),
        ("port: 1883", "zzz: 1", 12, "mqtt.zzz", "unknown key", "Known keys here: client_cert_file, client_id"),
        ("port: 1883", "port: yes", 12, "mqtt.port", "valid integer", "1 to 65535"),
        ("port: 1883", "port: '1883'", 12, "mqtt.port", "valid integer", "1 to 65535"),
        ("port: 1883", "keepalive_s: 1", 12, "mqtt.keepalive_s", "greater than or equal to 2", "Seconds"),
        ("audit_rate: 0.01", "audit_rate: 1.5", 13, "policy.audit_rate", "less than or equal to 1", "0 to 1"),
        ("audit_rate: 0.01", "audit_rate: .nan", 13, "policy.audit_rate", "finite number", "0 to 1"),
        ("hold", "keep", 13, "policy.review_action", "'divert', 'hold' or 'pass_and_flag'", "What the line does"),
        ("device: edge-1", "device: a/b", 1, "device.device", "should match pattern", "name"),
        ("device: edge-1", "device: 7", 1, "device.device", "valid string", "quotes"),
        (
            "parts_per_min: 120",
            "parts_per_min: fast",
            8,
            "camera.parts_per_min",
            "'max' or 'listed'",
            "Parts per minute",
        ),
        ("parts_per_min: 120", "parts_per_min: 0", 8, "camera.parts_per_min", "greater than 0", "Parts per minute"),
        ("path: photos", "path: nowhere", 7, "camera.path", "there is no", "folder of images"),
        ("path: photos", f"path: p{'9' * 300}", 7, "camera.path", "there is no", "folder of images"),
        ("../bundle", "demo-key.pub", 3, "bundle.path", "is no folder", "bundle build"),
        ("[demo-key.pub]", "[lost.pub]", 4, "bundle.demo_keys.0", "there is no", "Public key files"),
        (
            "[demo-key.pub]",
            "[demo-key.pub]\n  bank_keys: [lost.pub]",
            5,
            "bundle.bank_keys.0",
            "there is no",
            "may grow",
        ),
        ("[demo-key.pub]", "[]", 2, "bundle", "no public key", "demo-key.pub"),
        ("[demo-key.pub]", "[photos]", 4, "bundle.demo_keys.0", "is no file", "Public key files"),
        ("state_dir: state\n", "", 1, "state_dir", "the key is missing", "Folder for results"),
        ("state_dir: state\n", "state_dir: state\nstate_dir: s\n", 15, "state_dir", "appears twice", "Remove"),
        ("port: 1883", "password_file: demo-key.pub", 10, "mqtt", "username is not", "Add username"),
    ],
)
def test_one_problem_names_line_key_and_remedy(
    folder: Path, old: str, new: str, line: int, key: str, what: str, remedy: str
) -> None:
    assert old in GOOD
    (folder / "demo-key.pub").chmod(0o600)
    problem = only_problem(folder, GOOD.replace(old, new))
    assert (problem.line, problem.key) == (line, key)
    assert what in problem.what
    assert remedy in problem.remedy


def test_a_camera_section_without_a_kind_names_the_kinds(folder: Path) -> None:
    problem = only_problem(folder, GOOD.replace("  kind: replay\n", ""))
    assert problem.key == "camera.kind"
    assert "replay" in problem.remedy


def test_a_password_in_the_file_is_refused_and_never_shown(folder: Path) -> None:
    problem = only_problem(folder, GOOD.replace("port: 1883", "password: hunter2"))
    assert "hunter2" not in str(problem)
    assert "password_file" in problem.remedy


def test_a_password_file_that_everybody_may_read_is_refused(folder: Path) -> None:
    secret = folder / "password"
    secret.write_text("hunter2")
    text = GOOD.replace("port: 1883", "username: edge\n  password_file: password")
    secret.chmod(0o644)
    problem = only_problem(folder, text)
    assert "chmod o=" in problem.remedy
    assert "hunter2" not in str(problem)
    secret.chmod(0o640)
    settings_from_file(folder / "line.yaml")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to a group that is not its own")
def test_a_secret_that_a_group_of_others_may_read_is_refused(folder: Path) -> None:
    secret = folder / "password"
    secret.write_text("hunter2")
    os.chown(secret, 0, 65534)
    secret.chmod(0o640)
    problem = only_problem(folder, GOOD.replace("port: 1883", "username: edge\n  password_file: password"))
    assert "a group that is not this user's" in problem.what
    assert problem.remedy == f"Run: chmod g= {secret}"
    secret.chmod(0o600)
    settings_from_file(folder / "line.yaml")


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("device: {device: a\nmqtt: x", 2, "not valid YAML"),
        ("a: 1\n\tb: 2", 2, "not valid YAML"),
        ("a: &x 1\nb: *x", 1, "aliases"),
        ("a: " + "[" * 40 + "]" * 40, 1, "nested deeper"),
        ("a: 1\nb: !!python/object/apply:os.system ['true']", 2, "tags are not allowed"),
        ("a: 1\nb: !!python/name:os.system ''", 2, "not a plain value"),
        ("a: 1\nb: 2026-99-99", 2, "not a plain value"),
        ("a: 1\n1: 2", 2, "key must be plain text"),
        ("a: 1\n<<: {b: 1}", 2, "key must be plain text"),
        ("a: 1\nb: \x07", 2, "control character"),
        ("a: 1\n---\nb: 2", 2, "not valid YAML"),
        ("", 1, "no settings"),
        ("- 1", 1, "no settings"),
    ],
)
def test_text_that_is_not_plain_yaml_is_refused_with_its_line(folder: Path, text: str, line: int, what: str) -> None:
    problem = only_problem(folder, text)
    assert problem.line == line
    assert what in problem.what
    assert problem.remedy


def test_a_file_that_is_too_large_missing_or_not_utf8(folder: Path) -> None:
    assert "64 KB" in only_problem(folder, "a: 1 # " + "x" * MAX_BYTES).what
    with pytest.raises(ConfigError, match="No such file"):
        settings_from_file(folder / "nowhere.yaml")
    (folder / "line.yaml").write_bytes(b"a: 1\nb: \xff")
    with pytest.raises(ConfigError, match=":2: not UTF-8"):
        settings_from_file(folder / "line.yaml")


def refusal_line(data: bytes) -> int | None:
    try:
        located_yaml_from_bytes(data)
    except YamlError as error:
        return error.line
    return None


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab:{}[]&*!'\"|>-?#%@ \n\t0.,<=~", max_size=60).map(str.encode) | st.binary(max_size=60))
def test_any_bytes_are_read_or_refused_with_a_line(data: bytes) -> None:
    line = refusal_line(data)
    assert line is None or 1 <= line <= data.count(b"\n") + data.count(b"\r") + 2


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-5, 70000) | st.text("abz", max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from([*Settings.model_fields, "kind", "host", "zzz"]), inner, max_size=4)
        ),
        max_leaves=12,
    )
)
def test_any_tree_of_values_is_refused_with_problems_that_point_into_the_file(folder: Path, tree: object) -> None:
    text = "" if tree is None else yaml.safe_dump({"device": tree, "camera": tree, "mqtt": tree})
    for problem in problems_of(folder, text):
        assert 1 <= problem.line <= text.count("\n") + 1
        assert problem.what


def sections(model: type[BaseModel]) -> list[type[BaseModel]]:
    nested = [f.annotation for f in model.model_fields.values() if isinstance(f.annotation, type)]
    return [model, *(s for n in nested if issubclass(n, BaseModel) for s in sections(n))]


@pytest.mark.parametrize("section", [*sections(Settings), ReplaySettings])
def test_every_field_has_a_title_and_a_description(section: type[BaseModel]) -> None:
    assert section.model_config.get("extra") == "forbid"
    assert section.model_config.get("frozen") is True
    for name, field in section.model_fields.items():
        assert field.title, name
        assert field.description, name


@pytest.fixture
def scripted_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind of output, `scripted`."""
    scripted_output.install(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_each_output_is_checked_by_the_settings_of_its_kind(folder: Path, scripted_outputs: None) -> None:
    path = folder / "line.yaml"
    path.write_text(GOOD + "outputs:\n  - {kind: scripted, fails_at: [2]}\n  - {kind: scripted}\n")
    first, second = settings_from_file(path).outputs
    assert isinstance(first, ScriptedOutputSettings)
    assert isinstance(second, ScriptedOutputSettings)
    assert (first.fails_at, second.fails_at) == ((2,), ())


@pytest.mark.parametrize(
    ("line", "key", "what", "remedy"),
    [
        ("  - {kind: scrpted}", "outputs.1.kind", "no output kind 'scrpted'", "Did you mean 'scripted'?"),
        ("  - {fails_at: [1]}", "outputs.1.kind", "the output's kind is missing", "Installed kinds: scripted"),
        ("  - {kind: scripted, fail_at: [1]}", "outputs.1.fail_at", "unknown key", "Did you mean 'fails_at'?"),
        ("  - {kind: scripted, hangs_at: soon}", "outputs.1.hangs_at", "", "Give: The part from which it does not"),
    ],
)
def test_a_problem_of_an_output_names_its_place_and_remedy(
    folder: Path, scripted_outputs: None, line: str, key: str, what: str, remedy: str
) -> None:
    problem = only_problem(folder, GOOD + "outputs:\n  - {kind: scripted}\n" + line + "\n")
    assert (problem.key, problem.line) == (key, GOOD.count("\n") + 3)
    assert what in problem.what
    assert problem.remedy.startswith(remedy)


def test_wrong_kinds_are_reported_together_and_with_what_else_is_wrong(folder: Path, scripted_outputs: None) -> None:
    text = GOOD.replace("kind: replay", "kind: replai").replace("port: 1883", "prt: 1883")
    problems = problems_of(folder, text + "outputs: [{kind: lamp}]\n")
    assert [p.key for p in problems if p.what.startswith("no ")] == ["camera.kind", "outputs.0.kind"]
    assert any(p.key == "mqtt.prt" for p in problems)
