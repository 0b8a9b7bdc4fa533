"""The section `mqtt` of the settings file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from edge.contract.topics import Level
from edge.settings_section import ExistingFile, Integer, SecretFile, Section, text_of_integer


class MqttSettings(Section):
    """The plant's broker, and how the device connects to it."""

    host: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,253}$")] = Field(
        title="Host", description="Name or address of the MQTT broker"
    )
    port: Annotated[Integer, Field(ge=1, le=65535)] = Field(
        default=1883, title="Port", description="TCP port of the broker, 1 to 65535; usually 8883 with TLS"
    )
    client_id: Level | None = Field(
        default=None, title="Client id", description="MQTT client id; the device's name if not set"
    )
    protocol: Annotated[Literal["5", "3.1.1"], BeforeValidator(text_of_integer)] = Field(
        default="5",
        title="Protocol",
        description="MQTT version, 5 or 3.1.1; over 3.1.1 a broker cannot report a refusal",
    )
    username: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        default=None,
        title="User name",
        description="User name at the broker; default: the systemd credential mqtt-username",
    )
    password_file: SecretFile | None = Field(
        default=None,
        title="Password file",
        description="File with the password in its first line, not readable by other users; default: the systemd "
        "credential mqtt-password",
    )
    tls_ca_file: ExistingFile | None = Field(
        default=None,
        title="TLS certificate authority",
        description="PEM file of the authority that signed the broker's certificate; turns TLS on",
    )
    client_cert_file: ExistingFile | None = Field(
        default=None, title="Client certificate", description="PEM file of this device's certificate, with its chain"
    )
    client_key_file: SecretFile | None = Field(
        default=None, title="Client key", description="PEM file of its private key, not readable by other users"
    )
    keepalive_s: Annotated[Integer, Field(ge=2, le=600)] = Field(
        default=5, title="Keep-alive", description="Seconds without traffic after which a PINGREQ is sent, 2 to 600"
    )
    frames_per_min: Annotated[Integer, Field(ge=1, le=6000)] = Field(
        default=600, title="Frame rate", description="Maximum number of frames published per minute, 1 to 6000"
    )

    @model_validator(mode="after")
    def _pairs_are_complete(self) -> MqttSettings:
        if self.password_file is not None and self.username is None:
            raise PydanticCustomError(
                "no_username", "password_file is set but username is not", {"remedy": "Add username"}
            )
        if (self.client_cert_file is None) != (self.client_key_file is None):
            raise PydanticCustomError(
                "half_a_pair",
                "client_cert_file and client_key_file belong together",
                {"remedy": "Set both, or neither"},
            )
        if self.client_cert_file is not None and self.tls_ca_file is None:
            raise PydanticCustomError(
                "no_tls", "a client certificate needs TLS, which tls_ca_file turns on", {"remedy": "Add tls_ca_file"}
            )
        return self
