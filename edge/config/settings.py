"""The sections of the settings file, one frozen model each; `edge.config.file` reads the file."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SerializeAsAny, model_validator
from pydantic_core import PydanticCustomError

from edge.camera.source import CameraSettings
from edge.contract.commands import ALLOWED_UNLESS_SET, CommandName
from edge.contract.payloads import ReviewAction
from edge.contract.topics import DeviceSettings
from edge.engine.settings import EngineSettings
from edge.mqtt.settings import MqttSettings
from edge.settings_section import (
    ExistingFile,
    ExistingFolder,
    FilePath,
    Integer,
    Section,
    StrictNumber,
)


class BundleSettings(Section):
    """The bundle, and the public keys that are trusted to sign it."""

    path: ExistingFolder = Field(title="Bundle", description="The directory that `procunit bundle build` made")
    trusted_keys: tuple[ExistingFile, ...] = Field(
        default=(),
        title="Trusted keys",
        description="Public key files (.pub) of those who may release bundles; one marked as a demo key stays one",
    )
    demo_keys: tuple[ExistingFile, ...] = Field(
        default=(),
        title="Demo keys",
        description="Public key files (.pub) for demonstrations: their bundles never really reject",
    )
    bank_keys: tuple[ExistingFile, ...] = Field(
        default=(),
        title="Bank keys",
        description="Public key files (.pub) of those who may grow the memory bank at the line, and nothing else",
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


class PolicySettings(Section):
    """Decisions of the plant; thresholds and authority come with the bundle."""

    review_action: ReviewAction = Field(
        default="divert", title="Review action", description="What the line does with a part that a person must inspect"
    )
    audit_rate: Annotated[StrictNumber, Field(ge=0, le=1)] = Field(
        default=0.01,
        title="Audit rate",
        description="Share of passed parts drawn for a second inspection by a person, 0 to 1",
    )


class InspectionSettings(Section):
    """How far inspection may fall behind before a part becomes `not_inspected: overload`."""

    frame_slots: Annotated[Integer, Field(ge=1, le=64)] = Field(
        default=4, title="Frame slots", description="Frames that may wait for inspection, 1 to 64"
    )
    deadline_s: Annotated[StrictNumber, Field(ge=0.05, le=60)] = Field(
        default=2.0, title="Deadline", description="Seconds from the trigger after which a verdict is too late"
    )


class FramesSettings(Section):
    """The image files that this device stores."""

    quota_mb: Annotated[Integer, Field(ge=1, le=1_000_000)] = Field(
        default=2048, title="Quota", description="Disk space for stored images, in megabytes"
    )


class CommandSettings(Section):
    """The commands that the plant may send; those that change decisions must also be signed."""

    allowed: tuple[CommandName, ...] = Field(
        default=ALLOWED_UNLESS_SET,
        title="Allowed",
        description="Commands that the device accepts; add arm, disarm and threshold (signed only) if they are needed",
    )


class Settings(Section):
    """The whole settings file; relative paths are relative to its folder."""

    device: DeviceSettings = Field(title="Device", description="The device's place in the plant, and its name")
    bundle: BundleSettings = Field(title="Bundle", description="The bundle to inspect with")
    camera: SerializeAsAny[CameraSettings] = Field(title="Camera", description="The source of frames")
    mqtt: MqttSettings = Field(title="MQTT", description="The plant's broker")
    policy: PolicySettings = Field(
        default=PolicySettings(), title="Policy", description="What the plant does with verdicts"
    )
    engine: EngineSettings = Field(default=EngineSettings(), title="Engine", description="The runtime of the network")
    inspection: InspectionSettings = Field(
        default=InspectionSettings(),
        title="Inspection",
        description="When a part counts as coming too fast to be inspected",
    )
    frames: FramesSettings = Field(default=FramesSettings(), title="Frames", description="The stored image files")
    commands: CommandSettings = Field(
        default=CommandSettings(), title="Commands", description="The commands that the plant may send"
    )
    state_dir: FilePath = Field(
        title="State",
        description="Folder for results and frames; used by this device alone, and kept over restarts",
    )
