"""Our engine, as anybody would start it: `serving up configs/benchmark.yaml`, all of it, on Ray."""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

from benchmarks.peers.port import free_ports
from benchmarks.process import Running, start

NAMES = ("engine", "engine-two")
CONFIG = Path(__file__).parents[2] / "configs" / "benchmark.yaml"


def launch(name: str, config: Path, scratch: Path) -> Running:
    """Start the engine with `config` ("engine") or with its variant that has two replicas of resnet ("engine-two")."""
    if name == "engine-two":
        variant = scratch / "benchmark-two.yaml"
        variant.write_text(two_replicas(config))
        config = variant
    log = scratch / "log"
    ports = dict(zip(("http", "grpc", "metrics", "control"), free_ports(4), strict=True))
    argv = [str(Path(sys.executable).with_name("serving")), "up", str(config), "--state-dir", str(scratch / "state")]
    for port_name, port in ports.items():
        argv += [f"--{port_name}-port", str(port)]
    return start(
        name,
        argv,
        log,
        http=f"127.0.0.1:{ports['http']}",
        grpc=f"127.0.0.1:{ports['grpc']}",
        ready=lambda running: b"ready http://" in log.read_bytes(),
    )


def two_replicas(config: Path) -> str:
    """The same YAML with two replicas of resnet, and with `echo_image`: echo for rows of 600 KB."""
    document = yaml.safe_load(config.read_text())
    models = document["models"]
    for model in models.values():
        for version in model["versions"].values():
            version["artefact"] = str((config.parent / version["artefact"]).resolve())
    models["resnet"]["replicas"] = 2
    image = [{"dtype": "FP32", "shape": [3, 224, 224]}]
    signature = {"inputs": [{"name": "x", **image[0]}], "outputs": [{"name": "y", **image[0]}]}
    models["echo_image"] = {**models["echo"], "signature": signature}
    text: str = yaml.safe_dump(document, sort_keys=False)
    return text
