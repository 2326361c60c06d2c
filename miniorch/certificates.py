"""Keys, requests and certificates: made and read, never trusted.

The problem: a certificate is a bag of claims, and so is a request for one. The idea: from a request only the public key
is taken, after it has proved that its sender has the private one; everything else in it is thrown away unread. What a
certificate says is a `Subject`, plain data, chosen by the server alone; `Authority.sign` turns it into a certificate.

Who does this for real: swarmkit's `ca/certificates.go`, which overwrites the subject of each request in the same way.
Next file: `miniorch/authority.py`.
"""

import datetime
import hashlib
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from miniorch.errors import UsageError
from miniorch.identity import CERTIFICATE_FILE

USERS = ("admin", "deploy", "view")  # roles of people; machines have others
LIFE_SECONDS = 90 * 86400.0
RENEWED_SECONDS = 30 * 86400.0  # a user's that was given for less is not renewed
SKEW_SECONDS = 3600.0  # valid from an hour ago: a machine whose clock is late must accept it, too
REQUEST_BYTES = 4096  # one with a P-256 key has about 500
PEM = serialization.Encoding.PEM
NAME = (NameOID.COMMON_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME, NameOID.ORGANIZATION_NAME)


@dataclass(frozen=True, slots=True)
class Subject:
    """What a certificate says: CN, OU, O, the address in its SAN, its end; and the SHA-256 (hex) of its public key."""

    name: str
    role: str  # of machines "manager" or "worker", of users "admin", "deploy" or "view"
    cluster: str
    address: str = ""
    until: float = 0.0
    key: str = ""
    since: float = 0.0


def new_key() -> str:
    """A fresh P-256 private key, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()


def private_key(pem: str) -> ec.EllipticCurvePrivateKey:
    """Raises `ValueError`, `TypeError` for what is none."""
    key = serialization.load_pem_private_key(pem.encode(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("a key of another kind")
    return key


def request_for(key: str) -> str:
    """A request (PEM) that proves that its sender has `key`. It names nobody: the server chooses the name."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "any")])
    request = x509.CertificateSigningRequestBuilder(name).sign(private_key(key), hashes.SHA256())
    return request.public_bytes(PEM).decode()


def key_in(request: str) -> ec.EllipticCurvePublicKey:
    """The public key in a request, of which nothing else is read. Raises `UsageError` for all that is not in order."""
    if len(request) > REQUEST_BYTES:
        raise _bad(f"is longer than {REQUEST_BYTES} bytes")
    try:
        read = x509.load_pem_x509_csr(request.encode())
        key = read.public_key()
        proved = read.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _bad(f"cannot be read ({type(error).__name__})") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
        raise _bad("has a key of another kind than P-256 or P-384")
    if not proved:
        raise _bad("is not signed with its own key")
    return key


def _bad(why: str) -> UsageError:
    return UsageError(
        f"the request for a certificate {why}", remedy="miniorch join on the new machine makes a good one"
    )


def digest_of_key(key: ec.EllipticCurvePublicKey) -> str:
    """Hex SHA-256 of a public key: what the store remembers a member by."""
    shape = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(key.public_bytes(serialization.Encoding.DER, shape)).hexdigest()


def digest_of_certificate(pem: str) -> bytes:
    """SHA-256 of a certificate as it travels (DER): what a join token pins. Raises `ValueError`."""
    return x509.load_pem_x509_certificate(pem.encode()).fingerprint(hashes.SHA256())


def read_certificate(data: bytes) -> Subject:
    """What a certificate (PEM or DER) says. Whether it is true, TLS or `Authority` has checked. Raises `ValueError`."""
    pem = data.lstrip().startswith(b"-----")
    read = x509.load_pem_x509_certificate(data) if pem else x509.load_der_x509_certificate(data)
    key = read.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("not a certificate of miniorch: its key is of another kind")

    found = [read.subject.get_attributes_for_oid(one) for one in NAME]
    name, role, cluster = (next((str(one.value) for one in part), "") for part in found)
    try:
        names = read.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        addresses = [str(one) for one in names.get_values_for_type(x509.IPAddress)]
    except x509.ExtensionNotFound:
        addresses = []
    until, since = read.not_valid_after_utc.timestamp(), read.not_valid_before_utc.timestamp()
    return Subject(name, role, cluster, next(iter(addresses), ""), until, digest_of_key(key), since)


def own_certificate(folder: Path) -> Subject:
    """What the certificate in a folder says: a machine's state directory, or a user's context."""
    return read_certificate((folder / CERTIFICATE_FILE).read_bytes())


def certificate_for(
    subject: Subject, key: ec.EllipticCurvePublicKey, authority: x509.Certificate | None
) -> x509.CertificateBuilder:
    """The unsigned certificate: everything in it comes from `subject`, which the server has chosen, but the key.

    Without an `authority` it is that of the authority itself, which signs certificates and nothing else.
    """
    parts = zip(NAME, (subject.name, subject.role, subject.cluster), strict=True)
    name = x509.Name([x509.NameAttribute(oid, value) for oid, value in parts if value])
    root = authority is None
    signs = x509.KeyUsage(not root, False, False, False, False, root, root, False, False)
    made = (
        x509.CertificateBuilder(authority.subject if authority else name, name, key, x509.random_serial_number())
        .not_valid_before(datetime.datetime.fromtimestamp(subject.since, datetime.UTC))
        .not_valid_after(datetime.datetime.fromtimestamp(subject.until, datetime.UTC))
        .add_extension(x509.BasicConstraints(ca=root, path_length=0 if root else None), critical=True)
        .add_extension(signs, critical=True)
    )
    if authority is None:
        return made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    own: list[x509.GeneralName] = [x509.DNSName(subject.name)]
    uses = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if subject.address:  # a machine's: it also listens
        own.append(x509.IPAddress(ipaddress.ip_address(subject.address)))
        uses.append(ExtendedKeyUsageOID.SERVER_AUTH)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())  # type: ignore[arg-type]
    for extension in (x509.ExtendedKeyUsage(uses), x509.SubjectAlternativeName(own), issuer):
        made = made.add_extension(extension, critical=False)
    return made
