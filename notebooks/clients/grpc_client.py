"""Ask a served model over gRPC, with TensorFlow Serving's own stubs (`pip install tensorflow-serving-api`).

    JUPYTER_TOKEN=... python grpc_client.py 127.0.0.1:8500 digits held_out.json

The third argument is a JSON file: {"images": [8 rows of 8 numbers each, ...]}. Prints the digits it was told, as JSON.
"""

import json
import os
import sys

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc


def predict(address, model, images):
    """The model's answer to each image: an array of ten probabilities."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.inputs["image"].CopyFrom(tf.make_tensor_proto(np.asarray(images, np.float32)))
    token = [("authorization", f"Bearer {os.environ['JUPYTER_TOKEN']}")]
    with grpc.insecure_channel(address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        response = stub.Predict(request, timeout=30, metadata=token)
    return tf.make_ndarray(response.outputs["output_0"])


if __name__ == "__main__":
    address, model, file = sys.argv[1:]
    with open(file) as held_out:
        images = json.load(held_out)["images"]
    print(json.dumps(predict(address, model, images).argmax(axis=1).tolist()))
