"""Talks to the management API and to TF Serving's REST API over HTTP: through a Jupyter Server, or straight to a
model server's Unix socket. Used by the kernel, the tests and scripts; the answers are the messages of `api.py`.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TypeVar, cast
from urllib.parse import quote

import httpx

from .api import (
    BatchingRequest,
    DeviceList,
    Event,
    Example,
    ModelRequest,
    ModelStatus,
    NewShare,
    PlacementRequest,
    Policy,
    SavedModelRequest,
    ServedVersion,
    ServerInfo,
    ServerRequest,
    ShareList,
    ShareRequest,
    State,
    Stats,
    Upload,
    UploadRequest,
)

_Kind = TypeVar("_Kind", bound="_Stream")

#: Seconds that a stream of events is silent at most while its server lives: it shows a sign of life each 15 s.
_SILENCE = 60.0

#: Seconds for one management call; the long ones (waiting for a load, starting) pass their own.
TIMEOUT = 30.0


class TFServeError(Exception):
    """A call was refused, or nobody answered. `status` is the HTTP status, 0 where there was no answer."""

    def __init__(self, message: str, remedy: str = "", status: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.status = status

    def __str__(self) -> str:
        return f"{self.message}\n{self.remedy}" if self.remedy else self.message


class Client:
    """One endpoint.

    `url` is what stands before ``/v1`` and ``/api``: ``http://127.0.0.1:8888/tfserve`` for a Jupyter Server. With
    `socket` the calls go to that Unix socket instead.
    """

    def __init__(
        self, url: str = "http://tfserve", token: str = "", socket: str | Path = "", verify: bool = True
    ) -> None:
        self.url = url.rstrip("/")
        transport = httpx.HTTPTransport(uds=str(socket)) if socket else httpx.HTTPTransport(verify=verify)
        # A proxy from the environment must never see the token of a server on this machine: trust_env is off.
        self._http = httpx.Client(
            transport=transport,
            trust_env=False,
            timeout=TIMEOUT,
            headers={"Authorization": f"token {token}"} if token else {},
        )

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def state(self, timeout: float = TIMEOUT) -> State:
        """Everything at a glance."""
        return cast(State, self._call("GET", "/api/state", timeout=timeout))

    def model(self, name: str, wait: int | None = None, timeout: float = 0.0) -> ModelStatus:
        """One model; with `wait`, as soon as that version has loaded or failed, or after `timeout` seconds."""
        query = "" if wait is None else f"?wait={wait}&timeout={timeout:g}"
        return cast(
            ModelStatus, self._call("GET", f"/api/models/{quote(name, safe='')}{query}", timeout=TIMEOUT + timeout)
        )

    def register(self, name: str, request: ModelRequest) -> ModelStatus:
        """Serve a model, or change what is served; starts the model server where it does not run (which may take a
        while).
        """
        return cast(ModelStatus, self._call("PUT", f"/api/models/{quote(name, safe='')}", request, timeout=180.0))

    def unregister(self, name: str, files: bool = False) -> None:
        """Stop serving a model; with `files`, delete the store's copy."""
        self._call("DELETE", f"/api/models/{quote(name, safe='')}{'?files=true' if files else ''}")

    def set_policy(self, name: str, policy: Policy) -> ModelStatus:
        """Say which versions are to be served."""
        return cast(ModelStatus, self._call("PUT", f"/api/models/{quote(name, safe='')}/policy", policy))

    def set_batching(self, name: str, request: BatchingRequest) -> ModelStatus:
        """Say how requests are merged, at once; keys left out stay, None goes back to the default."""
        return cast(
            ModelStatus, self._call("PUT", f"/api/models/{quote(name, safe='')}/batching", request, timeout=180.0)
        )

    def devices(self) -> DeviceList:
        """The devices that models can be served on; where there are GPUs it may take as long as TensorFlow's import."""
        return cast(DeviceList, self._call("GET", "/api/devices", timeout=180.0))

    def set_device(self, name: str, request: PlacementRequest, timeout: float = 0.0) -> ModelStatus:
        """Move a model to another device, or say how many processes have it; waits so many seconds for it to be there
        (0: it answers when the move has begun).
        """
        path = f"/api/models/{quote(name, safe='')}/device?timeout={timeout:g}"
        return cast(ModelStatus, self._call("PUT", path, request, timeout=timeout + 180.0))

    def set_labels(self, name: str, labels: dict[str, int | None]) -> ModelStatus:
        """Move labels; None takes one away."""
        return cast(ModelStatus, self._call("PATCH", f"/api/models/{quote(name, safe='')}/labels", labels))

    def config(self) -> str:
        """The ModelServerConfig that is served, as text proto."""
        return self._send("GET", "/api/config", timeout=TIMEOUT).text

    def set_config(self, text: str) -> State:
        """Replace the whole ModelServerConfig."""
        response = self._send(
            "PUT", "/api/config", text.encode(), timeout=180.0, content_type="text/plain; charset=utf-8"
        )
        return cast(State, response.json())

    def server(self, request: ServerRequest) -> ServerInfo:
        """Start, stop or restart the model server."""
        return cast(ServerInfo, self._call("POST", "/api/server", request, timeout=180.0))

    def logs(self, lines: int = 200, process: str = "") -> str:
        """The end of the model server's log, or of the log of one of its workers."""
        more = f"&process={quote(process, safe='')}" if process else ""
        return self._send("GET", f"/api/logs?lines={lines}{more}", timeout=TIMEOUT).text

    def follow_log(self, lines: int = 200) -> LogStream:
        """The end of the model server's log, then what is written to it, until the connection ends."""
        return LogStream(self, lines)

    def events(self, stats: bool = False) -> Iterator[Event]:
        """Changes as they happen, until the connection ends; the first event arrives with the next change. With
        `stats` there is one each second that tells what the models did in it.
        """
        with self.listen(stats) as stream:
            yield from stream

    def listen(self, stats: bool = False) -> EventStream:
        """The same as an object that another thread can close."""
        return EventStream(self, stats)

    def stats(self, seconds: int = 120) -> Stats:
        """What the models did in the last seconds."""
        return cast(Stats, self._call("GET", f"/api/stats?seconds={seconds}"))

    def example(self, name: str, signature: str = "") -> Example:
        """A request to try a model with."""
        query = f"?signature={quote(signature, safe='')}" if signature else ""
        return cast(Example, self._call("GET", f"/api/models/{quote(name, safe='')}/example{query}"))

    def begin_upload(self, request: UploadRequest) -> Upload:
        """Announce a version that is to come in pieces."""
        return cast(Upload, self._call("POST", "/api/uploads", request))

    def upload_part(self, upload: str, path: str, offset: int, part: bytes) -> Upload:
        """Send bytes of one file, from `offset`."""
        return cast(
            Upload,
            self._send(
                "PUT",
                f"/api/uploads/{upload}?path={quote(path, safe='')}&offset={offset}",
                part,
                timeout=180.0,
                content_type="application/octet-stream",
            ).json(),
        )

    def finish_upload(self, upload: str) -> Upload:
        """Check the hashes and publish."""
        return cast(Upload, self._call("POST", f"/api/uploads/{upload}", timeout=600.0))

    def abort_upload(self, upload: str) -> None:
        """Give an upload up."""
        self._call("DELETE", f"/api/uploads/{upload}")

    def serve_saved_model(self, request: SavedModelRequest) -> ServedVersion:
        """Serve a copy of a SavedModel that the Jupyter Server's file browser shows."""
        return cast(ServedVersion, self._call("POST", "/api/saved_models", request, timeout=600.0))

    def shares(self) -> ShareList:
        """Everything that is shared."""
        return cast(ShareList, self._call("GET", "/api/shares"))

    def share(self, request: ShareRequest) -> NewShare:
        """Let somebody predict. The answer holds an access key, which is told only this once."""
        return cast(NewShare, self._call("POST", "/api/shares", request, timeout=60.0))

    def unshare(self, share: str) -> None:
        """Revoke a share."""
        self._call("DELETE", f"/api/shares/{quote(share, safe='')}", timeout=60.0)

    def predict(self, name: str, body: Any, version: int | None = None, label: str = "", timeout: float = 60.0) -> Any:
        """TF Serving's REST Predict: `body` is a JSON-safe dict, or bytes or str to be sent as they are."""
        path = f"/v1/models/{quote(name, safe='')}"
        if version is not None:
            path += f"/versions/{version}"
        elif label:
            path += f"/labels/{quote(label, safe='')}"
        data = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
        return json.loads(self._send("POST", path + ":predict", data, timeout=timeout).content)

    def _call(self, verb: str, path: str, body: Any = None, timeout: float = TIMEOUT) -> Any:
        data = None if body is None else json.dumps(body).encode()
        response = self._send(verb, path, data, timeout=timeout)
        try:
            return response.json() if response.content else {}
        except ValueError as error:
            raise TFServeError(
                f"{self.url} does not answer as jupyter_tfserve.", "Check the address.", response.status_code
            ) from error

    @contextlib.contextmanager
    def _stream(self, path: str, silence: float | None = None) -> Iterator[httpx.Response]:
        """An answer that comes in parts; `silence` is how many seconds may be between two of them."""
        try:
            with self._http.stream("GET", self.url + path, timeout=httpx.Timeout(TIMEOUT, read=silence)) as response:
                if response.status_code >= 300:
                    response.read()
                    raise _refusal(response)
                yield response
        except httpx.HTTPError as error:
            raise _no_answer(self.url, error) from error

    def _send(
        self,
        verb: str,
        path: str,
        data: bytes | BinaryIO | None = None,
        timeout: float = TIMEOUT,
        content_type: str = "application/json",
    ) -> httpx.Response:
        try:
            response = self._http.request(
                verb,
                self.url + path,
                content=data,
                timeout=timeout,
                headers={"Content-Type": content_type} if data is not None else {},
            )
        except httpx.HTTPError as error:
            raise _no_answer(self.url, error) from error
        if response.status_code >= 300:  # a redirection is a login page: nothing of ours redirects
            raise _refusal(response)
        return response


