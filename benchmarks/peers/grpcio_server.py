"""grpcio's synchronous server around the signature: PredictionService/Predict, as people write it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import tensorflow as tf
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse
from tensorflow_serving.apis.prediction_service_pb2_grpc import (
    PredictionServiceServicer,
    add_PredictionServiceServicer_to_server,
)

from . import common

signatures = common.load()


class Service(PredictionServiceServicer):
    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:
        assert isinstance(request, PredictRequest)
        y = signatures[request.model_spec.name](tf.constant(tf.make_ndarray(request.inputs["x"])))
        response = PredictResponse()
        response.outputs["y"].CopyFrom(tf.make_tensor_proto(y))
        return response


if __name__ == "__main__":
    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", -1)])
    add_PredictionServiceServicer_to_server(Service(), server)
    server.add_insecure_port(f"{common.HOST}:{common.PORT}")
    server.start()
    server.wait_for_termination()
