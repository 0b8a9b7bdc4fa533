"""`make demo`: from photographs to verdicts on an MQTT broker with the product's own commands, then a summary."""
