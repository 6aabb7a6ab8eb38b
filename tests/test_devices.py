"""The list of devices: this machine's own, and what NVML and TensorFlow say of GPUs that no test machine has."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jupyter_tfserve.cgroup import memory_limit
from jupyter_tfserve.devices import Device, Devices, TensorFlow, ask

GIB = 2**30


class NVMLError(Exception):
    """As pynvml's."""


class NVMLError_LibraryNotFound(NVMLError):
    """As pynvml's."""


class Nvml:
    """What has the shape of the module `pynvml`; `gpus` are dicts. A value that is an NVMLError is raised."""

    def __init__(self, *gpus: dict[str, Any], driver: str = "550.54", cuda: int = 12040) -> None:
        self._gpus = gpus
        self._driver, self._cuda = driver, cuda
        self.initialised = 0

    def nvmlInit(self) -> None:
        self.initialised += 1

    def nvmlShutdown(self) -> None:
        self.initialised -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        return self._driver

    def nvmlSystemGetCudaDriverVersion(self) -> int:
        return self._cuda

    def nvmlDeviceGetCount(self) -> int:
        return len(self._gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> dict[str, Any]:
        return self._gpus[index]

    def nvmlDeviceGetMigMode(self, gpu: dict[str, Any]) -> list[int]:
        if "mig" not in gpu:
            raise NVMLError("Not Supported")
        return [1, 1]

    def nvmlDeviceGetMaxMigDeviceCount(self, gpu: dict[str, Any]) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu: dict[str, Any], place: int) -> dict[str, Any]:
        if place >= len(gpu["mig"]):
            raise NVMLError("Not Found")
        part: dict[str, Any] = gpu["mig"][place]
        return part

    def nvmlDeviceGetName(self, gpu: dict[str, Any]) -> Any:
        return self._of(gpu, "name")

    def nvmlDeviceGetUUID(self, gpu: dict[str, Any]) -> Any:
        return self._of(gpu, "uuid")

    def nvmlDeviceGetMemoryInfo(self, gpu: dict[str, Any]) -> Any:
        return self._of(gpu, "memory")

    def nvmlDeviceGetUtilizationRates(self, gpu: dict[str, Any]) -> Any:
        return self._of(gpu, "rates")

    def nvmlDeviceGetCudaComputeCapability(self, gpu: dict[str, Any]) -> Any:
        return gpu.get("capability", (9, 0))

    @staticmethod
    def _of(gpu: dict[str, Any], key: str) -> Any:
        if isinstance(gpu[key], NVMLError):
            raise gpu[key]
        return gpu[key]


def gpu(number: int, used: int = 0, **more: Any) -> dict[str, Any]:
    """A GPU of 80 GiB."""
    return {
        "name": "NVIDIA H100 80GB HBM3",
        "uuid": f"GPU-{number}{number}{number}{number}",
        "memory": SimpleNamespace(total=80 * GIB, used=used * GIB),
        "rates": SimpleNamespace(gpu=25),
        **more,
    }


def works(visible: str) -> TensorFlow:
    """A TensorFlow that can use what it is given."""
    return TensorFlow(len(visible.split(",")), True, "12.5.1", ("sm_60", "compute_90"))


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("TFSERVE_SIMULATED_DEVICES", raising=False)


def test_this_machine() -> None:
    devices = Devices()
    [cpu, *gpus] = devices.read()
    assert cpu.id == cpu.kind == "cpu" and cpu.usable
    assert cpu.memory_total == memory_limit()
    assert cpu.memory_used is not None and 0 < cpu.memory_used < memory_limit()
    assert cpu.load is None or 0 <= cpu.load <= 1
    assert cpu.environment()["CUDA_VISIBLE_DEVICES"] == ""
    assert bool(gpus) != bool(devices.notice)
    if not os.path.exists("/proc/driver/nvidia"):
        assert devices.notice == "No NVIDIA driver is installed on this machine."


def test_gpus_as_nvml_tells_of_them() -> None:
    nvml = Nvml(gpu(0, used=10), gpu(1))
    devices = Devices(nvml=nvml, ask=works)
    _, first, second = devices.read()
    assert (first.id, first.kind, first.name, first.load) == ("gpu:0", "gpu", "NVIDIA H100 80GB HBM3", 0.25)
    assert (first.memory_total, first.memory_used, first.free) == (80 * GIB, 10 * GIB, 70 * GIB)
    assert second.id == "gpu:1" and second.usable and devices.notice == ""
    assert first.environment() == {
        "CUDA_VISIBLE_DEVICES": "GPU-0000",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    }
    assert nvml.initialised == 0  # nothing is held between two looks


def test_a_question_that_fails_is_one_answer_less() -> None:
    lost = NVMLError("GPU is lost")
    nvml = Nvml(gpu(0, memory=lost, rates=lost), gpu(1, name=b"Tesla T4"))
    _, first, second = Devices(nvml=nvml, ask=works).read()
    assert (first.memory_total, first.memory_used, first.load, first.free) == (None, None, None, 0)
    assert second.name == "Tesla T4"


def test_without_a_driver() -> None:
    nvml = Nvml()
    nvml.nvmlInit = _raising(NVMLError_LibraryNotFound("NVML Shared Library Not Found"))  # type: ignore[method-assign]
    devices = Devices(nvml=nvml)
    assert [device.id for device in devices.read()] == ["cpu"]
    assert devices.notice == "No NVIDIA driver is installed on this machine."
    nvml.nvmlInit = _raising(NVMLError("Driver/library version mismatch"))  # type: ignore[method-assign]
    devices.read()
    assert "version mismatch" in devices.notice