class _Stream:
    """An answer that comes in parts: entered it is connected, left it is closed."""

    def __init__(self, opening: contextlib.AbstractContextManager[httpx.Response]) -> None:
        self._opening = opening
        self._response: httpx.Response | None = None

    def __enter__(self: _Kind) -> _Kind:
        self._response = self._opening.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._response = None
        self._opening.__exit__(kind, error, trace)

    def close(self) -> None:
        """From another thread: the one that reads gets a TFServeError, or sees the end."""
        response = self._response
        if response is not None:
            connection = response.extensions["network_stream"].get_extra_info("socket")
            with contextlib.suppress(OSError):  # it ended by itself
                connection.shutdown(socket.SHUT_RDWR)


class EventStream(_Stream):
    """Events as they happen."""

    def __init__(self, client: Client, stats: bool) -> None:
        super().__init__(client._stream(f"/api/events{'?stats=true' if stats else ''}", _SILENCE))

    def __iter__(self) -> Iterator[Event]:
        assert self._response is not None
        for line in self._response.iter_lines():
            if line.startswith("data: "):
                yield cast(Event, json.loads(line[6:]))


class LogStream(_Stream):
    """A log as it is written, in pieces of text."""

    def __init__(self, client: Client, lines: int) -> None:
        super().__init__(client._stream(f"/api/logs?follow=true&lines={lines}"))

    def __iter__(self) -> Iterator[str]:
        assert self._response is not None
        yield from self._response.iter_text()


def _refusal(response: httpx.Response) -> TFServeError:
    """From a `Refusal`, or from TF Serving's ``{"error": ...}``, or from whatever a proxy says."""
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        return TFServeError(
            f"{response.url.path} answered {response.status_code} {response.reason_phrase}.", "", response.status_code
        )
    message = body.get("message") or body.get("error") or response.reason_phrase
    return TFServeError(str(message), str(body.get("remedy") or ""), response.status_code)


def _no_answer(url: str, error: httpx.HTTPError) -> TFServeError:
    return TFServeError(
        f"No answer from {url}: {str(error) or type(error).__name__}.",
        "Is the server running? `%tfserve start` starts it.",
    )
