"""The REST face described for programs: an OpenAPI 3.1 document of every endpoint that there is. Pure."""

from __future__ import annotations

from typing import Any, Final

import orjson

Json = dict[str, Any]

_TEXT: Final[Json] = {"type": "string"}
_WHOLE: Final[Json] = {"type": "integer", "minimum": 0}
_DTYPES: Final = (
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BF16", "BYTES",
)  # fmt: skip
_DTYPE: Final[Json] = {"type": "string", "enum": list(_DTYPES)}
_VALUES: Final[Json] = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}


def _object(properties: Json, *required: str, more: bool = True) -> Json:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": more}


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


_SHAPE: Final = _list({"type": "integer", "minimum": 0})
_MEMORY: Final[Json] = {"shared_memory_region": _TEXT, "shared_memory_byte_size": _WHOLE, "shared_memory_offset": _WHOLE}
_TENSOR: Final = _object(
    {"name": _TEXT, "datatype": _DTYPE, "shape": _list({"type": "integer", "minimum": -1})}, "name", "datatype", "shape"
)
_SCHEMAS: Final[Json] = {
    "Error": _object({"error": _TEXT}, "error"),
    "Live": _object({"live": {"type": "boolean"}}, "live"),
    "Ready": _object({"ready": {"type": "boolean"}, "name": _TEXT}, "ready"),
    "Server": _object({"name": _TEXT, "version": _TEXT, "extensions": _list(_TEXT)}, "name", "version", "extensions"),
    "Model": _object(
        {"name": _TEXT, "versions": _list(_TEXT), "platform": _TEXT, "inputs": _list(_TENSOR), "outputs": _list(_TENSOR)},
        "name", "versions", "platform", "inputs", "outputs",
    ),
    "Config": _object(
        {"name": _TEXT, "platform": _TEXT, "backend": _TEXT, "max_batch_size": _WHOLE, "input": _list({"type": "object"}),
         "output": _list({"type": "object"}), "version_policy": {"type": "object"}, "instance_group": _list({"type": "object"}),
         "dynamic_batching": {"type": "object"}},
        "name", "platform", "max_batch_size", "input", "output",
    ),
    "Statistics": _object({"model_stats": _list({"type": "object"})}, "model_stats"),
    "InferInput": _object(
        {"name": _TEXT, "datatype": _DTYPE, "shape": _SHAPE, "data": {"type": "array"},
         "parameters": {"type": "object", "properties": {"binary_data_size": _WHOLE, **_MEMORY}}},
        "name", "datatype", "shape",
    ),
    "InferOutput": _object(
        {"name": _TEXT,
         "parameters": {"type": "object", "properties": {
             "binary_data": {"type": "boolean"}, "classification": {"type": "integer", "minimum": 1}, **_MEMORY}}},
        "name",
    ),
    "InferRequest": _object(
        {"id": _TEXT, "inputs": _list(_ref("InferInput")), "outputs": _list(_ref("InferOutput")), "parameters": _VALUES}, "inputs"
    ),
    "InferResponse": _object(
        {"model_name": _TEXT, "model_version": _TEXT, "id": _TEXT, "parameters": _VALUES,
         "outputs": _list(_object({"name": _TEXT, "datatype": _DTYPE, "shape": _SHAPE, "data": {"type": "array"},
                                   "parameters": {"type": "object"}}, "name", "datatype", "shape"))},
        "model_name", "model_version", "outputs",
    ),
    "Region": _object({"name": _TEXT, "key": _TEXT, "offset": _WHOLE, "byte_size": _WHOLE}, "name", "key", "offset", "byte_size"),
    "Index": _object({"ready": {"type": "boolean"}}),
    "RepositoryModel": _object({"name": _TEXT, "version": _TEXT, "state": _TEXT, "reason": _TEXT}, "name"),
    "Load": _object({"parameters": {"type": "object"}}),
    "Generate": {"type": "object", "description": "Inputs by name; what is no input is a parameter."},
    "RegisterRegion": _object({"key": _TEXT, "offset": _WHOLE, "byte_size": _WHOLE}, "key", "byte_size"),
    "TraceSettings": _object({
        "trace_level": {"anyOf": [_list({"enum": ["OFF", "TIMESTAMPS", "TENSORS", "MIN", "MAX"]}), {"type": "null"}]},
        **{key: {"type": ["string", "null"]} for key in ("trace_rate", "trace_count", "log_frequency")},
    }),
    "LogSettings": _object({
        **{key: {"type": ["boolean", "null"]} for key in ("log_info", "log_warning", "log_error")},
        "log_verbose_level": {"type": ["integer", "null"], "minimum": 0, "maximum": (1 << 32) - 1},
        "log_format": {"enum": ["default", "ISO8601", None]},
    }),
}  # fmt: skip


def _answer(words: str, schema: str = "", many: bool = False) -> Json:
    if not schema:
        return {"description": words}
    return {"description": words, "content": {"application/json": {"schema": _list(_ref(schema)) if many else _ref(schema)}}}


_BINARY: Final[Json] = {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}
_HEADER_LENGTH: Final[Json] = {
    "name": "Inference-Header-Content-Length",
    "in": "header",
    "schema": {"type": "integer", "minimum": 0},
    "description": "Bytes of JSON in front of binary tensors. 0: the body is the only input, and all outputs come back binary.",
}


def _call(summary: str, tag: str, answer: Json, body: str = "", required: bool = True) -> Json:
    call: Json = {
        "summary": summary,
        "tags": [tag],
        "responses": {"200": answer, "default": _answer("What went wrong.", "Error")},
    }
    if body:
        call["requestBody"] = {"required": required, "content": {"application/json": {"schema": _ref(body)}}}
    return call


