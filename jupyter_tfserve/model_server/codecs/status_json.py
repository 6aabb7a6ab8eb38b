"""A model's status and metadata as TF Serving's JSON: protobuf's own printer with empty fields, one space of
indentation.
"""

from __future__ import annotations

import json
from typing import Any

from google.protobuf import json_format
from tensorflow_serving.apis import get_model_metadata_pb2

from ..core.server_core import ServerCore
from ..errors import Code, ServingError


def status(core: ServerCore, model: str, number: int | None = None) -> dict[str, Any]:
    """``{"model_version_status": [...]}``, highest version first. Raises NOT_FOUND with TF Serving's text."""
    versions = core.manager.versions(model)
    if number is not None:
        versions = [version for version in versions if version.number == number]
        if not versions:
            raise ServingError(Code.NOT_FOUND, f"Could not find version {number} of model {model}")
    if not versions and model not in core.models:
        raise ServingError(Code.NOT_FOUND, f"Could not find any versions of model {model}")
    return {
        "model_version_status": [
            {
                "version": str(version.number),
                "state": version.state,
                "status": {
                    "error_code": version.error.code.name if version.error else "OK",
                    "error_message": version.error.message if version.error else "",
                },
            }
            for version in versions
        ]
    }


def metadata(model: str, number: int, signature_def_map: bytes) -> bytes:
    """The metadata document of a version."""
    signatures = get_model_metadata_pb2.SignatureDefMap.FromString(signature_def_map)
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = model
    response.model_spec.version.value = number
    response.metadata["signature_def"].Pack(signatures)
    document = json_format.MessageToDict(
        response, always_print_fields_with_no_presence=True, preserving_proto_field_name=True
    )
    document["metadata"]["signature_def"].pop("@type", None)
    return json.dumps(document, indent=1).encode() + b"\n"
