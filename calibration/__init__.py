"""Calibration, offline: thresholds, seeded runs and evaluation."""

import edge as edge  # turns the dependencies' usage reports off before any of them is imported
