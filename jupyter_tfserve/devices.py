"""The devices of this machine that models can be served on: the CPU and, as NVIDIA's management library (NVML) tells of
them, the GPUs and MIG instances; and which of them the installed TensorFlow can use. The Jupyter Server lists them
while no model server runs, a front places models on them. Nothing here imports TensorFlow: a child process does.

`TFSERVE_SIMULATED_DEVICES=cpu:1=2G,cpu:2` adds devices that have such names and that much memory to give, and are the
CPU: what moves and places models can be tried, and is tested, where there is no GPU.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from . import api
from .cgroup import memory_limit, memory_used

SIMULATED = "TFSERVE_SIMULATED_DEVICES"

CPU = "cpu"

#: Seconds that TensorFlow may take to say what it can use: it is imported for that.
_ASK_SECONDS = 120.0

#: The driver that a CUDA version needs at least (CUDA's release notes, "minimum required driver version").
_DRIVERS = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}

_WITH_CUDA = "pip install 'tensorflow[and-cuda]'"

#: Asked of TensorFlow in a child process, whose devices are those of CUDA_VISIBLE_DEVICES. Keras is of no use to it.
_QUESTION = """
import sys, json
sys.modules["keras"] = None
import tensorflow as tf
gpus = [gpu.name for gpu in tf.config.list_physical_devices("GPU")]
build = {key: value for key, value in tf.sysconfig.get_build_info().items()}
print("\\n" + json.dumps({"version": tf.__version__, "build": build, "gpus": gpus}, default=str))
"""

_SIZE = re.compile(r"(\d+)([KMGT]?)")
_LIBRARY = re.compile(r"\blib[\w.+-]+\.so[\w.]*")


@dataclass(frozen=True)
class Device:
    """One device."""

    id: str  #: "cpu", "gpu:0", "gpu:0:1" for a MIG instance; GPUs have CUDA's numbers, so CUDA_VISIBLE_DEVICES counts
    kind: Literal["cpu", "gpu", "mig"]
    name: str
    memory_total: int | None  #: bytes
    memory_used: int | None  #: bytes, by all programs
    load: float | None  #: 0 to 1
    usable: bool = True
    reason: str = ""
    remedy: str = ""
    visible: str = ""  #: CUDA_VISIBLE_DEVICES of a process that is to use it
    capability: tuple[int, int] | None = None  #: CUDA's compute capability

    @property
    def free(self) -> int:
        """Bytes that are not used; 0 where that is not known."""
        if self.memory_total is None or self.memory_used is None:
            return 0
        return max(0, self.memory_total - self.memory_used)

    @property
    def is_accelerator(self) -> bool:
        """Whether it is anything but the CPU itself; simulated ones are."""
        return self.id != CPU

    def environment(self) -> dict[str, str]:
        """What a process that is to use it, and no other, has in its environment before it starts."""
        return {
            "CUDA_VISIBLE_DEVICES": self.visible,
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        }

    def message(self, models: Iterable[str] = ()) -> api.Device:
        """As the management API tells of it."""
        return api.Device(
            id=self.id,
            kind=self.kind,
            name=self.name,
            memory_total=self.memory_total,
            memory_used=self.memory_used,
            load=self.load,
            usable=self.usable,
            reason=self.reason,
            remedy=self.remedy,
            models=sorted(models),
        )


@dataclass(frozen=True)
class TensorFlow:
    """What an installed TensorFlow says of itself and of the GPUs that a process of it was given."""

    gpus: int  #: how many it can use
    is_cuda_build: bool = False
    cuda_version: str = ""
    capabilities: tuple[str, ...] = ()
    said: str = ""  #: what it wrote to standard error
    error: str = ""  #: why it could not be asked


#: ``ask(visible)``: TensorFlow's answer where CUDA_VISIBLE_DEVICES is `visible`.
Ask = Callable[[str], TensorFlow]


@dataclass
class Devices:
    """This machine's devices. Methods may be called from any thread, and wait."""

    python: str = sys.executable  #: whose TensorFlow is asked
    nvml: Any = None  #: the module `pynvml`, or what has its shape
    ask: Ask | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _answers: dict[str, TensorFlow] = field(default_factory=dict)
    _notice: str = ""

    def read(self) -> list[Device]:
        """All devices as they are now, the CPU first. TensorFlow is asked once, the first time that there is a GPU."""
        with self._lock:
            seen = self._seen()
            return [_cpu(), *simulated(), *(self._judged(device, seen) for device in seen)]

    def seen(self) -> list[Device]:
        """The same in a few milliseconds: without asking TensorFlow, so that a GPU may not be usable after all."""
        with self._lock:
            return [_cpu(), *simulated(), *self._seen()]

    @property
    def notice(self) -> str:
        """Why there is no GPU, "" if there is one."""
        return self._notice

    def message(self, models: Mapping[str, Iterable[str]] | None = None) -> api.DeviceList:
        """As the management API tells of them; `models` are those served on each."""
        devices = [device.message((models or {}).get(device.id, ())) for device in self.read()]
        return api.DeviceList(devices=devices, notice=self.notice)

    def _seen(self) -> list[Device]:
        try:
            nvml = self.nvml or _pynvml()
            nvml.nvmlInit()
        except Exception as error:
            self._notice = _no_nvml(error)
            return []
        try:
            found = _visible(_gpus(nvml), os.environ.get("CUDA_VISIBLE_DEVICES"))
        finally:
            _ask(nvml.nvmlShutdown)
        self._notice = "" if found else "NVIDIA's driver is installed, and no GPU is visible (CUDA_VISIBLE_DEVICES)."
        return found

    def _judged(self, device: Device, among: Sequence[Device]) -> Device:
        """With what TensorFlow says of it."""
        plain = [other for other in among if other.kind == "gpu"]
        # All GPUs are asked for at once; a process can have one MIG instance only.
        if device.kind == "gpu":
            together = self._answer(",".join(other.visible for other in plain))
            if together.gpus == len(plain):
                return device
        answer = self._answer(device.visible)
        if answer.gpus:
            return device
        reason, remedy = why_not(device, answer, self._driver())
        return replace(device, usable=False, reason=reason, remedy=remedy)

    def _answer(self, visible: str) -> TensorFlow:
        if visible not in self._answers:
            self._answers[visible] = (self.ask or functools.partial(ask, self.python))(visible)
        return self._answers[visible]

    def _driver(self) -> tuple[str, int]:
        """The driver's version, and the CUDA version that it supports: 12040 is 12.4."""
        try:
            nvml = self.nvml or _pynvml()
            nvml.nvmlInit()
        except Exception:
            return "", 0
        try:
            return _text(_ask(nvml.nvmlSystemGetDriverVersion) or ""), _ask(nvml.nvmlSystemGetCudaDriverVersion) or 0
        finally:
            _ask(nvml.nvmlShutdown)


