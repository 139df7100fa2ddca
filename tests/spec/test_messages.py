"""Broken files and exactly what is said about them. The file is `f.yaml`; FOLDER stands for where the artefacts lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.spec import InvalidSpec, Source, parse

CODE = """
import math
from lib import Shared

class Mlp: ...
class Echo: ...
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spec")
    for name in ("a.pt2", "b.pt2", "a.pt", "w.safetensors", "a.bin"):
        (folder / name).write_bytes(name.encode())
    (folder / "net.py").write_text(CODE)
    (folder / "bad.py").write_text("class Mlp:\n  def f(:\n")
    (folder / "empty.py").write_text("")
    return folder


def said(folder: Path, *texts: str) -> list[str]:
    """Return what is wrong with the files f.yaml, g.yaml, ..., line by line."""
    with pytest.raises(InvalidSpec) as raised:
        parse([Source(name, text, folder) for name, text in zip(("f.yaml", "g.yaml"), texts, strict=False)])
    assert raised.value.message == "\n".join(map(str, raised.value.problems))
    return [line.replace(str(folder), "FOLDER") for line in raised.value.message.split("\n")]


def model(*lines: str, version: str = "{artefact: a.pt2}") -> str:
    """Return a file with one model; `lines` stand in line 4 and below, from column 5."""
    return "\n".join(["models:", "  mlp:", f"    versions: {{1: {version}}}", *(f"    {line}" for line in lines)])


def two(*lines: str) -> str:
    """Return a file with a model of two versions; `lines` stand in line 6 and below, from column 5."""
    start = ["models:", "  mlp:", "    versions:", "      1: {artefact: a.pt2}", "      2: {artefact: b.pt2}"]
    return "\n".join([*start, *(f"    {line}" for line in lines)])


SIGNATURE = "signature: {inputs: [{name: x, dtype: FP32, shape: [4]}], outputs: [{name: y, dtype: FP32, shape: [2]}]}"

