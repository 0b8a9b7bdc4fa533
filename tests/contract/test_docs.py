"""What the documents promise is what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel
from pydantic.alias_generators import to_snake

from edge.config.settings import BundleSettings, FramesSettings, PolicySettings, Settings
from edge.contract.payloads import Result
from edge.contract.topics import TOPICS
from edge.messages import NotInspected, Verdict
from edge.mqtt.settings import MqttSettings

ROOT = Path(__file__).parents[2]
MES, OPERATOR = ROOT / "docs/mes.md", ROOT / "docs/operator.md"


def block(path: Path, language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return found[1]


def test_the_result_that_an_mes_engineer_copies_is_a_result_with_every_field() -> None:
    example = json.loads(block(MES, "json"))
    Result.model_validate(example)
    assert {to_snake(key) for key in example} == set(Result.model_fields)


def test_the_table_of_topics_is_the_code_s() -> None:
    text = MES.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([^`]+)` \| \w+ \| (yes|no) \|", text, re.MULTILINE))
    assert rows == {topic.suffix: "yes" if topic.retain else "no" for topic in TOPICS}


def test_the_settings_that_a_technician_copies_have_keys_that_exist() -> None:
    example = yaml.safe_load(block(OPERATOR, "yaml"))
    assert set(example) <= set(Settings.model_fields)
    sections: dict[str, type[BaseModel]] = {
        "bundle": BundleSettings,
        "mqtt": MqttSettings,
        "policy": PolicySettings,
        "frames": FramesSettings,
    }
    for section, model in sections.items():
        assert set(example[section]) <= set(model.model_fields)


@pytest.mark.parametrize("word", [*Verdict, *NotInspected])
def test_every_verdict_and_every_reason_is_explained(word: Verdict | NotInspected) -> None:
    assert f"`{word.value}`" in OPERATOR.read_text(encoding="utf-8")


def test_every_file_that_the_documents_name_exists() -> None:
    for document in (ROOT / "README.md", *ROOT.glob("docs/**/*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name} names {target}"
