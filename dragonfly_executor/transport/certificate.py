"""The parent's self-signed certificate, made for one listener. A runner identifies it by its fingerprint."""

from __future__ import annotations

import os
import ssl
import tempfile
from datetime import UTC, datetime, timedelta

from dragonfly_executor import errors

BACKDATED = timedelta(days=2)
"""Duration by which the certificate is backdated: a runner's clock may be behind, by a time zone and more."""
VALID = timedelta(days=60)


def make_certificate() -> tuple[bytes, bytes, bytes]:
    """Return a new self-signed certificate on P-256: as DER, as PEM, and its key as PEM.

    Raises:
        BootError: the cryptography package is not installed.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    except ImportError as error:
        text = "runners that dial back need the cryptography package: pip install 'dragonfly-executor[fly]'"
        raise errors.BootError(text) from error
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "dragonfly parent")])
    now = datetime.now(UTC)
    # Strict verification, Python 3.13's default, requires these usages of a self-signed certificate.
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + VALID)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem_key = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.DER), certificate.public_bytes(Encoding.PEM), pem_key


def load(context: ssl.SSLContext, pem: bytes, pem_key: bytes) -> None:
    """Load a certificate and its key into a context.

    A context reads only files. The file is readable by its owner only, and deleted at once.
    """
    with tempfile.TemporaryDirectory(prefix="dragonfly-") as folder:
        path = os.path.join(folder, "certificate.pem")
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(fd, pem + pem_key)
        finally:
            os.close(fd)
        context.load_cert_chain(path)
