"""Export, offline: ONNX graphs, memory bank and signed bundle of a trained run."""

import edge as edge  # turns the dependencies' usage reports off before any of them is imported
