"""The cluster's certificate authority: the one key that can say "this machine belongs to us".

The problem: whoever can reach the server's port must not be able to pose as a node, or as the server. The idea: one key
pair per cluster, made at the first start, signs a certificate for every machine; who knows the authority's certificate
can check all of them and needs no list. The key never leaves the server's state directory except in a backup, where it
is encrypted: without it, a restored cluster would be one that no node trusts.

Who does this for real: swarmkit's `ca/`, kubeadm's /etc/kubernetes/pki. Where we differ: the authority is not renewed.
It lasts ten years. Next file: `miniorch/tokens.py`.
"""

import datetime
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from miniorch.certificates import SKEW_SECONDS, Subject, certificate_for
from miniorch.errors import Conflict, UsageError
from miniorch.identity import AUTHORITY_FILE as CERTIFICATE_FILE
from miniorch.identity import AUTHORITY_KEY_FILE as KEY_FILE

LIFE = datetime.timedelta(days=3653)  # ten years
SKEW = datetime.timedelta(seconds=SKEW_SECONDS)


@dataclass(frozen=True, slots=True)
class Authority:
    """A private key and the certificate that it has signed for itself, both PEM."""

    certificate: str
    key: str

    @classmethod
    def make(cls, cluster: str, now: float) -> "Authority":
        """A new one for a cluster (its id), at `now` (seconds since 1970)."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.COMMON_NAME, "miniorch authority"),
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, cluster),
            ]
        )
        begin = datetime.datetime.fromtimestamp(now, datetime.UTC)
        own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        signs = x509.KeyUsage(False, False, False, False, False, True, True, False, False)  # certificates, their end
        certificate = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(begin - SKEW)
            .not_valid_after(begin + LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(signs, critical=True)
            .add_extension(own, critical=False)
            .sign(key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return cls(certificate.public_bytes(pem).decode(), secret.decode())

    @classmethod
    def load(cls, folder: Path) -> "Authority | None":
        """The one in a state directory, if there is one. Raises `Conflict` if its parts do not belong together."""
        try:
            found = cls((folder / CERTIFICATE_FILE).read_text(), (folder / KEY_FILE).read_text())
        except FileNotFoundError:
            return None
        try:
            found.check()
        except UsageError as error:
            raise Conflict(f"{folder / KEY_FILE}: {error.message}", remedy="miniorch restore FILE --force") from None
        return found

    def check(self) -> None:
        """Raises `UsageError` unless the key is that of the certificate."""
        try:
            key = serialization.load_pem_private_key(self.key.encode(), None)
            same = x509.load_pem_x509_certificate(self.certificate.encode()).public_key() == key.public_key()
        except (ValueError, TypeError):
            same = False
        if not same:
            raise UsageError("the authority's key is damaged, or is not that of its certificate")

    def sign(self, subject: Subject, key: ec.EllipticCurvePublicKey) -> str:
        """A certificate (PEM) that says that `key` is `subject`'s."""
        own = serialization.load_pem_private_key(self.key.encode(), None)
        assert isinstance(own, ec.EllipticCurvePrivateKey)
        authority = x509.load_pem_x509_certificate(self.certificate.encode())
        signed = certificate_for(subject, key, authority).sign(own, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM).decode()

    def save(self, folder: Path) -> None:
        """Write both files, readable by their owner alone, the key first: a certificate says that its key is there."""
        write_private(folder / KEY_FILE, self.key.encode())
        write_private(folder / CERTIFICATE_FILE, self.certificate.encode())


def write_private(path: Path, data: bytes) -> None:
    """A file that only its owner may read, on the disk as a whole or not at all, whenever we are killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the name, too
    finally:
        os.close(folder)
