"""A yardstick: pygrpc-native, which takes gRPC calls off the wire in bursts, answered without a look."""

from __future__ import annotations

from pygrpc_native import EVENT_CALL, NativeGrpcFront

from . import common

if __name__ == "__main__":
    answer = common.canned_predict()
    front = NativeGrpcFront(f"{common.HOST}:{common.PORT}", [(common.PREDICT, False)], io_threads=1)
    front.start()
    while (events := front.recv_batch(64)) is not None:
        for event in events:
            if event[0] == EVENT_CALL:
                front.respond(event[1], answer)
