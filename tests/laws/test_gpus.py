"""GPUs and their load: told where there are any, silent and free where there are none."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest

from separatrix import diagnosis, gpus
from separatrix.gpus import Gpu, Monitor, ask_nvidia_smi

GIB = 2**30


class Nvml:
    """NVIDIA's library as `gpus` uses it, with two devices; the second does not tell its temperature."""

    NVML_TEMPERATURE_GPU = 0

    class NVMLError(Exception):
        """What the library raises."""

    def __init__(self):
        self.looks = 0
        self.broken = False

    def nvmlInit(self):
        pass

    def nvmlSystemGetDriverVersion(self):
        return "580.159.04"

    def nvmlDeviceGetCount(self):
        self.looks += 1
        if self.broken:
            raise self.NVMLError("GPU is lost")
        return 2

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetName(self, handle):
        return f"NVIDIA Test {handle}"

    def nvmlDeviceGetMemoryInfo(self, handle):
        return SimpleNamespace(used=(handle + 1) * GIB, total=80 * GIB)

    def nvmlDeviceGetUtilizationRates(self, handle):
        return SimpleNamespace(gpu=90 + handle)

    def nvmlDeviceGetComputeRunningProcesses(self, _handle):
        return [object()] * 4

    def nvmlDeviceGetTemperature(self, handle, _sensor):
        if handle == 1:
            raise self.NVMLError("Not Supported")
        return 61


@pytest.fixture
def clock(monkeypatch):
    """Give a clock that stands until it is set."""
    now = SimpleNamespace(seconds=1_000.0)
    monkeypatch.setattr(gpus, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there is a driver here")
def test_without_a_driver_there_are_none_and_nobody_is_told(capfd):
    pytest.importorskip("pynvml")
    monitor = Monitor()
    assert [monitor.read(), monitor.read()] == [(), ()]
    assert ask_nvidia_smi() == ()
    assert capfd.readouterr() == ("", "")


def test_the_library_is_asked_for_once_where_there_is_none():
    asked = []

    def load():
        asked.append(1)
        raise ImportError("pynvml")

    monitor = Monitor(load)
    assert [monitor.read() for _ in range(3)] == [()] * 3
    assert len(asked) == 1


def test_devices_tell_their_load_and_what_they_do_not_know():
    first, second = Monitor(Nvml).read()
    assert first == Gpu(
        index=0,
        name="NVIDIA Test 0",
        driver="580.159.04",
        memory_used=GIB,
        memory_total=80 * GIB,
        utilisation=90,
        temperature=61,
        n_processes=4,
    )
    assert second == replace(
        first, index=1, name="NVIDIA Test 1", memory_used=2 * GIB, utilisation=91, temperature=None
    )


def test_devices_are_looked_at_now_and_then_however_often_they_are_asked_for(clock):
    nvml = Nvml()
    monitor = Monitor(lambda: nvml)
    for seconds in range(100):
        clock.seconds = 1_000.0 + 0.1 * seconds
        assert len(monitor.read()) == 2
    assert nvml.looks == 5
    nvml.broken = True
    clock.seconds += gpus.INTERVAL
    assert monitor.read() == ()


SMI = """#!/bin/sh
echo '0, NVIDIA H100 80GB HBM3, 580.159.04, 520, 81559, 7, 34'
echo '1, Tesla, V, 0, 1024, [N/A], 40'
"""


def put_smi(folder, monkeypatch, text):
    program = folder / "nvidia-smi"
    program.write_text(text)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_nvidia_smi_is_asked_where_the_library_is_missing(tmp_path, monkeypatch):
    put_smi(tmp_path, monkeypatch, SMI)
    first, second = ask_nvidia_smi()
    assert (first.name, first.driver, first.utilisation, first.temperature) == (
        "NVIDIA H100 80GB HBM3",
        "580.159.04",
        7,
        34,
    )
    assert (first.memory_used, first.memory_total) == (520 * 2**20, 81559 * 2**20)
    assert (second.index, second.utilisation) == (1, None)


@pytest.mark.parametrize("text", ["#!/bin/sh\nexit 9\n", "#!/bin/sh\necho No devices were found\n"])
def test_a_broken_driver_is_a_note_of_the_doctor(tmp_path, monkeypatch, text):
    put_smi(tmp_path, monkeypatch, text)
    monkeypatch.setattr(diagnosis, "Monitor", lambda: Monitor(lambda: (_ for _ in ()).throw(ImportError())))
    (finding,) = diagnosis._gpus()
    assert (finding.level, finding.subject) == ("note", "GPUs")
    assert "nvidia-smi" in finding.found
    assert "\n" not in finding.found


def test_the_doctor_tells_what_a_gpu_does_and_what_openmm_makes_of_it(monkeypatch):
    monkeypatch.setattr(diagnosis, "Monitor", lambda: Monitor(Nvml))
    monkeypatch.setattr(diagnosis, "platform_names", lambda: ("Reference", "CPU"))
    first, second, cuda = diagnosis._gpus()
    assert first.found == "NVIDIA Test 0, 1.0 of 80.0 GiB used, 90 % busy, 61 °C, 4 processes, driver 580.159.04"
    assert "°C" not in second.found
    assert (cuda.level, cuda.subject) == ("note", "CUDA")
    assert "separatrix[cuda]" in cuda.advice
    monkeypatch.setattr(diagnosis, "platform_names", lambda: ("Reference", "CPU", "CUDA"))
    monkeypatch.setattr(diagnosis, "devices_of", lambda platform: ({"DeviceName": "NVIDIA Test 0"}, {}))
    cuda = diagnosis._gpus()[-1]
    assert (cuda.level, cuda.advice) == ("ok", "")
    assert "OpenMM sees 0: NVIDIA Test 0, 1: ?" in cuda.found
