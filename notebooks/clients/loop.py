"""Ask a served model the same question again and again, until standard input is closed.

    JUPYTER_TOKEN=... python loop.py http://127.0.0.1:8888/tfserve/v1/models/digits held_out.json

One connection, one request after the other, nothing but the standard library. A line is printed whenever the answer is
not what it was before; the last line is JSON: how many requests got each answer in turn, how many failed, and why.
"""

import http.client
import json
import os
import select
import sys
import time
from urllib.parse import urlsplit

PAUSE = 0.004  # seconds between two requests: leaves the machine some room to train


def ask(connection, path, body, headers):
    """The ten probabilities for one image; raises if there is anything but a good answer."""
    connection.request("POST", path, body, headers)
    response = connection.getresponse()
    content = response.read()
    if response.status != 200:
        raise RuntimeError(f"{response.status} {content[:200].decode(errors='replace')}")
    return json.loads(content)["predictions"][0]


def same(one, other):
    """Whether two answers come from the same version: a batch of another size may change the last bits."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) < 1e-4


def main(url, file):
    with open(file) as held_out:
        image = json.load(held_out)["images"][0]
    body = json.dumps({"instances": [image]})
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ['JUPYTER_TOKEN']}"}
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=30)
    last, counts, errors = None, [], []
    while not select.select([sys.stdin], [], [], 0)[0]:
        try:
            answer = ask(connection, f"{parts.path}:predict", body, headers)
        except (OSError, http.client.HTTPException, RuntimeError) as error:
            errors.append(f"{type(error).__name__}: {error}")
            connection.close()
        else:
            if last is None or not same(answer, last):
                print(f"after {sum(counts)} requests the answer is {[round(value, 4) for value in answer]}", flush=True)
                counts.append(0)
            counts[-1] += 1
            last = answer
        time.sleep(PAUSE)
    print(json.dumps({"answers": counts, "failed": len(errors), "errors": errors[:5]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
