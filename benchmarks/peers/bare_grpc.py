"""The bare burst server over gRPC: the calls that pygrpc-native hands over at once are one batch. The yardstick for
ours: one model, no checks, no errors, no metrics.
"""

from __future__ import annotations

import numpy as np
from pygrpc_native import EVENT_CALL, NativeGrpcFront
from tensorflow.core.framework.types_pb2 import DT_FLOAT, DT_STRING
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse

from . import common
from .session import Callable


def decode(payload: bytes) -> np.ndarray:
    tensor = PredictRequest.FromString(payload).inputs["x"]
    if tensor.dtype == DT_STRING:
        return np.array(tensor.string_val, object)
    shape = [dimension.size for dimension in tensor.tensor_shape.dim]
    return np.frombuffer(tensor.tensor_content, np.float32).reshape(shape)


def encode(y: np.ndarray) -> bytes:
    response = PredictResponse()
    tensor = response.outputs["y"]
    for size in y.shape:
        tensor.tensor_shape.dim.add().size = size
    if y.dtype == object:
        tensor.dtype = DT_STRING
        tensor.string_val.extend(y)
    else:
        tensor.dtype = DT_FLOAT
        tensor.tensor_content = y.tobytes()
    serialized: bytes = response.SerializeToString()
    return serialized


def main() -> None:
    model = Callable(common.MODELS / common.WORKS[0] / "1")
    common.freeze()
    front = NativeGrpcFront(f"{common.HOST}:{common.PORT}", [(common.PREDICT, False)], io_threads=1)
    front.start()
    while (events := front.recv_batch(64)) is not None:
        asked = [(event[1], decode(event[3])) for event in events if event[0] == EVENT_CALL]
        if not asked:
            continue
        outputs = model(np.concatenate([rows for _, rows in asked]))
        end = 0
        for call, rows in asked:
            start, end = end, end + len(rows)
            front.respond(call, encode(outputs[start:end]))


if __name__ == "__main__":
    main()
