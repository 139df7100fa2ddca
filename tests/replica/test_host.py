"""A real replica in this process, a raw socket as its gateway."""

from __future__ import annotations

import numpy as np
import pytest

from serving.errors import Code
from tests.replica.conftest import Start
from tests.replica.peer import Peer, vector

DOUBLE = "class Model:\n    def predict(self, inputs):\n        return {'y': inputs['x'] * 2}\n"


@pytest.mark.parametrize("execution", ["inline", "thread"])
def test_each_answer_belongs_to_its_request(start: Start, execution: str) -> None:
    host = start(DOUBLE, execution=execution)
    with Peer(host.address["uds"]) as peer:
        sent = {}
        for rows in (1, 2, 3):
            peer.define(rows, "m/1", vector(rows))
        for key in range(300):
            rows = 1 + key % 3
            sent[key] = np.full((rows, 4), key, np.float32)
            peer.request(rows, {key: sent[key].tobytes()})
        for reply in peer.wait(*sent):
            assert reply.code == Code.OK
            np.testing.assert_array_equal(reply.array(), sent[reply.key] * 2)
            assert 1 <= reply.batch_rows <= 8
