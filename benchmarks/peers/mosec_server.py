"""mosec around the signature: HTTP in Rust, one worker process that is handed whole batches; orjson both ways."""

from __future__ import annotations

from typing import Any

import mosec
import numpy as np
import orjson

from . import common


class Predict(mosec.Worker):
    work = ""

    def __init__(self) -> None:
        super().__init__()
        self.signature = common.Signature(self.work)
        common.freeze()

    def deserialize(self, data: bytes) -> Any:
        return self.signature.tensor(orjson.loads(data)["instances"])

    def forward(self, data: Any) -> Any:
        if self.max_batch_size == 1:
            return self.signature(data)
        rows = np.concatenate([x.numpy() for x in data])
        return list(self.signature(self.signature.tensor(rows))[:, None])

    def serialize(self, data: Any) -> bytes:
        return orjson.dumps({"predictions": common.json_safe(data)}, option=orjson.OPT_SERIALIZE_NUMPY)


def _worker(work: str) -> type[Predict]:
    """A class of its own, under a name that the worker's process can import again."""
    name = f"Predict_{work}"
    made = type(name, (Predict,), {"work": work, "__module__": __name__})
    globals()[name] = made
    return made


WORKERS = {work: _worker(work) for work in common.WORKS}

if __name__ == "__main__":
    server = mosec.Server()
    for work, worker in WORKERS.items():
        server.append_worker(
            worker,
            max_batch_size=common.MAX_BATCH,
            max_wait_time=common.MAX_WAIT_MS,
            timeout=120,
            route=f"/v1/models/{work}:predict",
        )
    server.run()
