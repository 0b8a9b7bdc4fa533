"""The members of TensorRT's objects that are used; a test checks that versions 10.3 to 11.4 have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Dims(Protocol):
    """`Dims`: a shape; -1 for a dynamic axis."""

    def __len__(self) -> int:
        """The number of axes."""
        ...

    def __getitem__(self, axis: int, /) -> int:
        """The size of one axis."""
        ...


class ICudaEngine(Protocol):
    """`ICudaEngine`: a loaded engine."""

    num_io_tensors: int

    def get_tensor_name(self, index: int) -> str:
        """The name of one input or output."""
        ...

    def get_tensor_mode(self, name: str) -> object:
        """`TensorIOMode`: input or output."""
        ...

    def get_tensor_dtype(self, name: str) -> object:
        """`DataType` of its elements."""
        ...

    def get_tensor_shape(self, name: str) -> Dims:
        """Its shape as built."""
        ...

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> Sequence[Dims]:
        """The minimum, optimum and maximum shape of an input with dynamic axes."""
        ...

    def create_execution_context(self) -> IExecutionContext | None:
        """A context that runs the engine; None if there is too little memory."""
        ...


class IExecutionContext(Protocol):
    """`IExecutionContext`: runs an engine; used by one thread."""

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        """Set the shape of an input with dynamic axes; False if the engine was not built for it."""
        ...

    def get_tensor_shape(self, name: str) -> Dims:
        """The shape that follows from the input shapes."""
        ...

    def set_tensor_address(self, name: str, memory: int) -> bool:
        """Set the GPU address of an input or output, aligned to 256 bytes; False if it is refused."""
        ...

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Enqueue one run on the stream; False if it is refused."""
        ...