CASES: dict[str, tuple[str, list[str]]] = {
    # not YAML
    "empty file": ("", ["f.yaml:1:1: declares no models; expected 'models:' with at least one name under it"]),
    "only comments": ("# nothing\n", ["f.yaml:1:1: declares no models; expected 'models:' with at least one name under it"]),
    "a list": ("- models", ["f.yaml:1:1: expected a mapping such as 'models:', got a list"]),
    "text": ("models", ["f.yaml:1:1: expected a mapping such as 'models:', got the text 'models'"]),
    "tab": (
        "models:\n\tmlp: {}",
        ["f.yaml:2:1: not YAML: a character that cannot stand here; YAML is indented with spaces, and special characters need quotes"],
    ),
    "two colons": (
        "models: mlp: {}",
        ["f.yaml:1:12: not YAML: a second ': ' on one line; put text that holds ': ' in quotes, or check the indentation"],
    ),
    "indentation": ("models:\n  a: {}\n b: {}", ["f.yaml:3:2: not YAML: the indentation does not fit the lines above"]),
    "two documents": ("models: {}\n---\nmodels: {}", ["f.yaml:2:1: not YAML: a second document starts here; a file holds one"]),
    "alias": ("models: *all", ["f.yaml:1:9: not YAML: found undefined alias 'all'"]),
    "alias of itself": ("models: &m {a: *m}", ["f.yaml:1:9: models.a contains itself through an alias"]),
    "control character": ("models: \x07", ["f.yaml:1:9: a character that YAML does not allow"]),
    "tag": ("server_name: !!python/name:os.system x", ["f.yaml:1:14: server_name: the tag !!python/name:os.system is not known here"]),
    "surrogate": (r'server_name: "\ud800"', ["f.yaml:1:14: text that is not Unicode: half of a surrogate pair"]),
    "number too large": ("gateways: 99999999999999999999", ["f.yaml:1:11: gateways: the number 99999999999999999999 is too large"]),
    "key that is a list": ("[a, b]: 1\nmodels: {}", ["f.yaml:1:1: a key at the top is a list; it has to be text"]),
    "key twice": ("models: {}\ngateways: 1\nmodels: {}", ["f.yaml:3:1: models is given twice, first in line 1"]),
    "version twice": (
        "models:\n  mlp:\n    versions:\n      1: {artefact: a.pt2}\n      '1': {artefact: b.pt2}",
        ["f.yaml:5:7: models.mlp.versions.1 is given twice, first in line 4"],
    ),
    # unknown keys
    "misspelt at the top": ("modles: {}", ["f.yaml:1:1: unknown key 'modles'; did you mean 'models'?"]),
    "unknown at the top": (
        "zzz: 1\nmodels: {}",
        [
            "f.yaml:1:1: unknown key 'zzz'; expected one of gateways, edge, server_name, base_path, forward_headers, client_shared_memory, "
            "limits, access, tls, webhooks, models"
        ],
    ),
    "misspelt in a model": (model("replica: 2"), ["f.yaml:4:5: unknown key 'replica' in models.mlp; did you mean 'replicas'?"]),
    "other spelling": (
        model(version="{artifact: a.pt2}"),
        [
            "f.yaml:3:16: models.mlp.versions.1: 'artefact' is missing",
            "f.yaml:3:20: unknown key 'artifact' in models.mlp.versions.1; did you mean 'artefact'?",
        ],
    ),
    "misspelt in a section, with what leans on it": (
        model("batching: {max_batchsize: 64, max_delay_ms: 2}", "warm_up: {batch_sizes: [64]}"),
        ["f.yaml:4:16: unknown key 'max_batchsize' in models.mlp.batching; did you mean 'max_batch_size'?"],
    ),
    "belongs further in": (
        model("max_batch_size: 64", "batching: {max_delay_ms: 2}"),
        ["f.yaml:4:5: unknown key 'max_batch_size' in models.mlp; it belongs under 'batching'"],
    ),
    "belongs to the model": (
        model(version="{artefact: a.pt2, at_most_once: true}"),
        ["f.yaml:3:37: unknown key 'at_most_once' in models.mlp.versions.1; it belongs to models.mlp itself"],
    ),
    "belongs to the top": (model("gateways: 2"), ["f.yaml:4:5: unknown key 'gateways' in models.mlp; it belongs at the top of the file"]),
    "misspelt and belongs further in": (
        model("max_delay: 64"),
        ["f.yaml:4:5: unknown key 'max_delay' in models.mlp; did you mean 'max_delay_ms' under 'batching'?"],
    ),
    "unknown in a tensor": (
        model("signature:", "  inputs: [{name: x, dtype: FP32, shape: [4], sape: 1}]", "  outputs: [{name: y, dtype: FP32, shape: []}]"),
        ["f.yaml:5:51: unknown key 'sape' in models.mlp.signature.inputs[0]; did you mean 'shape'?"],
    ),
    "empty key": (model("'': 1"), ["f.yaml:4:5: unknown key '' in models.mlp; expected one of description, signature, batching, "
                                   "decoupled, execution, predict_timeout_s, replicas, resources, warm_up, sequence, versions, "
                                   "version_policy, traffic, at_most_once"]),
    # wrong types
    "text for a number": (model("replicas: two"), ["f.yaml:4:15: models.mlp.replicas: expected a whole number, got the text 'two'"]),
    "number in quotes": (
        model("replicas: '2'"),
        ["f.yaml:4:15: models.mlp.replicas: expected a whole number, got the text '2'; write it without quotes"],
    ),
    "leading zero": (
        model("replicas: 010"),
        ["f.yaml:4:15: models.mlp.replicas: expected a whole number, got the text '010'; a number has no leading zero"],
    ),
    "fraction": (model("replicas: 1.5"), ["f.yaml:4:15: models.mlp.replicas: expected a whole number, got the number 1.5"]),
    "true for a number": (model("replicas: true"), ["f.yaml:4:15: models.mlp.replicas: expected a whole number, got true"]),
    "unit": (
        "models: {}\nlimits: {request_timeout_s: 30s}",
        ["f.yaml:2:29: limits.request_timeout_s: expected a number, got the text '30s'; the unit is in the name of the key"],
    ),
    "sexagesimal": (
        "models: {}\nlimits: {idle_timeout_s: 12:30}",
        ["f.yaml:2:26: limits.idle_timeout_s: expected a number, got the text '12:30'"],
    ),
    "not a number": (
        "models: {}\nlimits: {idle_timeout_s: .nan}",
        ["f.yaml:2:26: limits.idle_timeout_s: expected a number, got the text '.nan'"],
    ),
    "number for text": (
        "server_name: 5\nmodels: {}",
        ["f.yaml:1:14: server_name: expected text, got the number 5; write it in quotes: '5'"],
    ),
    "true for a label": (
        model("resources: {labels: {spot: true}}"),
        ["f.yaml:4:32: models.mlp.resources.labels.spot: expected text, got true; write it in quotes: 'true'"],
    ),
    "yes": (
        model("at_most_once: yes"),
        ["f.yaml:4:19: models.mlp.at_most_once: expected true or false, got the text 'yes'; write true"],
    ),
    "no": (
        model("at_most_once: No"),
        ["f.yaml:4:19: models.mlp.at_most_once: expected true or false, got the text 'No'; write false"],
    ),
    "number for a list": (
        model("warm_up: {batch_sizes: 8}"),
        ["f.yaml:4:28: models.mlp.warm_up.batch_sizes: expected a list, got the number 8; write [8]"],
    ),
    "text for a mapping": (model("batching: auto"), ["f.yaml:4:15: models.mlp.batching: expected a mapping, got the text 'auto'"]),
    "sequences of a runtime that keeps none": (
        model("sequence: {max_idle_s: 5}"),
        [
            "f.yaml:4:15: models.mlp.sequence: only for runtime python, whose predict(inputs, sequences) keeps the state; this one is torch"
        ],
    ),
    "sequences without a value": (model("sequence:"), ["f.yaml:4:14: models.mlp.sequence: expected a value, got nothing"]),
    "nothing for a mapping": (model("batching:"), ["f.yaml:4:14: models.mlp.batching: expected a mapping, got nothing"]),
    "nothing for a signature": (model("signature:"), ["f.yaml:4:15: models.mlp.signature: expected a value, got nothing"]),
    "models are a list": ("models: [mlp]", ["f.yaml:1:9: models: expected a mapping, got a list"]),
    "models are nothing": ("models:", ["f.yaml:1:8: models: expected a mapping, got nothing"]),
    "a model is text": ("models: {mlp: a.pt2}", ["f.yaml:1:15: models.mlp: expected a mapping, got the text 'a.pt2'"]),
    "versions are a list": (
        "models:\n  mlp:\n    versions:\n      - {artefact: a.pt2}",
        ["f.yaml:3:5: models.mlp.versions: expected a mapping, got a list"],
    ),
    "a version is text": (model(version="a.pt2"), ["f.yaml:3:19: models.mlp.versions.1: expected a mapping, got the text 'a.pt2'"]),
    # bounds and choices
    "too small": (model("replicas: 0"), ["f.yaml:4:15: models.mlp.replicas: expected at least 1, got 0"]),
    "too large": ("models: {}\nlimits: {max_body_mb: 8192}", ["f.yaml:2:23: limits.max_body_mb: expected at most 4096, got 8192"]),
    "not positive": ("models: {}\nlimits: {body_timeout_s: 0}", ["f.yaml:2:26: limits.body_timeout_s: expected more than 0, got 0"]),
    "edge": (
        "edge: of\nmodels: {}",
        ["f.yaml:1:7: edge: expected one of auto, grpc, always, off, got the text 'of'; did you mean 'off'?"],
    ),
    "execution": (
        model("execution: threads"),
        ["f.yaml:4:16: models.mlp.execution: expected one of inline, thread, got the text 'threads'; did you mean 'thread'?"],
    ),
    "runtime": (
        model(version="{artefact: a.pt2, runtime: tensorflow}"),
        ["f.yaml:3:46: models.mlp.versions.1.runtime: expected one of torch, python, onnx, got the text 'tensorflow'"],
    ),
    "dtype in numpy's words": (
        model(SIGNATURE.replace("FP32", "float32", 1)),
        [
            "f.yaml:4:43: models.mlp.signature.inputs[0].dtype: expected one of BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, "
            "INT64, FP16, FP32, FP64, BF16, BYTES, got the text 'float32'; did you mean 'FP32'?"
        ],
    ),
    "dtype in lower case": (
        model(SIGNATURE.replace("FP32", "fp32", 1)),
        [
            "f.yaml:4:43: models.mlp.signature.inputs[0].dtype: expected one of BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, "
            "INT64, FP16, FP32, FP64, BF16, BYTES, got the text 'fp32'; did you mean 'FP32'?"
        ],
    ),
    # missing
    "no versions": ("models:\n  mlp: {}", ["f.yaml:2:3: models.mlp: 'versions' is missing"]),
    "empty versions": ("models:\n  mlp: {versions: {}}", ["f.yaml:2:19: models.mlp.versions is empty, expected at least one entry"]),
    "no artefact": (model(version="{runtime: torch}"), ["f.yaml:3:16: models.mlp.versions.1: 'artefact' is missing"]),
    "no outputs": (
        model("signature: {inputs: [{name: x, dtype: FP32, shape: [4]}]}"),
        ["f.yaml:4:5: models.mlp.signature: 'outputs' is missing"],
    ),
    "no inputs": (
        model("signature: {inputs: [], outputs: [{name: y, dtype: FP32, shape: []}]}"),
        ["f.yaml:4:25: models.mlp.signature.inputs is empty, expected at least one entry"],
    ),
    "no stable": (model("traffic: {}"), ["f.yaml:4:5: models.mlp.traffic: 'stable' is missing"]),
    # names
    "model name": (
        "models: {a/b: {versions: {1: {artefact: a.pt2}}}}",
        ["f.yaml:1:10: 'a/b' is not a model name: 1 to 128 letters, digits, '_', '-' or '.', not starting with '-' or '.'"],
    ),
    "model name that cannot be seen": (
        "models: {a\u200b: {versions: {1: {artefact: a.pt2}}}}",
        [r"f.yaml:1:10: 'a\u200b' is not a model name: 1 to 128 letters, digits, '_', '-' or '.', not starting with '-' or '.'"],
    ),
    "version name": (
        "models:\n  mlp:\n    versions:\n      v1: {artefact: a.pt2}",
        ["f.yaml:4:7: models.mlp.versions: a version is a whole number such as 1, got 'v1'"],
    ),
    "version with a leading zero": (
        "models:\n  mlp:\n    versions:\n      01: {artefact: a.pt2}",
        ["f.yaml:4:7: models.mlp.versions: a version is a whole number such as 1, got '01'"],
    ),
    # contradictions
    "policy of two kinds": (
        two("version_policy: {latest: 1, specific: [1]}"),
        ["f.yaml:6:21: models.mlp.version_policy: expected one of latest, specific"],
    ),
    "policy of nothing": (two("version_policy: {}"), ["f.yaml:6:21: models.mlp.version_policy: expected one of latest, specific"]),
    "policy of a version that is not there": (
        two("version_policy: {specific: [1, 3]}"),
        ["f.yaml:6:36: models.mlp.version_policy.specific[1]: there is no version '3', expected one of 1, 2"],
    ),
    "traffic to a version that the policy leaves out": (
        two("version_policy: {latest: 1}", "traffic: {stable: 1}"),
        ["f.yaml:7:23: models.mlp.traffic.stable: there is no version '1', expected one of 2"],
    ),
    "two versions, no traffic": (
        "models:\n  mlp:\n    versions:\n      1: {artefact: a.pt2}\n      2: {artefact: b.pt2}",
        ["f.yaml:3:5: models.mlp has 2 versions (1, 2): say which one answers, traffic: {stable: 2}"],
    ),
    "stable is no version": (
        model("traffic: {stable: 3}"),
        ["f.yaml:4:23: models.mlp.traffic.stable: there is no version '3', expected one of 1"],
    ),
    "split over other versions": (
        two("traffic: {stable: 1, split: {1: 95, 3: 5}}"),
        ["f.yaml:6:41: models.mlp.traffic.split.3: there is no version '3', expected one of 1, 2"],
    ),
    "split of less than all": (
        two("traffic: {stable: 1, split: {1: 95, 2: 4.5}}"),
        ["f.yaml:6:26: models.mlp.traffic.split: expected 100 percent in all, got 99.5"],
    ),
    "split in too fine steps": (
        two("traffic: {stable: 1, split: {1: 99.999, 2: 0.001}}"),
        [
            "f.yaml:6:37: models.mlp.traffic.split.1: expected steps of 0.01, got 99.999",
            "f.yaml:6:48: models.mlp.traffic.split.2: expected steps of 0.01, got 0.001",
        ],
    ),
    "split with a share below nothing": (
        two("traffic: {stable: 1, split: {1: 101, 2: -1}}"),
        [
            "f.yaml:6:37: models.mlp.traffic.split.1: expected at most 100, got 101",
            "f.yaml:6:45: models.mlp.traffic.split.2: expected at least 0, got -1",
        ],
    ),
    "split without the stable version": (
        two("traffic: {stable: 1, split: {2: 100}}"),
        ["f.yaml:6:26: models.mlp.traffic.split: the stable version 1 is missing; write 1: 0 where it is to have none"],
    ),
    "sticky without a split": (
        two("traffic: {stable: 1, sticky: {header: x-user}}"),
        ["f.yaml:6:26: models.mlp.traffic.sticky: there is nothing to stay with, split is missing"],
    ),
    "sticky by nothing": (
        two("traffic: {stable: 1, split: {1: 50, 2: 50}, sticky: {address: false}}"),
        ["f.yaml:6:49: models.mlp.traffic.sticky: expected one of header, parameter, address: true"],
    ),
    "sticky by two": (
        two("traffic: {stable: 1, split: {1: 50, 2: 50}, sticky: {header: x-user, parameter: user}}"),
        ["f.yaml:6:49: models.mlp.traffic.sticky: expected one of header, parameter, address: true"],
    ),
    "sticky by what is no header": (
        two("traffic: {stable: 1, split: {1: 50, 2: 50}, sticky: {header: 'x user'}}"),
        ["f.yaml:6:66: models.mlp.traffic.sticky.header: expected a name of a header, got the text 'x user'"],
    ),
    "sticky misspelt": (
        two("traffic: {stable: 1, split: {1: 50, 2: 50}, sticky: {headr: x-user}}"),
        ["f.yaml:6:58: unknown key 'headr' in models.mlp.traffic.sticky; did you mean 'header'?"],
    ),
    "rules that say nothing": (
        two("traffic: {stable: 1, rules: [{version: 2}]}"),
        [
            "f.yaml:6:34: models.mlp.traffic.rules[0]: expected one of equals, matches",
            "f.yaml:6:34: models.mlp.traffic.rules[0]: expected one of header, parameter",
        ],
    ),
    "rules for other versions": (
        two("traffic: {stable: 1, rules: [{header: a, equals: b, version: 7}]}"),
        ["f.yaml:6:66: models.mlp.traffic.rules[0].version: there is no version '7', expected one of 1, 2"],
    ),
    "a rule that never holds": (
        two("traffic: {stable: 1, rules: [{header: a, equals: b, version: 2}, {header: A, equals: b, version: 1}]}"),
        ["f.yaml:6:70: models.mlp.traffic.rules[1]: rules[0] has the same condition and comes first"],
    ),
    "a rule for a number": (
        two("traffic: {stable: 1, rules: [{parameter: a, equals: 7, version: 2}]}"),
        ["f.yaml:6:57: models.mlp.traffic.rules[0].equals: expected text, got the number 7; write it in quotes: '7'"],
    ),
    "a rule with a broken pattern": (
        two("traffic: {stable: 1, rules: [{header: a, matches: '(b', version: 2}]}"),
        ["f.yaml:6:55: models.mlp.traffic.rules[0].matches: not a regular expression of RE2: missing ): (b"],
    ),
    "a rule on the edge's header": (
        two("traffic: {stable: 1, rules: [{header: X-Serving-Client, equals: b, version: 2}]}"),
        ["f.yaml:6:43: models.mlp.traffic.rules[0].header: x-serving-client is the edge's own"],
    ),
    "a shadow of itself": (
        two("traffic: {stable: 1, shadow: [{version: 1, percent: 10}]}"),
        ["f.yaml:6:45: models.mlp.traffic.shadow[0].version: version 1 answers all requests itself"],
    ),
    "two shadows in one": (
        two("traffic: {stable: 1, shadow: [{version: 2, percent: 10}, {version: 2, percent: 5}]}"),
        ["f.yaml:6:72: models.mlp.traffic.shadow[1].version: shadow[0] has version 2 already"],
    ),
    "stable is true": (
        model("traffic: {stable: true}"),
        ["f.yaml:4:23: models.mlp.traffic.stable: expected a version such as 1, got true"],
    ),
    "delay without batches": (
        model("batching: {max_delay_ms: 2}"),
        ["f.yaml:4:30: models.mlp.batching.max_delay_ms: nothing to wait for, max_batch_size is 0"],
    ),
    "time-out before the delay": (
        model("batching: {max_batch_size: 8, max_delay_ms: 5, timeout_ms: 5}"),
        [
            "f.yaml:4:64: models.mlp.batching.timeout_ms is 5, not more than max_delay_ms, which is 5: requests would leave the queue "
            "before their batch starts"
        ],
    ),
    "warm-up beyond the batch": (
        model("batching: {max_batch_size: 8}", "warm_up: {batch_sizes: [1, 16]}"),
        ["f.yaml:5:32: models.mlp.warm_up.batch_sizes[1] is 16, more than max_batch_size, which is 8"],
    ),
    "version contradicts its model": (
        model("batching: {max_batch_size: 8, max_delay_ms: 1}", version="{artefact: a.pt2, batching: {max_batch_size: 1}}"),
        ["f.yaml:4:49: models.mlp.batching.max_delay_ms: nothing to wait for, max_batch_size is 1"],
    ),
    "one and a half GPUs": (
        model("resources: {gpus: 1.5}"),
        ["f.yaml:4:23: models.mlp.resources.gpus: expected a share of one GPU, such as 0.5, or whole ones, got 1.5"],
    ),
    "accelerator without GPU": (
        model("resources: {accelerator_type: A100}"),
        ["f.yaml:4:35: models.mlp.resources.accelerator_type: 'A100' without a GPU; give gpus as well"],
    ),
    "same input twice": (
        model("signature:", "  inputs: [{name: x, dtype: FP32, shape: []}, {name: x, dtype: FP32, shape: []}]",
              "  outputs: [{name: y, dtype: FP32, shape: [0]}]"),
        [
            "f.yaml:5:58: models.mlp.signature.inputs[1].name: 'x' is the name of inputs[0] already",
            "f.yaml:6:48: models.mlp.signature.outputs[0].shape[0]: expected at least 1, or -1 for any size, got 0",
        ],
    ),
    "all inputs optional": (
        model("signature:", "  inputs: [{name: x, dtype: FP32, shape: [], optional: true}]",
              "  outputs: [{name: y, dtype: FP32, shape: []}]"),
        ["f.yaml:5:15: models.mlp.signature.inputs: all are optional, one has to be there"],
    ),
    "JSON larger than the body": (
        "models: {}\nlimits: {max_body_mb: 8, max_json_mb: 9}",
        ["f.yaml:2:39: limits.max_json_mb is 9, more than max_body_mb, which is 8"],
    ),
    "in flight smaller than the body": (
        "models: {}\nlimits: {max_inflight_mb: 512}",
        ["f.yaml:2:27: limits.max_inflight_mb is 512, less than max_body_mb, which is 1024"],
    ),
    "a burst of no rate": (
        "models: {}\nlimits: {client_burst: 5}",
        ["f.yaml:2:24: limits.client_burst is of client_requests_per_s, which is not given"],
    ),
    "the edge's header": (
        "models: {}\nlimits: {client_header: X-Serving-Client}",
        ["f.yaml:2:25: limits.client_header: x-serving-client is the edge's own; leave it out to tell addresses apart"],
    ),
    # artefacts
    "no such file": (
        model(version="{artefact: c.pt2}"),
        ["f.yaml:3:30: models.mlp.versions.1.artefact: 'FOLDER/c.pt2' does not exist"],
    ),
    "a sample's file": (
        model(version="{artefact: ./artefacts/digits/1/model.pt2}"),
        ["f.yaml:3:30: models.mlp.versions.1.artefact: 'FOLDER/artefacts/digits/1/model.pt2' does not exist; scripts/quickstart makes it"],
    ),
    "a folder": (
        model(version="{artefact: ., runtime: torch}"),
        [
            "f.yaml:3:30: models.mlp.versions.1.artefact: 'FOLDER' is a folder",
            "f.yaml:3:42: models.mlp.versions.1.runtime: torch reads .pt2, .pt, .ts, .py, and the artefact is 'spec0'",
        ],
    ),
    "unknown ending": (
        model(version="{artefact: a.bin}"),
        ["f.yaml:3:30: models.mlp.versions.1.artefact: expected a file that ends with .pt2, .pt, .ts, .py, .onnx, got 'a.bin'"],
    ),
    "python without a runtime": (
        model(version="{artefact: net.py, entry: Mlp}"),
        ["f.yaml:3:16: models.mlp.versions.1: 'runtime' is missing, a .py file can be torch or python"],
    ),
    "runtime that cannot read it": (
        model(version="{artefact: a.pt2, runtime: python}"),
        ["f.yaml:3:46: models.mlp.versions.1.runtime: python reads .py, and the artefact is 'a.pt2'"],
    ),
    "no entry": (
        model(version="{artefact: net.py, runtime: torch}"),
        ["f.yaml:3:16: models.mlp.versions.1: 'entry' is missing, expected one of the classes in net.py: Mlp, Echo"],
    ),
    "no such class, but nearly": (
        model(version="{artefact: net.py, runtime: torch, entry: MLP2}"),
        ["f.yaml:3:61: models.mlp.versions.1.entry: there is no class 'MLP2' in net.py; did you mean 'Mlp'?"],
    ),
    "no such class": (
        model(version="{artefact: empty.py, runtime: torch, entry: Mlp}"),
        ["f.yaml:3:63: models.mlp.versions.1.entry: there is no class 'Mlp' in empty.py; it has none"],
    ),
    "not Python": (
        model(version="{artefact: bad.py, runtime: torch, entry: Mlp}"),
        ["f.yaml:3:30: models.mlp.versions.1.artefact: 'FOLDER/bad.py' is not Python: line 2: invalid syntax"],
    ),
    "class for a file that is no code": (
        model(version="{artefact: a.pt2, entry: Mlp, options: {width: 1}, weights: w.safetensors}"),
        [
            "f.yaml:3:44: models.mlp.versions.1.entry: only for an artefact that is a .py file, this one is 'a.pt2'",
            "f.yaml:3:58: models.mlp.versions.1.options: only for an artefact that is a .py file, this one is 'a.pt2'",
            "f.yaml:3:79: models.mlp.versions.1.weights: only for an artefact that is a .py file, this one is 'a.pt2'",
        ],
    ),
    "weights that are not safetensors": (
        model(version="{artefact: net.py, runtime: torch, entry: Mlp, weights: a.pt}"),
        ["f.yaml:3:75: models.mlp.versions.1.weights: expected a .safetensors file, got 'a.pt'"],
    ),
    "no such weights": (
        model(version="{artefact: net.py, runtime: torch, entry: Mlp, weights: v.safetensors}"),
        ["f.yaml:3:75: models.mlp.versions.1.weights: 'FOLDER/v.safetensors' does not exist"],
    ),
    "several answers of another runtime": (
        model(version="{artefact: net.py, runtime: torch, entry: Mlp, decoupled: true}"),
        ["f.yaml:3:77: models.mlp.versions.1.decoupled: only for runtime python, whose predict may give several answers"],
    ),
    "weights of a python model": (
        model(version="{artefact: net.py, runtime: python, entry: Mlp, weights: w.safetensors}"),
        ["f.yaml:3:76: models.mlp.versions.1.weights: runtime python has none; a class loads its own files, give their path in options"],
    ),
    "TorchScript without a signature": (
        model(version="{artefact: a.pt}"),
        ["f.yaml:3:16: models.mlp.versions.1: 'signature' is missing, a .pt file does not tell it"],
    ),
    "everything at once": (
        "gateways: 0\nedge: no\n" + model("replicas: x", "traffic: {stable: 2}", version="{artefact: c.pt2, runtim: torch}") + "\n  b: 1\n",
        [
            "f.yaml:1:11: gateways: expected at least 1, got 0",
            "f.yaml:2:7: edge: expected one of auto, grpc, always, off, got the text 'no'",
            "f.yaml:5:30: models.mlp.versions.1.artefact: 'FOLDER/c.pt2' does not exist",
            "f.yaml:5:37: unknown key 'runtim' in models.mlp.versions.1; did you mean 'runtime'?",
            "f.yaml:6:15: models.mlp.replicas: expected a whole number, got the text 'x'",
            "f.yaml:7:23: models.mlp.traffic.stable: there is no version '2', expected one of 1",
            "f.yaml:8:6: models.b: expected a mapping, got the number 1",
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_broken_file_is_told_what_is_wrong_and_where(name: str, folder: Path) -> None:
    text, lines = CASES[name]
    assert said(folder, text) == lines


def test_a_model_in_two_files_is_an_error_that_names_both_places(folder: Path) -> None:
    assert said(folder, "gateways: 1\n" + model(), "gateways: 1\n" + model()) == [
        "g.yaml:1:1: gateways is declared twice, first at f.yaml:1:1",
        "g.yaml:3:3: models.mlp is declared twice, first at f.yaml:3:3",
    ]


def test_problems_of_all_files_show_at_once(folder: Path) -> None:
    assert said(folder, "models: [", "modles: 1") == [
        "f.yaml:1:10: not YAML: expected the node content, but found '<stream end>'",
        "g.yaml:1:1: unknown key 'modles'; did you mean 'models'?",
    ]


def test_a_wrong_default_of_a_model_is_told_once_for_all_its_versions(folder: Path) -> None:
    text = "\n".join(
        [
            "models:",
            "  mlp:",
            "    versions: {1: {artefact: a.pt2}, 2: {artefact: b.pt2}}",
            "    traffic: {stable: 1}",
            "    batching: {max_delay_ms: 1}",
        ]
    )
    assert said(folder, text) == ["f.yaml:5:30: models.mlp.batching.max_delay_ms: nothing to wait for, max_batch_size is 0"]
