"""What lies in the state directory, by name and lifetime."""

from __future__ import annotations

BANK_FOLDER = "bank"


OUTBOX_FILE, FRAMES_FOLDER = "outbox.db", "frames"
"""What lies in the state directory, beside what `edge.line.line` names."""


ENGINES_FOLDER, ORDERS_FILE = "engines", "orders.json"
"""What lies in the state directory, beside the outbox and the frames."""
