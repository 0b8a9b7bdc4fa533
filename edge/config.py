"""The daemon's settings: YAML -> validated sections, unknown keys refused."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

TopicLevel = Annotated[str, Field(pattern=r"^[^/+#$\x00-\x1f\x7f][^/+#\x00-\x1f\x7f]*$", max_length=64)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DeviceSettings(_Section):
    """Where the device stands, as ISA-95 levels; they become the root of its topics."""

    enterprise: TopicLevel | None = Field(None, title="Enterprise", description="First level of the topics")
    site: TopicLevel | None = Field(None, title="Site", description="Plant or site")
    area: TopicLevel | None = Field(None, title="Area", description="Area of the site")
    line: TopicLevel | None = Field(None, title="Line", description="Production line")
    cell: TopicLevel | None = Field(None, title="Cell", description="Work cell of the line")
    device: TopicLevel = Field(title="Device", description="Name of this device, unique in the plant")


class MqttSettings(_Section):
    """The plant's broker and how to log in to it."""

    host: str = Field(title="Host", description="Name or address of the broker", min_length=1)
    port: int = Field(1883, title="Port", description="TCP port of the broker", ge=1, le=65535)
    client_id: str | None = Field(None, title="Client id", description="MQTT client id; the device's name if absent")
    username: str | None = Field(None, title="User name", description="User name at the broker")
    password_file: Path | None = Field(
        None, title="Password file", description="File that holds the password alone; read at every connect"
    )
    tls_ca_file: Path | None = Field(
        None, title="CA file", description="Certificates (PEM) to check the broker with; TLS is used when given"
    )
    keepalive_s: int = Field(10, title="Keepalive", description="Seconds between signs of life", ge=5, le=600)
