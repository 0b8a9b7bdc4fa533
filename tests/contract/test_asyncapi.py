"""The AsyncAPI document is valid, says what the table of topics says, and its examples are what the device takes."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from edge.bundle.keys import TrustedKey
from edge.commands.signature import signer_of_command
from edge.commands.table import COMMANDS
from edge.contract.payloads import Payload, bytes_from_payload
from edge.contract.topics import TOPICS, Topic
from tests.contract.examples import NAMES, example, request_examples
from tools.contract.page import page_from_asyncapi
from tools.contract.schemas import DOCS, MODELS, SCHEMAS_DIR

HERE = Path(__file__).parent
ROOT = "acme/graz/line-1/edge-1/v1"
RFC_8032_TEST_1 = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
"""The public key whose secret half stands in RFC 8032, section 7.1: everybody can make the examples' signatures."""


@cache
def document() -> dict[str, Any]:
    loaded = yaml.safe_load((DOCS / "asyncapi.yaml").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def test_the_document_is_valid_asyncapi_3() -> None:
    schema = json.loads((HERE / "asyncapi/3.0.0.json").read_text(encoding="utf-8"))
    errors = [
        f"{list(e.absolute_path)}: {e.message[:200]}"
        for e in jsonschema.Draft7Validator(schema).iter_errors(document())
    ]
    assert errors == []


def test_a_broken_document_would_be_found() -> None:
    schema = json.loads((HERE / "asyncapi/3.0.0.json").read_text(encoding="utf-8"))
    broken = {**document(), "operations": {"sendResult": {"action": "publish"}}}
    assert not jsonschema.Draft7Validator(schema).is_valid(broken)


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_every_topic_has_its_channel_with_its_promises(topic: Topic) -> None:
    address = f"{{root}}/{topic.suffix}"
    ids = [name for name, channel in document()["channels"].items() if channel["address"] == address]
    assert len(ids) == 1
    operations = [o for o in document()["operations"].values() if o["channel"]["$ref"] == f"#/channels/{ids[0]}"]
    assert [operation["action"] for operation in operations] == ["send" if topic.direction == "out" else "receive"]
    assert operations[0]["bindings"]["mqtt"] == {"qos": topic.qos, "retain": topic.retain}


def test_there_is_no_channel_beside_the_table_and_no_command_beside_its() -> None:
    assert len(document()["channels"]) == len(TOPICS)
    assert list(document()["channels"]["command"]["messages"]) == list(COMMANDS)
    assert document()["components"]["parameters"]["name"]["enum"] == list(COMMANDS)
    for kind in COMMANDS.values():
        message = document()["components"]["messages"][f"command-{kind.name}"]
        assert message["summary"] == kind.text + (" Signed." if kind.signed else "")


def test_every_reference_leads_to_something_and_every_schema_is_referred_to() -> None:
    files = set()

    def follow(node: object) -> None:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                target = node["$ref"]
                if target.startswith("#/"):
                    found: Any = document()
                    for key in target[2:].split("/"):
                        found = found[key]
                else:
                    files.add(DOCS / target)
            for value in node.values():
                follow(value)

    follow(document())
    assert files == set(SCHEMAS_DIR.iterdir())


def test_the_page_is_rendered_from_the_document() -> None:
    stored = (DOCS / "asyncapi.html").read_text(encoding="utf-8")
    assert stored == page_from_asyncapi(DOCS / "asyncapi.yaml"), "run: python -m tools.contract"
    assert "<script" not in stored
    assert "http" not in stored.replace("https://json-schema.org", "")


@pytest.mark.parametrize("name", NAMES)
def test_every_example_fits_its_schema_and_goes_through_the_model_unchanged(name: str) -> None:
    schema_name = name.partition(".")[0]
    schema = json.loads((SCHEMAS_DIR / f"{schema_name}.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(example(name))
    model = MODELS[schema_name].model_validate_json(json.dumps(example(name)))
    if isinstance(model, Payload):
        assert json.loads(bytes_from_payload(model)) == example(name)
    else:
        assert model.model_dump(mode="json", by_alias=True, exclude_unset=True) == example(name)


def test_every_payload_has_an_example() -> None:
    assert {name.partition(".")[0] for name in NAMES} == set(MODELS)


def test_the_signed_examples_are_signed_with_the_key_that_everybody_knows() -> None:
    known = TrustedKey("rfc-8032", Ed25519PublicKey.from_public_bytes(RFC_8032_TEST_1), demo=True)
    signed = [(name, envelope) for name, envelope in request_examples() if "signature" in envelope]
    assert {name for name, _ in signed} == {kind.name for kind in COMMANDS.values() if kind.signed}
    for name, envelope in signed:
        assert signer_of_command(ROOT, name, envelope, str(envelope["signature"]), (known,)) is known
