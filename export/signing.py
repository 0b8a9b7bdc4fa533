"""The demo key pair of a run, for demonstrations only; a production key comes from the plant."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from edge.bundle.keys import DEMO_MARK, SigningKey, signing_key_from_file
from edge.system.files import write_whole
from training.data.run_files import DEMO_KEY_FILE, DEMO_PUBLIC_KEY_FILE


def demo_key_from_run(run: Path) -> SigningKey:
    """Load the run's demo key, or create the pair; only the owner can read the private key file.

    Raises:
        ProcunitError: the key file does not contain a key.
    """
    private = run / DEMO_KEY_FILE
    if not private.exists():
        key = Ed25519PrivateKey.generate()
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_whole(private, DEMO_MARK + pem, mode=0o600)
    signing_key = signing_key_from_file(private)
    public = signing_key.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (run / DEMO_PUBLIC_KEY_FILE).write_bytes(DEMO_MARK + public)
    return signing_key
