"""`make demo`: from photographs to verdicts on a broker, by the product's own commands, then a closing summary."""
