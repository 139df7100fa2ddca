"""Our messages leave the default descriptor pool alone: a model in the same process may bring its own stubs."""

from __future__ import annotations

import subprocess
import sys

OWN_STUBS = """
import sys
import serving.protocol.grpc, serving.protocol.messages
assert "grpc" not in sys.modules and not any(m.startswith("tritonclient") for m in sys.modules), "imported too much"
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
theirs = descriptor_pb2.FileDescriptorProto(name="open_inference.proto", package="inference", syntax="proto3")
live = theirs.message_type.add(name="ServerLiveRequest")
field = live.field.add(name="mine", number=1, type=9, label=1)
pool = descriptor_pool.Default()
pool.Add(theirs)
message = message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ServerLiveRequest"))(mine="x")
assert message.SerializeToString() == b"\\n\\x01x"
from serving.protocol.messages import model_ready
assert model_ready(True) == b"\\x08\\x01"
"""

TRITON_STUBS = """
import serving.protocol.messages
from tritonclient.grpc import service_pb2
from serving.protocol.schema import ModelInferRequest
assert service_pb2.ModelInferRequest is not ModelInferRequest
assert service_pb2.ModelInferRequest.FromString(ModelInferRequest(id="a").SerializeToString()).id == "a"
"""


def run(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_other_stubs_of_the_same_package_work_beside_ours() -> None:
    run(OWN_STUBS)


def test_tritonclients_stubs_work_beside_ours() -> None:
    run(TRITON_STUBS)
