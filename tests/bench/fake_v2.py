"""A V2 server in this process that has what our engine does not have yet: statistics, model configuration, a repository index, decoupled
models. REST and gRPC on free ports; `fake_certificate` gives what TLS needs."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf.json_format import ParseDict

from serving.bench.grpc_target import message
from serving.protocol.schema import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse

EXTENSIONS = ["binary_tensor_data", "model_configuration", "model_repository", "statistics"]
FINAL = "triton_final_response"


@dataclass
class Model:
    """`double`: y = 2x, batched; `plain`: no batch dimension; `parts`: decoupled, gives x three times; `wrong`: y is one too much."""

    name: str
    max_batch_size: int = 8
    shape: tuple[int, ...] = (4,)
    decoupled: bool = False
    offset: float = 0.0
    ready: bool = True
    says: dict[str, Any] = field(default_factory=dict)
    """Of its metadata, in place of the truth."""
    pauses: list[float] = field(default_factory=list)
    """Seconds that the next answers take."""
    count: int = 0
    batches: dict[int, int] = field(default_factory=dict)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def metadata(self) -> dict[str, Any]:
        shape = [-1, *self.shape] if self.max_batch_size else list(self.shape)
        return {
            "name": self.name,
            "versions": ["1", "2"],
            "platform": "fake",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": shape}],
            "outputs": [{"name": "y", "datatype": "FP32", "shape": shape}],
            **self.says,
        }

    def config(self) -> dict[str, Any]:
        return {"name": self.name, "max_batch_size": self.max_batch_size, "model_transaction_policy": {"decoupled": self.decoupled}}

    def statistics(self) -> dict[str, Any]:
        """3 ms in the queue, 1, 4 and 2 ms of input, model and output for each request."""
        spans = {"success": 10, "queue": 3, "compute_input": 1, "compute_infer": 4, "compute_output": 2}
        return {
            "name": self.name,
            "version": "1",
            "inference_count": self.count,
            "execution_count": self.count,
            "inference_stats": {name: {"count": self.count, "ns": self.count * ms * 1_000_000} for name, ms in spans.items()},
            "batch_stats": [{"batch_size": size, "compute_infer": {"count": n, "ns": n}} for size, n in sorted(self.batches.items())],
        }

    def reached(self, count: int, within_s: float) -> bool:
        """Wait until so many were answered; False where that took too long."""
        with self._changed:
            return self._changed.wait_for(lambda: self.count >= count, within_s)

    def answer(self, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if self.pauses:
            time.sleep(self.pauses.pop(0))
        with self._changed:
            self.count += 1
            self.batches[x.shape[0]] = self.batches.get(x.shape[0], 0) + 1
            self._changed.notify_all()
        return (x * 2 + np.float32(self.offset)).astype(np.float32)


class FakeV2:
    """`rest` and `grpc` are HOST:PORT. `headers` are those of the last prediction.

    `streams` counts those that were opened. With a `key` nobody without it is answered; `json_only`: no binary tensors over REST.
    """

    def __init__(self, certificate: Path | None = None, statistics: bool = True, key: str = "", json_only: bool = False) -> None:
        self.key = key
        self.json_only = json_only
        models = (Model("double"), Model("plain", 0), Model("parts", 0, decoupled=True), Model("wrong", offset=1.0), Model("any", 8, (-1,)))
        self.models = {model.name: model for model in models}
        self.statistics = statistics
        self.headers: dict[str, str] = {}
        self.streams = 0
        self._http = _HttpServer(("127.0.0.1", 0), _handler(self))
        self._grpc = grpc.server(ThreadPoolExecutor(16), handlers=(_Service(self),))
        if certificate is None:
            port = self._grpc.add_insecure_port("127.0.0.1:0")
        else:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
            pem = certificate.read_bytes()
            port = self._grpc.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(pem, pem)]))
        self.rest = f"127.0.0.1:{self._http.server_address[1]}"
        self.grpc = f"127.0.0.1:{port}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> FakeV2:
        self._thread.start()
        self._grpc.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Close all connections and stop listening."""
        if self._thread.is_alive():
            self._http.shutdown()
            self._thread.join()
            self._http.close_all()
        self._grpc.stop(None).wait()

    def metadata(self) -> dict[str, Any]:
        extensions = [name for name in EXTENSIONS if not (self.json_only and name == "binary_tensor_data")]
        return {"name": "fake", "version": "1.2", "extensions": extensions}

    def refuses(self, authorization: str | None) -> bool:
        return bool(self.key) and authorization != f"Bearer {self.key}"

    def index(self) -> list[dict[str, str]]:
        return [{"name": name, "version": "1", "state": "READY"} for name in self.models]


def fake_certificate(folder: Path) -> Path:
    """Return a file with a key and a certificate for 127.0.0.1 that it has signed itself."""
    file = folder / "server.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=fake", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(file), "-out", str(folder / "ca.pem")]
    subprocess.run(command, check=True, capture_output=True)
    file.write_bytes(file.read_bytes() + (folder / "ca.pem").read_bytes())
    return file


