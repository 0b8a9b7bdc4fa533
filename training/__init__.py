"""Training, offline: a model from labelled photographs."""

import edge as edge  # turns the dependencies' usage reports off before any of them is imported