def ask(python: str, visible: str) -> TensorFlow:
    """Ask the TensorFlow of an interpreter what it can use; takes as long as its import."""
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": visible,
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "TF_CPP_MIN_LOG_LEVEL": "0",
    }
    try:
        done = subprocess.run(
            [python, "-I", "-c", _QUESTION], capture_output=True, text=True, timeout=_ASK_SECONDS, env=environment
        )
    except (OSError, subprocess.SubprocessError) as error:
        return TensorFlow(0, error=f"{python} could not be asked: {error}")
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        return TensorFlow(0, said=done.stderr, error=f"TensorFlow cannot be imported by {python}: {last}")
    told = json.loads(lines[-1])
    build = told["build"]
    return TensorFlow(
        len(told["gpus"]),
        bool(build.get("is_cuda_build")),
        str(build.get("cuda_version", "")),
        tuple(build.get("cuda_compute_capabilities", ())),
        done.stderr,
    )


def why_not(device: Device, answer: TensorFlow, driver: tuple[str, int]) -> tuple[str, str]:
    """Why TensorFlow cannot use a GPU that NVML sees, and what to do about it."""
    version, supported = driver
    if answer.error:
        return answer.error, _WITH_CUDA
    if not answer.is_cuda_build:
        return (
            "The installed TensorFlow is built for the CPU only.",
            f"Install the one with CUDA where models are served: pip uninstall -y tensorflow-cpu; {_WITH_CUDA}",
        )
    needed = int(answer.cuda_version.partition(".")[0] or 0)
    if supported and supported // 1000 < needed:
        return (
            f"The NVIDIA driver {version} is too old: it supports CUDA {supported // 1000}.{supported % 1000 // 10}, "
            f"and TensorFlow needs CUDA {answer.cuda_version}.",
            f"Install driver {_DRIVERS[needed]} or a newer one." if needed in _DRIVERS else "Install a newer driver.",
        )
    oldest = _oldest(answer.capabilities)
    if device.capability and oldest and device.capability < oldest:
        return (
            f"Its compute capability {device.capability[0]}.{device.capability[1]} is older than what TensorFlow is "
            f"built for, {oldest[0]}.{oldest[1]}.",
            "Serve on the CPU, or with an older TensorFlow.",
        )
    missing = sorted(
        {
            name
            for line in answer.said.splitlines()
            if "dlopen" in line or "load dynamic" in line
            for name in _LIBRARY.findall(line)
        }
    )
    if missing or "Cannot dlopen some GPU libraries" in answer.said:
        return f"A CUDA library is missing{': ' if missing else ''}{', '.join(missing)}.", _WITH_CUDA
    errors = [line for line in answer.said.splitlines() if "CUDA_ERROR" in line or "failed call to cuInit" in line]
    said = f": {errors[-1].split('] ')[-1].strip()}" if errors else "."
    return f"TensorFlow does not list it{said}", "The log of `python -c 'import tensorflow'` may say more."