def _raising(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    "visible, expected",
    [
        ("0,1,2", {"gpu:0": "GPU-0000", "gpu:1": "GPU-1111", "gpu:2": "GPU-2222"}),
        ("2,0", {"gpu:0": "GPU-2222", "gpu:1": "GPU-0000"}),
        ("GPU-11", {"gpu:0": "GPU-1111"}),
        ("1,-1,0", {"gpu:0": "GPU-1111"}),  # the first that is none ends the list
        ("1,9", {"gpu:0": "GPU-1111"}),
        ("", {}),
        ("-1", {}),
    ],
)
def test_what_is_visible(monkeypatch: pytest.MonkeyPatch, visible: str, expected: dict[str, str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    devices = Devices(nvml=Nvml(gpu(0), gpu(1), gpu(2)), ask=works)
    assert {device.id: device.visible for device in devices.read()[1:]} == expected
    assert ("CUDA_VISIBLE_DEVICES" in devices.notice) == (not expected)


def test_mig_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [gpu(0, uuid=f"MIG-{place}", memory=SimpleNamespace(total=20 * GIB, used=0)) for place in range(2)]
    nvml = Nvml(gpu(0, mig=parts), gpu(1))
    _, first, second, third = Devices(nvml=nvml, ask=works).read()
    assert [first.id, second.id, third.id] == ["gpu:0:0", "gpu:0:1", "gpu:1"]
    assert first.kind == "mig" and first.load is None and first.memory_total == 20 * GIB
    assert second.environment()["CUDA_VISIBLE_DEVICES"] == "MIG-1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1")
    assert [device.visible for device in Devices(nvml=nvml, ask=works).read()[1:]] == ["MIG-1"]


#: How TensorFlow 2.21 complains where there are no CUDA libraries.
NO_LIBRARIES = "W0000 gpu_device.cc:2342] Cannot dlopen some GPU libraries. Skipping registering GPU devices..."


@pytest.mark.parametrize(
    "answer, more, reason, remedy",
    [
        (TensorFlow(0, False), {}, "built for the CPU only", "tensorflow[and-cuda]"),
        (TensorFlow(0, True, "12.5.1", said=NO_LIBRARIES), {}, "A CUDA library is missing", "tensorflow[and-cuda]"),
        (
            TensorFlow(0, True, "12.5.1", said="Could not load dynamic library 'libcudnn.so.9'; dlerror: ..."),
            {},
            "missing: libcudnn.so.9",
            "tensorflow[and-cuda]",
        ),
        (
            TensorFlow(0, True, "12.5.1"),
            {"driver": "470.82.01", "cuda": 11040},
            "driver 470.82.01 is too old: it supports CUDA 11.4, and TensorFlow needs CUDA 12.5.1",
            "Install driver 525.60.13",
        ),
        (
            TensorFlow(0, True, "12.5.1", ("sm_60", "compute_90")),
            {"capability": (5, 2)},
            "compute capability 5.2 is older than what TensorFlow is built for, 6.0",
            "CPU",
        ),
        (
            TensorFlow(0, True, "12.5.1", said="E cuda_platform.cc:52] failed call to cuInit: CUDA_ERROR_UNKNOWN"),
            {},
            "failed call to cuInit",
            "log",
        ),
        (TensorFlow(0, error="TensorFlow cannot be imported by /p"), {}, "cannot be imported by /p", "pip install"),
    ],
)
def test_a_gpu_that_tensorflow_cannot_use(answer: TensorFlow, more: dict[str, Any], reason: str, remedy: str) -> None:
    capability = more.pop("capability", (9, 0))
    devices = Devices(nvml=Nvml(gpu(0, capability=capability), **more), ask=lambda visible: answer)
    found = devices.read()[1]
    assert not found.usable
    assert reason in found.reason and remedy in found.remedy


def test_one_gpu_of_two_is_too_old() -> None:
    asked = []

    def one_works(visible: str) -> TensorFlow:
        asked.append(visible)
        return TensorFlow("GPU-1111" in visible, True, "12.5.1", ("sm_60",))

    devices = Devices(nvml=Nvml(gpu(0, capability=(3, 5)), gpu(1)), ask=one_works)
    assert [device.usable for device in devices.read()] == [True, False, True]
    assert asked == ["GPU-0000,GPU-1111", "GPU-0000", "GPU-1111"]
    devices.read()
    assert len(asked) == 3  # TensorFlow does not change


def test_the_installed_tensorflow_is_asked_in_a_process_of_its_own() -> None:
    answer = ask(sys.executable, "")
    assert answer.error == "" and answer.gpus == 0
    nowhere = ask("/nosuch/python", "")
    assert "/nosuch/python could not be asked" in nowhere.error


def test_a_tensorflow_that_is_not_there(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'tensorflow'\" >&2\nexit 1\n")
    python.chmod(0o700)
    assert "No module named 'tensorflow'" in ask(str(python), "").error


def test_simulated_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFSERVE_SIMULATED_DEVICES", "cpu:1=2G,cpu:2")
    _, first, second = Devices().seen()
    assert first == Device("cpu:1", "cpu", "Simulated device cpu:1", 2 * GIB, 0, None)
    assert second.memory_total is None and second.is_accelerator
