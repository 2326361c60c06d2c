"""The cluster's certificate authority: the one key that can say "this machine belongs to us".

The problem: whoever can reach the server's port must not be able to pose as a node, or as the server. The idea: one key
pair per cluster, made at the first start, signs a certificate for every machine; who knows the authority's certificate
can check all of them and needs no list. The key never leaves the server's state directory except in a backup, where it
is encrypted: without it, a restored cluster would be one that no node trusts.

Who does this for real: swarmkit's `ca/`, kubeadm's /etc/kubernetes/pki. Where we differ: the authority is not renewed.
It lasts ten years. Next file: `miniorch/tokens.py`.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from miniorch.certificates import PEM, SKEW_SECONDS, Subject, certificate_for, new_key, private_key
from miniorch.errors import Conflict, UsageError
from miniorch.identity import AUTHORITY_FILE as CERTIFICATE_FILE
from miniorch.identity import AUTHORITY_KEY_FILE as KEY_FILE
from miniorch.identity import KEY_FILE as OWN_KEY_FILE

LIFE_SECONDS = 3653 * 86400.0  # ten years


@dataclass(frozen=True, slots=True)
class Authority:
    """A private key and the certificate that it has signed for itself, both PEM."""

    certificate: str
    key: str

    @classmethod
    def make(cls, cluster: str, now: float) -> "Authority":
        """A new one for a cluster (its id), at `now` (seconds since 1970)."""
        key, until = new_key(), now + LIFE_SECONDS
        own = Subject("miniorch authority", "", cluster, since=now - SKEW_SECONDS, until=until)
        signed = certificate_for(own, private_key(key).public_key(), None).sign(private_key(key), hashes.SHA256())
        return cls(signed.public_bytes(PEM).decode(), key)

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
            certificate = x509.load_pem_x509_certificate(self.certificate.encode())
            same = certificate.public_key() == private_key(self.key).public_key()
        except (ValueError, TypeError):
            same = False
        if not same:
            raise UsageError("the authority's key is damaged, or is not that of its certificate")

    def sign(self, subject: Subject, key: ec.EllipticCurvePublicKey) -> str:
        """A certificate (PEM) that says that `key` is `subject`'s."""
        authority = x509.load_pem_x509_certificate(self.certificate.encode())
        signed = certificate_for(subject, key, authority).sign(private_key(self.key), hashes.SHA256())
        return signed.public_bytes(PEM).decode()

    def save(self, folder: Path) -> None:
        """Write both files, readable by their owner alone, the key first: a certificate says that its key is there."""
        write_private(folder / KEY_FILE, self.key.encode())
        write_private(folder / CERTIFICATE_FILE, self.certificate.encode())


def own_key(folder: Path) -> str:
    """This machine's private key (PEM), made when it is first needed."""
    if not (folder / OWN_KEY_FILE).exists():
        write_private(folder / OWN_KEY_FILE, new_key().encode())
    return (folder / OWN_KEY_FILE).read_text()


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
