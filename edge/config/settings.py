"""The sections of the settings file, one frozen model each; `edge.config.file` reads them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator
from pydantic_core import PydanticCustomError

from edge.camera.source import CameraSettings
from edge.contract.commands import CommandName
from edge.contract.payloads import ReviewAction
from edge.engine.settings import EngineSettings
from edge.settings_section import (
    ExistingFile,
    ExistingFolder,
    FilePath,
    Integer,
    Number,
    SecretFile,
    Section,
    text_of_integer,
)

Level = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
"""One level of a topic: letters, digits, `_`, `.` and `-`."""


class DeviceSettings(Section):
    """Where the device stands: the levels above it in the plant's topic tree (ISA-95), each optional, and its name."""

    enterprise: Level | None = Field(default=None, title="Enterprise", description="Topic level of the enterprise")
    site: Level | None = Field(default=None, title="Site", description="Topic level of the site")
    area: Level | None = Field(default=None, title="Area", description="Topic level of the area")
    line: Level | None = Field(default=None, title="Line", description="Topic level of the line")
    cell: Level | None = Field(default=None, title="Cell", description="Topic level of the cell")
    device: Level = Field(
        title="Device", description="This device's name, different from every other on the broker (A-Z a-z 0-9 _ . -)"
    )


class BundleSettings(Section):
    """The bundle and the public keys it may be signed with."""

    path: ExistingFolder = Field(title="Bundle", description="The directory that `procunit bundle build` made")
    trusted_keys: tuple[ExistingFile, ...] = Field(
        default=(), title="Trusted keys", description="Public key files (.pub) of whoever may release bundles"
    )
    demo_keys: tuple[ExistingFile, ...] = Field(
        default=(),
        title="Demo keys",
        description="Public key files of demonstrations: their bundles never really reject",
    )
    bank_keys: tuple[ExistingFile, ...] = Field(
        default=(),
        title="Bank keys",
        description="Public key files (.pub) of whoever may grow the memory bank at the line, and nothing else",
    )

    @model_validator(mode="after")
    def _some_key(self) -> BundleSettings:
        if not self.trusted_keys and not self.demo_keys:
            raise PydanticCustomError(
                "no_key",
                "no public key is named, so no bundle can be trusted",
                {"remedy": "Name the signer's .pub file under trusted_keys, or the run's demo-key.pub under demo_keys"},
            )
        return self


class MqttSettings(Section):
    """The plant's broker."""

    host: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,253}$")] = Field(
        title="Host", description="Name or address of the MQTT broker"
    )
    port: Annotated[Integer, Field(ge=1, le=65535)] = Field(
        default=1883, title="Port", description="TCP port of the broker, 1 to 65535; usually 8883 with TLS"
    )
    client_id: Level | None = Field(
        default=None, title="Client id", description="MQTT client id; the device's name if left out"
    )
    protocol: Annotated[Literal["5", "3.1.1"], BeforeValidator(text_of_integer)] = Field(
        default="5", title="Protocol", description="MQTT version, 5 or 3.1.1; a 3.1.1 broker cannot say what it refused"
    )
    username: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        default=None, title="User name", description="User name at the broker; or the systemd credential mqtt-username"
    )
    password_file: SecretFile | None = Field(
        default=None,
        title="Password file",
        description="File whose first line is the password, closed to others; or the systemd credential mqtt-password",
    )
    tls_ca_file: ExistingFile | None = Field(
        default=None, title="TLS certificate authority", description="PEM file of the broker's authority; turns TLS on"
    )
    client_cert_file: ExistingFile | None = Field(
        default=None, title="Client certificate", description="PEM file of this device's certificate, with its chain"
    )
    client_key_file: SecretFile | None = Field(
        default=None, title="Client key", description="PEM file of the certificate's private key; closed to other users"
    )
    keepalive_s: Annotated[Integer, Field(ge=2, le=600)] = Field(
        default=5, title="Keep-alive", description="Seconds of silence after which both sides ask for a sign of life"
    )
    frames_per_min: Annotated[Integer, Field(ge=1, le=6000)] = Field(
        default=600, title="Frame rate", description="Frames that may be published in a minute, 1 to 6000"
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
                {"remedy": "Name both, or neither"},
            )
        if self.client_cert_file is not None and self.tls_ca_file is None:
            raise PydanticCustomError(
                "no_tls", "a client certificate needs TLS, which tls_ca_file turns on", {"remedy": "Add tls_ca_file"}
            )
        return self


class PolicySettings(Section):
    """What the plant decides; thresholds and authority come with the bundle."""

    review_action: ReviewAction = Field(
        default="divert", title="Review action", description="What the line does with a part that a person must look at"
    )
    audit_rate: Annotated[Number, Field(ge=0, le=1)] = Field(
        default=0.01, title="Audit rate", description="Share of passes drawn for a person's second look, 0 to 1"
    )


class InspectionSettings(Section):
    """How far inspection may fall behind before a part is let go as `not_inspected: overload`."""

    frame_slots: Annotated[Integer, Field(ge=1, le=64)] = Field(
        default=4, title="Frame slots", description="Frames that may wait for inspection, 1 to 64"
    )
    deadline_s: Annotated[Number, Field(ge=0.05, le=60)] = Field(
        default=2.0, title="Deadline", description="Seconds from the trigger after which a verdict would come too late"
    )


class FramesSettings(Section):
    """The store of image files on this device."""

    quota_mb: Annotated[Integer, Field(ge=1, le=1_000_000)] = Field(
        default=2048, title="Quota", description="Megabytes that stored images may take"
    )


class CommandSettings(Section):
    """What the plant may ask of this device; what changes a decision needs a signature besides."""

    allowed: tuple[CommandName, ...] = Field(
        default=("status", "replay", "snapshot", "frame", "part-id", "label"),
        title="Allowed",
        description="Commands that are carried out; arm, disarm and threshold (signed only) have to be added",
    )


class Settings(Section):
    """The whole settings file; relative paths start at its folder."""

    device: DeviceSettings = Field(title="Device", description="Where the device stands and what it is called")
    bundle: BundleSettings = Field(title="Bundle", description="What the device was taught")
    camera: SerializeAsAny[CameraSettings] = Field(title="Camera", description="Where frames come from")
    mqtt: MqttSettings = Field(title="MQTT", description="The plant's broker")
    policy: PolicySettings = Field(
        default=PolicySettings(), title="Policy", description="What the plant does with verdicts"
    )
    engine: EngineSettings = Field(default=EngineSettings(), title="Engine", description="What runs the network")
    inspection: InspectionSettings = Field(
        default=InspectionSettings(), title="Inspection", description="When a part comes too fast to be judged"
    )
    frames: FramesSettings = Field(default=FramesSettings(), title="Frames", description="The store of image files")
    commands: CommandSettings = Field(
        default=CommandSettings(), title="Commands", description="What the plant may ask of this device"
    )
    state_dir: FilePath = Field(
        title="State",
        description="Folder for results and frames; it belongs to this device alone and survives restarts",
    )