class _HttpServer(ThreadingHTTPServer):
    """Knows its connections, so that they can be closed."""

    daemon_threads = True

    def __init__(self, *arguments: Any) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def close_all(self) -> None:
        self.server_close()
        for connection in self._open:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients come and go; what goes wrong is theirs to tell."""


def _handler(server: FakeV2) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def do_GET(self) -> None:
            if server.refuses(self.headers["authorization"]):
                self.say({"error": "who are you?"}, 401)
                return
            match self.path.strip("/").split("/"):
                case ["v2"]:
                    self.say(server.metadata())
                case ["v2", "models", name, *_] if name not in server.models:
                    self.say({"error": f"Request for unknown model: '{name}' is not found"}, 404)
                case ["v2", "models", name]:
                    self.say(server.models[name].metadata())
                case ["v2", "models", name, "ready"]:
                    self.say({"name": name, "ready": server.models[name].ready}, 200 if server.models[name].ready else 503)
                case ["v2", "models", name, "config"]:
                    self.say(server.models[name].config())
                case ["v2", "models", name, "stats"] if server.statistics:
                    self.say({"model_stats": [server.models[name].statistics()]})
                case _:
                    self.say({"error": "Not Found"}, 404)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if server.refuses(self.headers["authorization"]):
                self.say({"error": "who are you?"}, 401)
                return
            match self.path.strip("/").split("/"):
                case ["v2", "repository", "index"]:
                    self.say(server.index())
                case ["v2", "models", name, "infer"]:
                    server.headers = {k.lower(): v for k, v in self.headers.items()}
                    self.infer(server.models[name], body)

        def infer(self, model: Model, body: bytes) -> None:
            head = int(self.headers.get("inference-header-content-length", len(body)))
            if server.json_only and head < len(body):
                self.say({"error": "no such format"}, 500)
                return
            asked = json.loads(body[:head])["inputs"][0]
            x = np.frombuffer(body[head:], np.float32) if head < len(body) else np.array(asked["data"], np.float32)
            y = model.answer(x.reshape(asked["shape"]))
            output = {"name": "y", "datatype": "FP32", "shape": list(y.shape)}
            if head == len(body):
                self.say({"model_name": model.name, "outputs": [{**output, "data": y.ravel().tolist()}]})
                return
            raw = y.tobytes()
            output["parameters"] = {"binary_data_size": len(raw)}
            said = json.dumps({"model_name": model.name, "outputs": [output]}).encode()
            self.write(said + raw, 200, {"inference-header-content-length": str(len(said))})

        def say(self, value: Any, status: int = 200) -> None:
            self.write(json.dumps(value).encode(), status, {})

        def write(self, body: bytes, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()

        def log_message(self, *_: object) -> None:
            pass

    return Handler


class _Service(grpc.GenericRpcHandler):
    """The methods that the load tester calls, by their names."""

    def __init__(self, server: FakeV2) -> None:
        self._server = server

    def service(self, details: Any) -> Any:
        name = details.method.rpartition("/")[2]
        if self._server.refuses(dict(details.invocation_metadata).get("authorization")):
            return grpc.unary_unary_rpc_method_handler(lambda raw, context: context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?"))
        if name == "ModelStreamInfer":
            return grpc.stream_stream_rpc_method_handler(self._stream)
        if name == "ModelInfer":
            return grpc.unary_unary_rpc_method_handler(self._unary)
        method = getattr(self, f"_{name}", None)
        if method is None:
            return None

        def call(raw: bytes, context: Any) -> bytes:
            asked = message(f"{name}Request").FromString(raw)
            model = getattr(asked, "name", "")
            if model and model not in self._server.models:
                context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{model}' is not found")
            if name == "ModelStatistics" and not self._server.statistics:
                context.abort(grpc.StatusCode.UNIMPLEMENTED, "no statistics")
            return bytes(ParseDict(method(asked), message(f"{name}Response")()).SerializeToString())

        return grpc.unary_unary_rpc_method_handler(call)

    def _unary(self, raw: bytes, context: Any) -> bytes:
        self._server.headers = dict(context.invocation_metadata())
        asked = ModelInferRequest.FromString(raw)
        return bytes(self._infer(self._server.models[asked.model_name], asked).SerializeToString())

    def _ServerMetadata(self, asked: Any) -> dict[str, Any]:
        return self._server.metadata()

    def _ModelReady(self, asked: Any) -> dict[str, Any]:
        return {"ready": asked.name in self._server.models and self._server.models[asked.name].ready}

    def _ModelMetadata(self, asked: Any) -> dict[str, Any]:
        return self._server.models[asked.name].metadata()

    def _ModelConfig(self, asked: Any) -> dict[str, Any]:
        return {"config": self._server.models[asked.name].config()}

    def _ModelStatistics(self, asked: Any) -> dict[str, Any]:
        return {"model_stats": [self._server.models[asked.name].statistics()]}

    def _RepositoryIndex(self, asked: Any) -> dict[str, Any]:
        return {"models": self._server.index()}

    def _infer(self, model: Model, asked: Any) -> Any:
        x = np.frombuffer(asked.raw_input_contents[0], np.float32).reshape(tuple(asked.inputs[0].shape))
        y = model.answer(x)
        answer = ModelInferResponse(model_name=model.name)
        answer.outputs.add(name="y", datatype="FP32", shape=y.shape)
        answer.raw_output_contents.append(y.tobytes())
        return answer

    def _stream(self, requests: Any, context: Any) -> Any:
        self._server.streams += 1
        self._server.headers = dict(context.invocation_metadata())
        for raw in requests:
            asked = ModelInferRequest.FromString(raw)
            model = self._server.models[asked.model_name]
            if not model.decoupled and asked.inputs[0].shape[0] == 7:
                yield ModelStreamInferResponse(error_message="seven rows are too many").SerializeToString()
                continue
            for _ in range(3 if model.decoupled else 1):
                answer = ModelStreamInferResponse(infer_response=self._infer(model, asked))
                answer.infer_response.parameters[FINAL].bool_param = not model.decoupled
                yield answer.SerializeToString()
            if model.decoupled:
                assert asked.parameters["triton_enable_empty_final_response"].bool_param
                last = ModelStreamInferResponse(infer_response=ModelInferResponse(model_name=model.name))
                last.infer_response.parameters[FINAL].bool_param = True
                yield last.SerializeToString()