def _infer() -> Json:
    call = _call("Ask for a prediction", "inference", _answer("The outputs.", "InferResponse"), "InferRequest")
    call["parameters"] = [_HEADER_LENGTH]
    call["description"] = "JSON, or JSON with binary tensors behind it (see the header). Content-Encoding gzip and deflate are taken."
    for side in (call["requestBody"], call["responses"]["200"]):
        side["content"]["application/octet-stream"] = _BINARY
    return call


def _generate(summary: str, kind: str) -> Json:
    answer = {"description": "Outputs by name.", "content": {kind: {"schema": {"type": "object"} if kind == "application/json" else _TEXT}}}
    return _call(summary, "inference", answer, "Generate")


def _model_paths() -> Json:
    paths: Json = {}
    for prefix in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        paths[prefix] = {"get": _call("Describe a model", "metadata", _answer("Its versions, inputs and outputs.", "Model"))}
        paths[f"{prefix}/ready"] = {"get": _call("Is the model ready?", "health", _answer("It is.", "Ready"))}
        paths[f"{prefix}/infer"] = {"post": _infer()}
        paths[f"{prefix}/generate"] = {"post": _generate("Ask in plain JSON", "application/json")}
        paths[f"{prefix}/generate_stream"] = {"post": _generate("Ask in plain JSON for events", "text/event-stream")}
        paths[f"{prefix}/config"] = {"get": _call("Show how a model is run", "metadata", _answer("Triton's ModelConfig.", "Config"))}
        paths[f"{prefix}/stats"] = {"get": _call("Count what a model did", "statistics", _answer("Summed over gateways.", "Statistics"))}
    return paths


def _memory_paths() -> Json:
    paths: Json = {}
    for kind in ("system", "cuda"):
        tag, root = f"{kind} shared memory", f"/v2/{kind}sharedmemory"
        done = _answer("Done, and known to all gateways.")
        status = _answer("The regions.", "Region", many=True)
        body = "RegisterRegion" if kind == "system" else ""
        paths[f"{root}/status"] = {"get": _call("List all regions", tag, status)}
        paths[f"{root}/unregister"] = {"post": _call("Forget all regions", tag, done)}
        paths[f"{root}/region/{{region}}/status"] = {"get": _call("Show a region", tag, status)}
        paths[f"{root}/region/{{region}}/register"] = {"post": _call("Register a region", tag, done, body)}
        paths[f"{root}/region/{{region}}/unregister"] = {"post": _call("Forget a region", tag, done)}
    return paths


def _repository_paths() -> Json:
    tag, done = "model repository", _answer("Done: every gateway answers so.")
    call = {
        "index": _call(
            "List models and versions", tag, _answer("All, with their states.", "RepositoryModel", many=True), "Index", required=False
        ),
        "load": _call("Load a model", tag, done, "Load", required=False),
        "unload": _call("Unload a model", tag, done, "Load", required=False),
    }
    return {
        "/v2/repository/index": {"post": call["index"]},
        "/v2/repository/models/{model}/load": {"post": call["load"]},
        "/v2/repository/models/{model}/unload": {"post": call["unload"]},
    }


def _setting_paths() -> Json:
    paths: Json = {}
    for where, tag, schema in (
        ("/v2/trace/setting", "trace", "TraceSettings"),
        ("/v2/models/{model}/trace/setting", "trace", "TraceSettings"),
        ("/v2/logging", "logging", "LogSettings"),
    ):
        answer = _answer("The settings that hold.", schema)
        paths[where] = {
            "get": _call("Show the settings", tag, answer),
            "post": _call("Change settings; null takes one back", tag, answer, schema, required=False),
        }
    return paths


def _paths() -> Json:
    this = {"description": "OpenAPI 3.1.", "content": {"application/json": {}}}
    page = {"description": "A page.", "content": {"text/html": {"schema": {"type": "string"}}}}
    paths: Json = {
        "/v2": {"get": _call("Describe the server", "metadata", _answer("Name, version and extensions.", "Server"))},
        "/v2/health/live": {"get": _call("Is the server alive?", "health", _answer("It is.", "Live"))},
        "/v2/health/ready": {"get": _call("Is every model ready?", "health", _answer("They are.", "Ready"))},
        "/v2/models/stats": {"get": _call("Count what all models did", "statistics", _answer("Summed over gateways.", "Statistics"))},
        **_model_paths(),
        **_memory_paths(),
        **_setting_paths(),
        **_repository_paths(),
        "/openapi.json": {"get": _call("Show this document", "description", this)},
        "/docs": {"get": _call("Show this document to people", "description", page)},
    }
    for path, item in paths.items():
        names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
        if names:
            item["parameters"] = [{"name": n, "in": "path", "required": True, "schema": _NAMES[n]} for n in names]
    return paths


_NAMES: Final[Json] = {
    "model": {"type": "string", "pattern": "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$"},
    "version": {"type": "string", "pattern": "^(0|[1-9][0-9]{0,17})$"},
    "region": {"type": "string", "pattern": "^[^/]+$"},
}
PATHS: Final = _paths()


def document(server_name: str, version: str) -> bytes:
    """Return the body of GET /openapi.json."""
    return orjson.dumps(
        {
            "openapi": "3.1.0",
            "info": {
                "title": server_name,
                "version": version,
                "description": "The Open Inference Protocol (V2) with Triton's extensions. gRPC has the same calls, and reflection.",
            },
            "paths": PATHS,
            "components": {"schemas": _SCHEMAS},
        }
    )
