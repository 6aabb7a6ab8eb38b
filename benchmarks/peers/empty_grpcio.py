"""A yardstick: grpcio's synchronous server with a handler that answers without looking; bytes in, bytes out."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc

from . import common

if __name__ == "__main__":
    answer = common.canned_predict()
    service, method = common.PREDICT.strip("/").split("/")
    handler = grpc.unary_unary_rpc_method_handler(lambda request, context: answer)
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    server.add_insecure_port(f"{common.HOST}:{common.PORT}")
    server.start()
    server.wait_for_termination()
