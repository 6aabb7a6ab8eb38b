"""MLServer with a runtime of our own around the signature; inside its server process, without workers; no debug log,
no metrics, no gzip. Batches (its adaptive batching) where BENCH_MAX_BATCH says so.
"""

from __future__ import annotations

import asyncio
import base64
from typing import Any

from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse

from . import common


class TensorFlow(MLModel):
    async def load(self) -> bool:
        self.signature = common.Signature(self.name)
        common.freeze()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        tensor = payload.inputs[0]
        if tensor.datatype == "BYTES":
            rows: Any = [_bytes(self.name, row) for row in tensor.data]
        else:
            rows = NumpyCodec.decode_input(tensor)
        y = self.signature(self.signature.tensor(rows))
        if y.dtype == object:
            output = StringCodec.encode_output("y", [row.decode() for row in y])
        else:
            output = NumpyCodec.encode_output("y", y)
        return InferenceResponse(model_name=self.name, outputs=[output])


def _bytes(work: str, row: str | bytes) -> bytes:
    if isinstance(row, bytes):
        return row
    return base64.b64decode(row) if work == "jpeg" else row.encode()


async def _main() -> None:
    settings = Settings(
        debug=False,
        host=common.HOST,
        http_port=common.PORT,
        grpc_port=common.GRPC_PORT,
        parallel_workers=0,
        metrics_endpoint=None,
        gzip_enabled=False,
        grpc_max_message_length=2**28,
    )
    batching = {"max_batch_size": common.MAX_BATCH, "max_batch_time": common.MAX_WAIT_MS / 1000}
    models = [
        ModelSettings(
            name=work,
            implementation=TensorFlow,
            parameters=ModelParameters(version="1"),
            **(batching if common.MAX_BATCH > 1 else {}),
        )
        for work in common.WORKS
    ]
    await MLServer(settings).start(models)


if __name__ == "__main__":
    import uvloop

    uvloop.install()
    asyncio.run(_main())
