"""Ask a served model over REST, with nothing but Python's standard library.

    JUPYTER_TOKEN=... python rest_client.py http://127.0.0.1:8888/tfserve/v1/models/digits held_out.json

The second argument is a JSON file: {"images": [8 rows of 8 numbers each, ...]}. Prints the digits it was told, as JSON.
"""

import json
import os
import sys
import urllib.request


def predict(url, images):
    """The model's answer to each image: a list of ten probabilities."""
    request = urllib.request.Request(
        f"{url}:predict",
        data=json.dumps({"instances": images}).encode(),
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {os.environ['JUPYTER_TOKEN']}"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)["predictions"]


if __name__ == "__main__":
    url, file = sys.argv[1:]
    with open(file) as held_out:
        images = json.load(held_out)["images"]
    print(json.dumps([row.index(max(row)) for row in predict(url, images)]))
    assert "tensorflow" not in sys.modules
