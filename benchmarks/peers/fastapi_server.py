"""FastAPI on uvicorn with uvloop and httptools, around the signature; orjson both ways.

The handler runs the model on the event loop: with one core the thread pool of a plain `def` only costs.
"""

from __future__ import annotations

import orjson
import uvicorn
from fastapi import FastAPI, Request, Response

from . import common

app = FastAPI()
signatures = common.load()


@app.post("/v1/models/{name}:predict")
async def predict(name: str, request: Request) -> Response:
    signature = signatures[name]
    rows = orjson.loads(await request.body())["instances"]
    answer = common.json_safe(signature(signature.tensor(rows)))
    body = orjson.dumps({"predictions": answer}, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, media_type="application/json")


if __name__ == "__main__":
    uvicorn.run(
        app, host=common.HOST, port=common.PORT, loop="uvloop", http="httptools", access_log=False, log_level="error"
    )
