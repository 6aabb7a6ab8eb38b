"""What ours is measured beside: the plain servers that people write around a SavedModel, and servers that do nothing.

    python peers.py tornado|grpcio|empty-rest|empty-grpc MODELS_FOLDER

MODELS_FOLDER holds <model>/1/saved_model.pb. Prints its port, then serves until standard input is closed.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


def end_with_owner() -> None:
    """Whoever started this process holds its standard input open."""
    import os

    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()


def signatures(folder: str) -> dict[str, Any]:
    import tensorflow as tf

    return {
        path.name: tf.saved_model.load(str(path / "1")).signatures["serving_default"] for path in Path(folder).iterdir()
    }


def tornado_server(folder: str) -> None:
    """A Tornado handler: json in, `loaded.signatures[...]`, json out. Its event loop is uvloop, as ours is."""
    import tensorflow as tf
    import tornado.httpserver
    import tornado.netutil
    import tornado.web
    import uvloop

    models = signatures(folder)

    class Predict(tornado.web.RequestHandler):
        def post(self, name: str) -> None:
            function = models[name]
            ((key, spec),) = function.structured_input_signature[1].items()
            instances = json.loads(self.request.body)["instances"]
            (output,) = function(**{key: tf.constant(instances, spec.dtype)}).values()
            self.write({"predictions": output.numpy().tolist()})

    async def serve() -> None:
        sockets = tornado.netutil.bind_sockets(0, "127.0.0.1")
        app = tornado.web.Application([(r"/v1/models/(\w+):predict", Predict)])
        tornado.httpserver.HTTPServer(app).add_sockets(sockets)
        print(sockets[0].getsockname()[1], flush=True)
        await asyncio.Event().wait()

    uvloop.install()
    asyncio.run(serve())


def serve_grpc(
    method: Callable[..., Any], request: Callable[[bytes], Any] | None, answer: Callable[[Any], bytes] | None
) -> None:
    import grpc

    server = grpc.server(ThreadPoolExecutor(8))
    handler = grpc.unary_unary_rpc_method_handler(method, request, answer)
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", {"Predict": handler})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


def grpcio_server(folder: str) -> None:
    """A grpcio server: make_ndarray, `loaded.signatures[...]`, make_tensor_proto."""
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    models = signatures(folder)

    def predict(request: Any, context: Any) -> Any:
        function = models[request.model_spec.name]
        inputs = {key: tf.constant(tf.make_ndarray(tensor)) for key, tensor in request.inputs.items()}
        response = predict_pb2.PredictResponse()
        for key, value in function(**inputs).items():
            response.outputs[key].CopyFrom(tf.make_tensor_proto(value.numpy()))
        return response

    serve_grpc(predict, predict_pb2.PredictRequest.FromString, predict_pb2.PredictResponse.SerializeToString)


def empty_rest(_: str) -> None:
    """Answers whatever comes in one piece or more with the same words: the generator's ceiling."""
    import uvloop

    class Always(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport, self.missing = transport, 0

        def data_received(self, data: bytes) -> None:
            if not self.missing:
                head, _, body = data.partition(b"\r\n\r\n")
                self.missing = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]) - len(body)
            else:
                self.missing -= len(data)
            if not self.missing:
                self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(Always, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.Event().wait()

    uvloop.install()
    asyncio.run(serve())


def empty_grpc(_: str) -> None:
    """A grpcio handler that returns nothing."""
    serve_grpc(lambda request, context: b"", None, None)


if __name__ == "__main__":
    end_with_owner()
    kinds = {"tornado": tornado_server, "grpcio": grpcio_server, "empty-rest": empty_rest, "empty-grpc": empty_grpc}
    kinds[sys.argv[1]](sys.argv[2])
