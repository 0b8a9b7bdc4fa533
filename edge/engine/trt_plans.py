"""Load TensorRT plans from files, and check them against the bundle before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edge.engine.protocol import StoredFile, UnfitPlanError
from edge.engine.trt_library import TensorRT
from edge.engine.trt_types import Dims, ICudaEngine, IExecutionContext
from edge.errors import ProcunitError

MAX_PLAN_BYTES = 2 << 30

IMAGE_INPUT, BANK_INPUT = "image", "bank"
_REBUILD = "Build it again for this bundle: procunit engine build"


def engine_from_plan(plan: StoredFile, library: TensorRT) -> ICudaEngine:
    """Load a plan onto the GPU.

    Raises:
        ProcunitError: the file cannot be read.
        UnfitPlanError: it is damaged or exchanged, or was built by another version of TensorRT or on another GPU.
    """
    try:
        content = plan.read_bytes()
    except OSError as error:
        raise ProcunitError(f"the engine cannot be read: {error.strerror}", where=str(plan), remedy=_REBUILD) from error
    except ProcunitError as error:
        raise UnfitPlanError(error.what, where=error.where, remedy=_REBUILD) from error
    library.clear_messages()
    engine: ICudaEngine | None = library.module.Runtime(library.logger).deserialize_cuda_engine(content)
    if engine is None:
        raise UnfitPlanError(
            f"{library.name} {library.version} cannot load the engine, which is damaged or was made by another version "
            f"or on another GPU{library.recent_errors_suffix()}",
            where=str(plan),
            remedy=_REBUILD,
        )
    return engine


def check_tensors(
    engines: Sequence[ICudaEngine], library: TensorRT, image_shape: tuple[int, ...], types: int, where: str
) -> tuple[tuple[str, ...], ...]:
    """Check the inputs and outputs against the bundle; returns the tensor names of each engine.

    Raises:
        UnfitPlanError: a name, a mode, an element type or the image's shape does not fit the bundle.
    """
    trt = library.module
    names = tuple(tuple(engine.get_tensor_name(i) for i in range(engine.num_io_tensors)) for engine in engines)
    inputs: set[str] = set()
    outputs: list[str] = []
    for engine, tensors in zip(engines, names, strict=True):
        for name in tensors:
            is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            inputs |= {name} if is_input else set()
            outputs += [] if is_input else [name]
            wanted = trt.DataType.UINT8 if name == IMAGE_INPUT else trt.DataType.FLOAT
            if engine.get_tensor_dtype(name) != wanted:
                raise _unfit(f"{name!r} is {engine.get_tensor_dtype(name)} instead of {wanted}", where)
        if IMAGE_INPUT in tensors and not _fits(shape_from_dims(engine.get_tensor_shape(IMAGE_INPUT)), image_shape):
            built = shape_from_dims(engine.get_tensor_shape(IMAGE_INPUT))
            raise _unfit(f"its image is {built} instead of {image_shape}", where)
    if inputs != {IMAGE_INPUT, BANK_INPUT} or sorted(outputs) != sorted(_output_axes(0, types)):
        raise _unfit(f"its inputs are {_listed(inputs)}, its outputs {_listed(outputs)}", where)
    return names


def largest_bank(engines: Sequence[ICudaEngine]) -> tuple[int, int]:
    """Rows and columns of the largest bank that the engines were built for."""
    for engine in engines:
        if BANK_INPUT in (engine.get_tensor_name(i) for i in range(engine.num_io_tensors)):
            _, _, largest = engine.get_tensor_profile_shape(BANK_INPUT, 0)
            return largest[0], largest[1]
    raise ValueError("no engine has a bank as input")


def output_shapes(
    contexts: Iterable[tuple[IExecutionContext, Sequence[str]]], tiles: int, types: int, where: str
) -> dict[str, tuple[int, ...]]:
    """The shape of each output, after the input shapes are set: tiles and types as in the bundle, maps of any size.

    Raises:
        UnfitPlanError: an output has another shape.
    """
    axes = _output_axes(tiles, types)
    shapes: dict[str, tuple[int, ...]] = {}
    for context, tensors in contexts:
        for name in (name for name in tensors if name in axes):
            shape = shape_from_dims(context.get_tensor_shape(name))
            if min(shape, default=0) < 1 or not _fits(axes[name], shape):
                raise _unfit(f"{name!r} is {shape} for {tiles} tiles and {types} defect types", where)
            shapes[name] = shape
    return shapes


def shape_from_dims(dims: Dims) -> tuple[int, ...]:
    """A TensorRT shape as a tuple; -1 for a dynamic axis."""
    return tuple(dims[axis] for axis in range(len(dims)))


def _output_axes(tiles: int, types: int) -> dict[str, tuple[int, ...]]:
    axes: dict[str, tuple[int, ...]] = {"anomaly_map": (tiles, -1, -1), "anomaly_score": (tiles,)}
    return axes | ({"logits": (tiles, types), "defect_maps": (tiles, types, -1, -1)} if types else {})


def _fits(open_shape: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    return len(open_shape) == len(shape) and all(a in (-1, b) for a, b in zip(open_shape, shape, strict=True))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _unfit(what: str, where: str) -> UnfitPlanError:
    return UnfitPlanError(f"the engine does not fit the bundle: {what}", where=where, remedy=_REBUILD)
