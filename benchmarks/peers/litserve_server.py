"""LitServe around the signature: one worker, its fast (ZeroMQ) queue, batches where BENCH_MAX_BATCH says so."""

from __future__ import annotations

from typing import Any

import litserve
import numpy as np

from . import common


class Model(litserve.LitAPI):
    def __init__(self, work: str, **settings: Any) -> None:
        super().__init__(api_path=f"/v1/models/{work}:predict", **settings)
        self.work = work

    def setup(self, device: str) -> None:
        self.signature = common.Signature(self.work)
        common.freeze()

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # LitServe reads the annotations
        return self.signature.tensor(request["instances"])

    def batch(self, inputs: list[Any]) -> Any:
        return np.concatenate([x.numpy() for x in inputs])

    def unbatch(self, output: Any) -> Any:
        return output[:, None]

    def predict(self, x: Any) -> Any:
        if self.max_batch_size == 1:
            return self.signature(x)
        return self.signature(self.signature.tensor(x))

    def encode_response(self, output: Any) -> dict[str, Any]:
        answer = common.json_safe(output)
        return {"predictions": answer if isinstance(answer, list) else answer.tolist()}


if __name__ == "__main__":
    settings: dict[str, Any] = (
        {"max_batch_size": common.MAX_BATCH, "batch_timeout": common.MAX_WAIT_MS / 1000} if common.MAX_BATCH > 1 else {}
    )
    models = [Model(work, **settings) for work in common.WORKS]
    server = litserve.LitServer(models, accelerator="cpu", workers_per_device=1, timeout=False, fast_queue=True)
    server.run(
        host=common.HOST, port=common.PORT, num_api_servers=1, generate_client_file=False, log_level="error",
        pretty_logs=False, access_log=False,
    )  # fmt: skip