def simulated() -> list[Device]:
    """The devices that the environment asks to be simulated."""
    found = []
    for part in filter(None, os.environ.get(SIMULATED, "").split(",")):
        name, _, size = part.partition("=")
        match = _SIZE.fullmatch(size)
        total = int(match[1]) << " KMGT".index(match[2] or " ") * 10 if match else None
        used = None if total is None else 0
        found.append(Device(name, "cpu", f"Simulated device {name}", total, used, None))
    return found


def _cpu() -> Device:
    cores = os.cpu_count() or 1
    try:
        load: float | None = min(1.0, os.getloadavg()[0] / cores)
    except OSError:
        load = None
    return Device(CPU, "cpu", f"CPU, {cores} cores", memory_limit(), memory_used(), load)


# NVML.


def _pynvml() -> Any:
    import pynvml

    return pynvml


def _no_nvml(error: Exception) -> str:
    if type(error).__name__ == "NVMLError_LibraryNotFound":
        return "No NVIDIA driver is installed on this machine."
    return f"NVIDIA's driver does not answer: {error}"


def _ask(function: Callable[..., Any], *arguments: Any) -> Any:
    """What NVML says; None where it does not know, or the GPU is lost: each question may fail for itself."""
    try:
        return function(*arguments)
    except Exception as error:
        if not type(error).__name__.startswith("NVMLError"):
            raise
        return None


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _gpus(nvml: Any) -> list[list[Device]]:
    """For each GPU in the order of the PCI bus: itself, or its MIG instances."""
    found = []
    for index in range(_ask(nvml.nvmlDeviceGetCount) or 0):
        handle = _ask(nvml.nvmlDeviceGetHandleByIndex, index)
        if handle is None:
            continue
        mode = _ask(nvml.nvmlDeviceGetMigMode, handle)
        if mode and mode[0] == 1:
            count = _ask(nvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0
            parts = [_ask(nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, place) for place in range(count)]
            found.append([_device(nvml, part, "mig", handle) for part in parts if part is not None])
        else:
            found.append([_device(nvml, handle, "gpu", handle)])
    return found


def _device(nvml: Any, handle: Any, kind: Literal["gpu", "mig"], parent: Any) -> Device:
    """Without its id, which depends on what is visible."""
    memory = _ask(nvml.nvmlDeviceGetMemoryInfo, handle)
    # The load of a MIG instance is not told.
    rates = _ask(nvml.nvmlDeviceGetUtilizationRates, handle) if kind == "gpu" else None
    capability = _ask(nvml.nvmlDeviceGetCudaComputeCapability, parent)
    return Device(
        "",
        kind,
        _text(_ask(nvml.nvmlDeviceGetName, handle) or "NVIDIA GPU"),
        None if memory is None else int(memory.total),
        None if memory is None else int(memory.used),
        None if rates is None else rates.gpu / 100,
        visible=_text(_ask(nvml.nvmlDeviceGetUUID, handle) or ""),
        capability=tuple(capability) if capability else None,
    )


def _visible(gpus: Sequence[Sequence[Device]], asked: str | None) -> list[Device]:
    """Those that CUDA_VISIBLE_DEVICES lets through, with the numbers that CUDA gives them: as there, the first entry
    that names none ends the list. Entries are indices in the order of the PCI bus, or UUIDs or their beginnings.
    """
    if asked is None:
        chosen: list[tuple[list[Device], Sequence[int]]] = [(list(parts), range(len(parts))) for parts in gpus]
    else:
        chosen = []
        for entry in asked.split(","):
            match = _entry(gpus, entry.strip())
            if match is None:
                break
            chosen.append(match)
    found = []
    for number, (parts, places) in enumerate(chosen):
        for part, place in zip(parts, places, strict=True):
            found.append(replace(part, id=f"gpu:{number}:{place}" if part.kind == "mig" else f"gpu:{number}"))
    return found


def _entry(gpus: Sequence[Sequence[Device]], entry: str) -> tuple[list[Device], Sequence[int]] | None:
    """The GPU that an entry of CUDA_VISIBLE_DEVICES names, or the MIG instance, with its place."""
    if entry.isdigit():
        return (list(gpus[int(entry)]), range(len(gpus[int(entry)]))) if int(entry) < len(gpus) else None
    for parts in gpus:
        for place, part in enumerate(parts):
            if entry and part.visible.startswith(entry):
                return [part], [place]
    return None


def _oldest(capabilities: Sequence[str]) -> tuple[int, int] | None:
    """The lowest compute capability that TensorFlow is built for: of ["sm_60", "compute_90"], (6, 0)."""
    found = [int(match[1]) for name in capabilities if (match := re.search(r"_(\d+)", name))]
    return divmod(min(found), 10) if found else None
