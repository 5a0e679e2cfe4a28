import base64
import shutil
import subprocess

import pytest

from batchmail.core.errors import ConfigError, KeyRefused
from batchmail.wire.known_hosts import check_host_key, fingerprint, known_keys, name_in_files

ED1, ED2, RSA = (base64.b64decode(text) for text in ("AAAAC3Nz", "AAAAC3Ny", "AAAAB3Nz"))
B64 = {blob: base64.b64encode(blob).decode() for blob in (ED1, ED2, RSA)}


def write(tmp_path, *lines):
    file = tmp_path / "known_hosts"
    file.write_text("".join(f"{line}\n" for line in lines))
    return (str(file),)


def check(files, name, key_type, blob):
    check_host_key(known_keys(files, name), files, name, key_type, blob)


@pytest.mark.parametrize(
    ("host", "port", "name"),
    [
        ("MX.example.net", 22, "mx.example.net"),
        ("mx.example.net", 2222, "[mx.example.net]:2222"),
        ("::1", 22, "::1"),
        ("::1", 2, "[::1]:2"),
    ],
)
def test_the_name_in_the_files(host, port, name):
    assert name_in_files(host, port) == name


@pytest.mark.parametrize(
    "names",
    [
        "mx.example.net",
        "other,mx.example.net",
        "MX.example.NET",
        "*.example.net",
        "m?.example.net",
        "*,!www.example.net",
        # hashed: base64 of a salt, and of HMAC-SHA1(salt, name)
        "|1|AAECAwQFBgcICQoLDA0ODxAREhM=|MlcjuhJgSfJfbJxg+Ai4kQT1qVE=",
    ],
)
def test_a_line_that_names_the_host_vouches_for_its_key(tmp_path, names):
    files = write(tmp_path, "# a comment", "", f"{names} ssh-ed25519 {B64[ED1]} with a comment")
    check(files, "mx.example.net", "ssh-ed25519", ED1)


@pytest.mark.parametrize(
    "line",
    [
        f"mx.example.net.evil.org ssh-ed25519 {B64[ED1]}",
        f"[mx.example.net]:2222 ssh-ed25519 {B64[ED1]}",
        f"*,!mx.example.net ssh-ed25519 {B64[ED1]}",
        f"[mx].example.net ssh-ed25519 {B64[ED1]}",
        f"|1|AAECAwQFBgcICQoLDA0ODxAREhM=|AAAAAAAAAAAAAAAAAAAAAAAAAAA= ssh-ed25519 {B64[ED1]}",
        f"|1|nonsense ssh-ed25519 {B64[ED1]}",
        "mx.example.net ssh-ed25519 not*base64",
        "mx.example.net ssh-ed25519",
        f"#mx.example.net ssh-ed25519 {B64[ED1]}",
        "@revoked",
    ],
)
def test_a_line_that_does_not_vouches_for_nothing(tmp_path, line):
    files = write(tmp_path, line)
    with pytest.raises(KeyRefused, match="unknown host key") as refused:
        check(files, "mx.example.net", "ssh-ed25519", ED1)
    assert fingerprint(ED1) in str(refused.value)
    assert files[0] in str(refused.value)
    assert "batchmail key PEER" in str(refused.value)


def test_one_of_several_keys_is_enough(tmp_path):
    files = write(tmp_path, f"mx ssh-ed25519 {B64[ED2]}", f"mx ssh-rsa {B64[RSA]}", f"mx ssh-ed25519 {B64[ED1]}")
    check(files, "mx", "ssh-ed25519", ED1)


def test_a_changed_key_is_told_with_both_fingerprints_the_line_and_the_remedy(tmp_path):
    files = write(tmp_path, "# first", f"[mx]:2222 ssh-ed25519 {B64[ED1]}")
    with pytest.raises(KeyRefused) as refused:
        check(files, "[mx]:2222", "ssh-ed25519", ED2)
    for part in (fingerprint(ED1), fingerprint(ED2), f"{files[0]} line 2", f"ssh-keygen -R '[mx]:2222' -f {files[0]}"):
        assert part in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_key_of_another_kind_is_not_called_changed(tmp_path):
    files = write(tmp_path, f"mx ssh-rsa {B64[RSA]}")
    with pytest.raises(KeyRefused, match="line 1 knows only its ssh-rsa key"):
        check(files, "mx", "ssh-ed25519", ED1)


def test_a_revoked_key_is_refused_even_if_another_line_has_it(tmp_path):
    files = write(tmp_path, f"mx ssh-ed25519 {B64[ED1]}", f"@revoked * ssh-ed25519 {B64[ED1]}")
    with pytest.raises(KeyRefused, match="line 2 revokes"):
        check(files, "mx", "ssh-ed25519", ED1)


def test_a_certificate_authority_is_not_enough(tmp_path):
    files = write(tmp_path, f"@cert-authority mx ssh-ed25519 {B64[ED1]}")
    with pytest.raises(KeyRefused, match="@cert-authority"):
        check(files, "mx", "ssh-ed25519", ED1)


def test_files_are_read_in_order_and_a_missing_one_is_empty(tmp_path):
    (first,) = write(tmp_path, f"mx ssh-rsa {B64[RSA]}")
    second = tmp_path / "second"
    second.write_text(f"mx ssh-ed25519 {B64[ED1]}\n")
    keys = known_keys((first, str(tmp_path / "missing"), str(second)), "mx")
    assert [(key.key_type, key.place) for key in keys] == [
        ("ssh-rsa", f"{first} line 1"),
        ("ssh-ed25519", f"{second} line 1"),
    ]


def test_a_file_that_cannot_be_read_is_an_error_not_an_empty_file(tmp_path):
    with pytest.raises(ConfigError, match="cannot read known_hosts file"):
        known_keys((str(tmp_path),), "mx")


@pytest.mark.real
@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="no ssh-keygen")
def test_agrees_with_openssh(tmp_path):
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    key_type, text = (tmp_path / "key.pub").read_text().split()[:2]
    blob = base64.b64decode(text)
    files = write(tmp_path, f"[mx.example.net]:2222 {key_type} {text}")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", files[0]], check=True, capture_output=True)
    assert (tmp_path / "known_hosts").read_text().startswith("|1|")
    check(files, "[mx.example.net]:2222", key_type, blob)
    said = subprocess.run(["ssh-keygen", "-lf", key], check=True, capture_output=True, text=True).stdout
    assert fingerprint(blob) in said
