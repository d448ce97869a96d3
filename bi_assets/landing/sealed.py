"""A message kept as it came, encrypted under `BI_QUARANTINE_KEY`: the only form in which a payload is kept.

AES-256-GCM; the key is derived from the setting (HKDF-SHA-256), the nonce is random and comes first,
and what is sealed opens only for the place in Kafka that it was sealed for.
"""

from __future__ import annotations

import os

import pyarrow as pa

_NONCE_BYTES = 12
Place = tuple[str, int, int]
"""Topic, partition, offset."""


class OtherKey(Exception):
    """What was sealed under another key can't be opened."""


def seal(message: pa.Table, place: Place, key: str) -> bytes:
    """Encrypt a table of one message."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, message.schema) as writer:
        writer.write_table(message)
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(_derived(key)).encrypt(nonce, sink.getvalue().to_pybytes(), _context(place))


def unseal(sealed: bytes, place: Place, key: str) -> pa.Table:
    """Return the table of one message. Errors: `OtherKey`."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce, text = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
    try:
        plain = AESGCM(_derived(key)).decrypt(nonce, text, _context(place))
    except InvalidTag as error:
        raise OtherKey from error
    return pa.ipc.open_stream(plain).read_all()


def _derived(key: str) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), 32, salt=None, info=b"pharmacy-bi quarantine").derive(key.encode())


def _context(place: Place) -> bytes:
    return "/".join(map(str, place)).encode()
