"""`serving up FILE...`: checks everything that can be checked without Ray, then becomes the engine (`python -m serving.cluster`)."""

from __future__ import annotations

import fcntl
import ipaddress
import json
import os
import resource
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from serving.cli.credentials import default_state_dir
from serving.cli.files import texts, user_name
from serving.cli.output import fail, print_lines, say
from serving.cli.repository import REPOSITORY_HELP, print_warnings, survey
from serving.cluster import launch, leftovers
from serving.cluster.boot import Boot, ModelControlMode
from serving.errors import InvalidArgument, Unavailable
from serving.plan import Target
from serving.spec import InvalidSpec, load
from serving.tls import ServerCertificate

STATE_DIR_HELP = "Where revisions and logs are kept. Default: $XDG_STATE_HOME/serving, else ~/.local/state/serving."


def register(app: typer.Typer) -> None:
    app.command("up")(up)


def up(
    files: Annotated[list[Path] | None, typer.Argument(metavar="[FILE]...", help="YAML files; none: what ran last.")] = None,
    host: Annotated[str, typer.Option(help="The only address that is bound.")] = "127.0.0.1",
    http_port: Annotated[int, typer.Option(min=1, max=65535, help="REST.")] = 8000,
    grpc_port: Annotated[int, typer.Option(min=1, max=65535, help="gRPC.")] = 8001,
    metrics_port: Annotated[int, typer.Option(min=1, max=65535, help="Prometheus metrics.")] = 8002,
    control_port: Annotated[int, typer.Option(min=1, max=65535, help="The control API.")] = 8003,
    state_dir: Annotated[Path | None, typer.Option(help=STATE_DIR_HELP)] = None,
    access: Annotated[str, typer.Option(help="on or off: ask for keys and tokens, whatever the files say.")] = "",
    allow_client_shm: Annotated[bool, typer.Option("--allow-client-shm", help="As client_shared_memory: true in a file.")] = False,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM file with the server's certificate: every port speaks TLS.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file with its key; left out: it is in the same file.")] = None,
    tls_client_ca: Annotated[Path | None, typer.Option(help="PEM file of a CA: clients have to show a certificate of it.")] = None,
    ray_address: Annotated[str, typer.Option(help="A Ray that runs already; none: one of our own is started.")] = "",
    model_repository: Annotated[list[Path] | None, typer.Option(metavar="DIR", help=REPOSITORY_HELP)] = None,
    model_control: Annotated[
        ModelControlMode,
        typer.Option(help="explicit: clients may load and unload models, and none of a repository is loaded at the start; none: all are."),
    ] = "none",
    load_model: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="With --model-control explicit: loaded at the start; * means all.")
    ] = None,
) -> None:
    """Serve what the files declare, in the foreground. Ctrl-C drains and ends it; a second one does not wait."""
    started = time.monotonic()
    if access not in ("", "on", "off"):
        raise typer.BadParameter(f"expected on or off, got '{access}'", param_hint="--access")
    ports = {"http_port": http_port, "grpc_port": grpc_port, "metrics_port": metrics_port, "control_port": control_port}
    try:
        found = survey(model_repository or [], model_control, load_model or [])
        target = load(files or [], found.sources) if files or found.sources else Target() if model_repository else None
    except InvalidSpec as invalid:
        print_lines(map(str, invalid.problems))
        raise typer.Exit(1) from None
    print_warnings(found.notes)
    if allow_client_shm:
        target = _with_client_shm(target)
    tls = _tls(tls_cert, tls_key, tls_client_ca)
    state = (state_dir or default_state_dir()).absolute()
    _warn(host, access, target)
    try:
        _lock(state)
        _clear(state)
        _check_ports(host, ports)
        resource.setrlimit(resource.RLIMIT_NOFILE, launch.open_files(resource.getrlimit(resource.RLIMIT_NOFILE)))
        run_dir = launch.run_dir(state, launch.places())
    except Unavailable as error:
        fail(error.message)
    except OSError as error:
        fail(f"the state directory {state} cannot be used: {error.strerror or error}")
    boot = Boot(
        host=host,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        control_port=control_port,
        state_dir=str(state),
        run_dir=str(run_dir),
        ray_address=ray_address,
        engine=launch.tag(),
        started=started,
        access=access,
        tls_certificate=tls.get("tls_certificate", ""),
        tls_key=tls.get("tls_key", ""),
        tls_client_ca=tls.get("tls_client_ca", ""),
        author=user_name(),
        model_control=model_control,
        repositories=tuple(str(folder.absolute()) for folder in model_repository or []),
    )
    if target is not None:
        boot.target_file.write_text(json.dumps(target.to_json()))
        boot.texts_file.write_text(json.dumps([[name, text] for name, text in texts(files or [])]))
    launch.become(boot)


def _with_client_shm(target: Target | None) -> Target:
    if target is None:
        fail("--allow-client-shm is for files; without one what ran last runs again, with the settings that it had")
    settings = replace(target.settings, client_shared_memory=True)
    return replace(target, settings=settings, given=target.given | {"client_shared_memory"})


def _tls(certificate: Path | None, key: Path | None, client_ca: Path | None) -> dict[str, str]:
    """Return what a Boot is told of TLS; end the command where the files cannot be used."""
    if certificate is None:
        if key or client_ca:
            fail("--tls-key and --tls-client-ca need --tls-cert")
        return {}
    files = {"tls_certificate": certificate, "tls_key": key, "tls_client_ca": client_ca}
    paths = {name: str(path.absolute()) if path else "" for name, path in files.items()}
    try:
        ServerCertificate(paths["tls_certificate"], paths["tls_key"], paths["tls_client_ca"])
    except InvalidArgument as error:
        fail(error.message)
    return paths


def _warn(host: str, access: str, target: Target | None) -> None:
    """Say so where everybody who reaches the ports may do everything."""
    if ipaddress.ip_address(host).is_loopback if _is_address(host) else host == "localhost":
        return
    on = access == "on" or (access != "off" and target is not None and target.settings.access.enabled)
    if not on and (target is not None or access == "off"):
        say(f"warning: {host} is not this machine alone, and access is off: whoever reaches it may ask every model and change everything;")
        say("         --access on asks for keys")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _lock(state: Path) -> None:
    """Hold the state directory until this process (or what it becomes) ends."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(state / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(lock, 32).decode(errors="replace").strip() or "unknown"
        fail(f"another engine (pid {holder}) uses the state directory {state}; end it, or give another --state-dir")
    os.ftruncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())
    os.set_inheritable(lock, True)


def _check_ports(host: str, ports: dict[str, int]) -> None:
    names: dict[int, str] = {}
    for name, port in ports.items():
        option = f"--{name.replace('_', '-')}"
        if port in names:
            fail(f"{names[port]} and {option} are both {port}; each needs its own port")
        names[port] = option
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                fail(f"cannot listen on {host} port {port}: {error.strerror}; give another {option}")


def _clear(state: Path) -> None:
    """End what an engine left that was killed, before its ports are looked at."""
    try:
        leftovers.clear(Path((state / "run").read_text()))
    except (OSError, ValueError):
        pass  # there was none, or the note is torn
