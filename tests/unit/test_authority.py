"""The cluster's certificate authority: what its certificate says, and how it is kept."""

from __future__ import annotations

import os
import stat
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from miniorch.authority import CERTIFICATE_FILE, KEY_FILE, Authority, write_private
from miniorch.errors import Conflict

NOW = 1_800_000_000.0


def test_the_certificate_is_an_authority_of_this_cluster_for_ten_years() -> None:
    certificate = x509.load_pem_x509_certificate(Authority.make("c1", NOW).certificate.encode())
    assert certificate.subject == certificate.issuer
    assert certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value == "c1"
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)
    limits = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (limits.critical, limits.value.ca, limits.value.path_length) == (True, True, 0)
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert timedelta(days=3652) < life < timedelta(days=3655)
    assert certificate.not_valid_before_utc.timestamp() == NOW - 3600
    certificate.verify_directly_issued_by(certificate)


def test_it_comes_back_from_its_folder_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    assert Authority.load(folder) is None
    made = Authority.make("c1", NOW)
    made.save(folder)
    assert Authority.load(folder) == made
    assert {stat.S_IMODE((folder / name).stat().st_mode) for name in os.listdir(folder)} == {0o600}
    assert sorted(os.listdir(folder)) == [CERTIFICATE_FILE, KEY_FILE]


@pytest.mark.parametrize("change", ["another's", "cut off", "empty"])
def test_a_key_that_is_not_the_certificates_is_refused(tmp_path: Path, change: str) -> None:
    made = Authority.make("c1", NOW)
    made.save(tmp_path)
    bad = {"another's": Authority.make("c1", NOW).key, "cut off": made.key[:100], "empty": ""}[change]
    (tmp_path / KEY_FILE).write_text(bad)
    with pytest.raises(Conflict, match="damaged, or is not that of its certificate"):
        Authority.load(tmp_path)


def test_a_private_file_is_there_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "folder"  # what is to be replaced cannot be
    (target / "full").mkdir(parents=True)
    with pytest.raises(OSError, match="folder"):
        write_private(target, b"new")
    assert os.listdir(tmp_path) == ["folder"]
    write_private(tmp_path / "file", b"first")
    write_private(tmp_path / "file", b"second")
    assert (tmp_path / "file").read_bytes() == b"second"
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
