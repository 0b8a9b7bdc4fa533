"""Names of the entries in the state directory (`state_dir` of the settings): who writes each, what its loss costs.

One device owns the directory. Only entries named here are created in it.
"""

from __future__ import annotations

OUTBOX_FILE = "outbox.db"
"""SQLite database of triggers, results, events and remembered commands; written by `edge.outbox`.

Beside it lie `outbox.db-wal` and `-shm` (SQLite's), `.lock`, `.ballast`, and `.damaged-N` for a database set aside.
Deleting it loses every result that is not yet sent, and starts a new epoch at sequence number 1.
"""

FRAMES_FOLDER = "frames"
"""PNG files of inspected parts within `frames.quota_mb`; written by `edge.frames`.

Deleting it loses the frames not yet published and the labelled frames kept for the next training, but no result.
"""

BANK_FOLDER = "bank"
"""Signed versions of the memory bank grown on this device; written by `procunit bank`, read by `edge.bank`.

Deleting it returns the device to the memory bank of its bundle.
"""

ENGINES_FOLDER = "engines"
"""Cache of engines built for this GPU, and the secret that marks them as this device's; written by `edge.engine.cache`.

Deleting it loses nothing: the next start builds the engine again, which may take minutes.
"""

ORDERS_FILE = "orders.json"
"""The signed commands in force (armed or not, thresholds); written by `edge.commands.rules_in_force`.

Deleting it returns the device to the thresholds of its bundle, armed, and starts a new state of signed commands:
those signed before are refused.
"""

COMMAND_STATE_FILE = "command-state.json"
"""The random id of this state, a secret (mode 0600) and the counter of signed commands; `edge.commands.command_state`.

Deleting it starts a new state: `orders.json` is dropped, and commands signed before are refused. A copy of the
directory on another device takes this device's signed commands: delete the file there.
"""
