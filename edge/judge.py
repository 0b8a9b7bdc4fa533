"""From a bundle on the disk to something that may judge parts: verified, in an engine, through the golden gate."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from edge.bundle import Bundle, open_bundle, trusted_key_from_file
from edge.config import BundleSettings, EngineSettings, Settings
from edge.engine import Engine
from edge.errors import ProcunitError
from edge.gate import check_golden
from edge.policy import Policy, policy_from_manifest

_logger = logging.getLogger(__name__)

BuildEngine = Callable[[Bundle, EngineSettings], Engine]


@dataclass(frozen=True)
class Judge:
    """A verified bundle in an engine that passed the golden gate, and the policy in force."""

    bundle: Bundle
    engine: Engine
    policy: Policy


def ort_engine_from_bundle(bundle: Bundle, settings: EngineSettings) -> Engine:
    """The embedded default engine.

    Raises:
        ProcunitError: the graph or the bank cannot be used, or ONNX Runtime is not installed.
    """
    try:
        from edge.engine_ort import OrtEngine  # noqa: PLC0415  (the only module that needs the extra `ort`)
    except ModuleNotFoundError as error:
        raise ProcunitError(
            "ONNX Runtime is not installed", remedy="Run: pip install 'procunit-edge[ort,opencv]'"
        ) from error
    return OrtEngine(bundle.graphs(), bundle.bank(), threads=settings.threads)


def judge_from_settings(settings: Settings, build_engine: BuildEngine) -> Judge:
    """Open the bundle, build the engine and send the golden frames through it, which also warms it up.

    Raises:
        ProcunitError: the bundle is not as it was signed, or the engine does not judge as the bundle's reference did.
    """
    bundle = _bundle(settings.bundle)
    engine = build_engine(bundle, settings.engine)
    gate = check_golden(bundle, engine)
    if not gate.passed:
        engine.close()
        raise ProcunitError(
            f"the engine does not judge as the bundle's reference did: {gate}",
            where=str(settings.bundle.path),
            remedy="Judge no part with it; go back to the last good bundle or engine",
        )
    _logger.info("engine %s passes the golden gate: %s", settings.engine.kind, gate)
    demo_key, audit_rate = bundle.signed_by.demo, settings.policy.audit_rate
    return Judge(bundle, engine, policy_from_manifest(bundle.manifest, demo_key=demo_key, audit_rate=audit_rate))


def _bundle(settings: BundleSettings) -> Bundle:
    trusted = tuple(trusted_key_from_file(path, demo=False) for path in settings.trusted_keys)
    demo = tuple(trusted_key_from_file(path, demo=True) for path in settings.demo_keys)
    bundle = open_bundle(settings.path, (*trusted, *demo))
    _logger.info(
        "bundle %s version %d (%s), signed with %s%s",
        bundle.manifest.product,
        bundle.manifest.version,
        bundle.bundle_id[:12],
        bundle.signed_by.name,
        " (demonstration key)" if bundle.signed_by.demo else "",
    )
    return bundle
