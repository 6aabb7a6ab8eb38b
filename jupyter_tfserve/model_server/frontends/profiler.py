"""TensorFlow's ProfilerService on the gRPC port, for `tf.profiler.experimental.client.trace` and TensorBoard's "capture
profile": traces all that runs in this process for a while and writes it where the caller says. `services.py` carries
it.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorflow.tsl.profiler.protobuf import profiler_options_pb2, xplane_pb2

from .. import config_protos
from ..errors import Code, ServingError, invalid

PROFILER_SERVICE = "tensorflow.ProfilerService"

#: Seconds that one capture may last.
_LONGEST = 600.0


class ProfilerService:
    """One capture at a time: TensorFlow has one tracer in a process."""

    def __init__(self) -> None:
        self._capturing = threading.Lock()
        self._session_id = ""
        self._stop = threading.Event()

    def methods(self) -> Mapping[str, Any]:
        """Its methods, bytes to bytes, as in `services.py`. (Monitor is for TPUs, in TensorFlow too.)"""
        return {"Profile": self.profile, "Terminate": self.terminate}

    def profile(self, payload: bytes, deadline: float | None) -> bytes:
        """Trace for `duration_ms`, write ``<repository_root>/<session_id>/<host_name>.xplane.pb``."""
        request = config_protos.from_bytes("ProfileRequest", payload)
        folder, name = _target(request)
        seconds = min(request.duration_ms / 1000, _LONGEST, *([deadline - time.monotonic()] if deadline else []))
        if not self._capturing.acquire(blocking=False):
            raise ServingError(Code.ALREADY_EXISTS, "Another profile is being captured.", "Wait for it to end.")
        try:
            self._session_id = request.session_id
            self._stop.clear()
            space = self._capture(request, max(0.0, seconds))
        finally:
            self._session_id = ""
            self._capturing.release()
        space.hostnames[:] = [request.host_name]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(space.SerializeToString())
        except OSError as error:
            raise ServingError(Code.FAILED_PRECONDITION, f"{folder} cannot be written: {error.strerror}") from None
        empty = not any(line.events for plane in space.planes for line in plane.lines)
        return config_protos.to_bytes("ProfileResponse", empty_trace=empty)

    def terminate(self, payload: bytes, deadline: float | None) -> bytes:
        """End a capture before its time; what was traced is written."""
        session_id = config_protos.from_bytes("TerminateRequest", payload).session_id
        if session_id != self._session_id or not session_id:
            raise ServingError(Code.NOT_FOUND, f"No profile {session_id!r} is being captured.")
        self._stop.set()
        return b""

    def _capture(self, request: Any, seconds: float) -> xplane_pb2.XSpace:
        """What ran."""
        # Here, as a front has the services and no TensorFlow.
        from tensorflow.python.framework import errors
        from tensorflow.python.profiler.internal import _pywrap_profiler

        asked = profiler_options_pb2.ProfileOptions.FromString(request.opts)
        levels = {
            name: getattr(asked, name) for name in ("host_tracer_level", "device_tracer_level", "python_tracer_level")
        }
        session = _pywrap_profiler.ProfilerSession()
        with tempfile.TemporaryDirectory(prefix="tfserve-profile-") as folder:
            try:
                session.start(folder, levels if asked.version else {})
            except errors.OpError as error:  # somebody traces from inside this process
                raise ServingError(Code.ALREADY_EXISTS, error.message) from None
            self._stop.wait(seconds)
            session.export_to_tb()  # the one way to the whole XSpace: `stop` gives the events alone
            [written] = Path(folder).rglob("*.xplane.pb")
            return xplane_pb2.XSpace.FromString(written.read_bytes())


def _target(request: Any) -> tuple[Path, str]:
    """Folder and file, named as TensorFlow does (`xplane_to_tools_data`); raises ServingError."""
    name = request.host_name.replace(":", "_") + ".xplane.pb"
    if not request.repository_root or not Path(request.repository_root).is_absolute():
        raise invalid(f"The profile needs an absolute folder to be written to, not {request.repository_root!r}.")
    if "/" in name or request.session_id in ("", ".", "..") or "/" in request.session_id:
        raise invalid("session_id and host_name become names of a folder and a file: leave out '/'.")
    return Path(request.repository_root, request.session_id), name
