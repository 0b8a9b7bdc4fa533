"""The network in INT8: quantize and dequantize nodes around convolutions of the trunk, all else in half precision.

Quantization is symmetric with zero point 0, as TensorRT requires: one scale per output channel for weights, one scale
per convolution for its input, from the largest value on photographs. Which convolutions: docs/decisions/0006.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.onnx.ops import symbolic
from torch.utils.hooks import RemovableHandle

from export.graph.precision import Fp16Trunk, hooked, to_fp16
from training.model import InspectionModel

MIN_QUANTIZED_STRIDE = 8
"""Convolutions on a finer grid lose the most accuracy in INT8, so they stay in half precision."""
_LOWEST, _HIGHEST = -128, 127
_SMALLEST_SCALE = 1e-8


class QuantizedConv(nn.Module):
    """A convolution of INT8 inputs with INT8 weights; features enter and leave in the trunk's precision.

    Scales are FP32, with casts around, because QuantizeLinear takes FP16 only from opset 19 on.
    """

    weight: Tensor
    weight_scale: Tensor
    weight_zero: Tensor
    bias: Tensor
    input_scale: Tensor
    input_zero: Tensor

    def __init__(self, conv: nn.Conv2d, largest_input: float) -> None:
        super().__init__()
        weight = conv.weight.detach()
        scale = (weight.abs().amax((1, 2, 3)) / _HIGHEST).clamp(min=_SMALLEST_SCALE)
        self.register_buffer("weight", _quantize(weight, scale.view(-1, 1, 1, 1)).to(torch.int8))
        self.register_buffer("weight_scale", scale)
        self.register_buffer("weight_zero", torch.zeros(len(scale), dtype=torch.int8))
        self.register_buffer("bias", torch.zeros_like(scale) if conv.bias is None else conv.bias.detach().clone())
        self.register_buffer("input_scale", torch.tensor(max(largest_input / _HIGHEST, _SMALLEST_SCALE)))
        self.register_buffer("input_zero", torch.tensor(0, dtype=torch.int8))
        self.stride, self.padding, self.dilation = conv.stride, conv.padding, conv.dilation

    def forward(self, features: Tensor) -> Tensor:
        """`features` [N, C, h, w]."""
        dequantized_input, weight = (
            self._qdq_nodes(features) if torch.onnx.is_in_onnx_export() else self._fake_quantized(features)
        )
        result = F.conv2d(dequantized_input, weight, self.bias, self.stride, self.padding, self.dilation)
        return result.to(features.dtype)

    def _fake_quantized(self, features: Tensor) -> tuple[Tensor, Tensor]:
        dequantized_input = _quantize(features.float(), self.input_scale) * self.input_scale
        return dequantized_input, self.weight.float() * self.weight_scale.view(-1, 1, 1, 1)

    def _qdq_nodes(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The same as ONNX QuantizeLinear and DequantizeLinear nodes; the weights are stored as INT8."""
        quantize_arguments = (features.float(), self.input_scale, self.input_zero)
        levels = symbolic("QuantizeLinear", quantize_arguments, dtype=torch.int8, shape=features.shape)
        dequantized_input = symbolic(
            "DequantizeLinear",
            (levels, self.input_scale, self.input_zero),
            dtype=torch.float32,
            shape=features.shape,
        )
        stored = (self.weight, self.weight_scale, self.weight_zero)
        weight = symbolic("DequantizeLinear", stored, {"axis": 0}, dtype=torch.float32, shape=self.weight.shape)
        return dequantized_input, weight


def to_int8(model: InspectionModel, frames_u8: Sequence[NDArray[np.uint8]]) -> InspectionModel:
    """Quantize a copy of a model with folded batch norms; ranges come from the photographs' tiles [N, H, W, C].

    Each convolution's mean error on the photographs is subtracted from its bias (Nagel et al., ICCV 2019, section 4.2).
    """
    largest = _input_ranges(model, frames_u8)
    quantized = {name: QuantizedConv(_convolution(model, name), value) for name, value in largest.items()}
    _correct_biases(model, quantized, frames_u8)
    half = to_fp16(model)
    if not isinstance(half.trunk, Fp16Trunk):
        raise TypeError("the half-precision model has no Fp16Trunk")
    for name, conv in quantized.items():
        half.trunk.trunk.set_submodule(name, conv)
    return half.eval()


def _input_ranges(model: InspectionModel, frames_u8: Sequence[NDArray[np.uint8]]) -> dict[str, float]:
    """The convolutions to quantize, by name, and the largest absolute input of each.

    Not quantized: depthwise convolutions, the stem, squeeze-excite (its grid is one cell) and fine grids.
    """
    largest: dict[str, float] = {}
    names: dict[nn.Module, str] = {
        module: name
        for name, module in model.trunk.named_modules()
        if type(module) is nn.Conv2d and module.groups == 1  # subclasses pad differently
    }

    def watch(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        height = inputs[0].shape[2]
        if 1 < height <= frames_u8[0].shape[1] // MIN_QUANTIZED_STRIDE:
            largest[names[module]] = max(largest.get(names[module], 0.0), float(inputs[0].abs().max()))

    _run(model, frames_u8, [module.register_forward_pre_hook(watch) for module in names])
    return largest


def _correct_biases(
    model: InspectionModel, quantized: dict[str, QuantizedConv], frames_u8: Sequence[NDArray[np.uint8]]
) -> None:
    errors: dict[str, Tensor] = {}
    names: dict[nn.Module, str] = {_convolution(model, name): name for name in quantized}

    def compare(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        name = names[module]
        error = (quantized[name](inputs[0]) - output).mean((0, 2, 3))
        errors[name] = errors[name] + error if name in errors else error

    _run(model, frames_u8, [module.register_forward_hook(compare) for module in names])
    for name, conv in quantized.items():
        conv.bias -= errors[name] / len(frames_u8)


def _run(model: InspectionModel, frames_u8: Sequence[NDArray[np.uint8]], hooks: Sequence[RemovableHandle]) -> None:
    with hooked(hooks), torch.no_grad():
        for tiles_u8 in frames_u8:
            model.taps(torch.from_numpy(tiles_u8))


def _quantize(values: Tensor, scale: Tensor) -> Tensor:
    return (values / scale).round().clamp(_LOWEST, _HIGHEST)


def _convolution(model: InspectionModel, name: str) -> nn.Conv2d:
    module = model.trunk.get_submodule(name)
    if not isinstance(module, nn.Conv2d):
        raise TypeError(f"{name} is not a convolution")
    return module
