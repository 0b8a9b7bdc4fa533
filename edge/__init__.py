"""What runs on the device. Importing it turns the dependencies' usage reports off, before any of them is imported."""

from edge.system.telemetry import switch_off

switch_off()
