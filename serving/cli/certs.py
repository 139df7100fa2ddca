"""`serving certs init | issue`: a small CA in a folder, for a site that has none; certificates of it for servers and clients."""

from __future__ import annotations

import ipaddress
import os
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from serving.cli.output import fail, say

CA, CA_KEY = "ca.pem", "ca.key"
CA_DAYS = 3650
Folder = Annotated[Path, typer.Option("--dir", help="Where the CA and its certificates lie.")]


def register(app: typer.Typer) -> None:
    certs = typer.Typer(help="A local CA, and certificates of it.", no_args_is_help=True)
    certs.command("init")(init)
    certs.command("issue")(issue)
    app.add_typer(certs, name="certs")


def init(
    folder: Folder = Path("certs"),
    name: Annotated[str, typer.Option(help="What the CA is called.")] = "serving local CA",
    days: Annotated[int, typer.Option(min=1, max=36_500, help="How long it holds.")] = CA_DAYS,
) -> None:
    """Make a CA. Keep ca.key to yourself: who has it can make certificates that your clients trust."""
    if (folder / CA_KEY).exists() or (folder / CA).exists():
        fail(f"there is a CA in {folder} already; servers and clients trust it, so it is not replaced")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = _builder(subject, subject, key.public_key(), days)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write(folder / CA_KEY, _key_pem(key), 0o600)
    _write(folder / CA, builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM), 0o644)
    say(f"{folder / CA} is the CA: give it to clients. {folder / CA_KEY} is its secret")


def issue(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the server or client; also of the files.")],
    folder: Folder = Path("certs"),
    client: Annotated[bool, typer.Option("--client", help="For a client; else for a server.")] = False,
    host: Annotated[list[str] | None, typer.Option(help="DNS name or address of the server. Left out: those of this machine.")] = None,
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long it holds.")] = 397,
) -> None:
    """Make NAME.pem and NAME.key. Where they are there already, they are renewed: a running engine takes them by itself."""
    if not name or "/" in name or name.startswith(".") or f"{name}.pem" == CA:
        fail(f"'{name}' cannot be the name of a certificate's file")
    try:
        ca = x509.load_pem_x509_certificate((folder / CA).read_bytes())
        ca_key = serialization.load_pem_private_key((folder / CA_KEY).read_bytes(), None)
    except (OSError, ValueError) as error:
        fail(f"no CA in {folder} ({error}); make one: serving certs init --dir {folder}")
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = _builder(subject, ca.subject, key.public_key(), days)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(), critical=True)
    use = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
    builder = builder.add_extension(x509.ExtendedKeyUsage([use]), critical=False)
    builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
    if not client:
        names = x509.SubjectAlternativeName([_name(h) for h in host or _own_names()])
        builder = builder.add_extension(names, critical=False)
    certificate = builder.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    _write(folder / f"{name}.key", _key_pem(key), 0o600)
    _write(folder / f"{name}.pem", certificate, 0o644)
    say(f"{folder / name}.pem and {folder / name}.key, for {days} days")


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(signs_certificates: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _own_names() -> list[str]:
    return list(dict.fromkeys(("localhost", "127.0.0.1", "::1", socket.gethostname(), socket.getfqdn())))


def _name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        pass
    try:
        return x509.DNSName(text)
    except ValueError:
        fail(f"'{text}' is neither a DNS name nor an address")


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _write(file: Path, data: bytes, mode: int) -> None:
    """Write a file as a whole."""
    draft = file.with_name(f".{file.name}.draft")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
        stream.write(data)
    draft.replace(file)
