"""What the runtime uses of TensorRT's objects; each is in every version from 10.3 to 11.4, which a test holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Dims(Protocol):
    """`Dims`: a shape; -1 where it is open."""

    def __len__(self) -> int:
        """The number of axes."""
        ...

    def __getitem__(self, axis: int, /) -> int:
        """One axis."""
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
        """Its shape as it was built."""
        ...

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> Sequence[Dims]:
        """The smallest, the usual and the largest shape of an input that was built with an open one."""
        ...

    def create_execution_context(self) -> IExecutionContext | None:
        """Something that runs it; None without memory for it."""
        ...


class IExecutionContext(Protocol):
    """`IExecutionContext`: runs an engine; used by one thread."""

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        """Fix an open shape; false if the engine was not built for it."""
        ...

    def get_tensor_shape(self, name: str) -> Dims:
        """The shape that follows from the inputs'."""
        ...

    def set_tensor_address(self, name: str, memory: int) -> bool:
        """Where an input or output lies on the GPU, aligned to 256 bytes."""
        ...

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Put one run onto the stream; false if it was refused."""
        ...
