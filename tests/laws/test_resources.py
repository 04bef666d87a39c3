"""What a session may use: impossible and contradictory wishes are told, and workers are spread over devices."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from separatrix import workers
from separatrix.errors import ConfigError
from separatrix.records import RunState, Status
from separatrix.resources import CORES, Resources, core_quota, parse_devices, usable_cores
from separatrix.shooting import descriptor_device
from separatrix.systems import resolve
from separatrix.workers import threads_each, worker_specs

RUN = Path("run")


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"workers": -1}, r"workers: expected 0 \(in this process\) or more, got -1"),
        ({"devices": ()}, "devices: .* each once, such as 0,1, got -"),
        ({"devices": (1, 1)}, "each once, .* got 1,1"),
        ({"devices": (0, -1)}, "from 0 on, .* got 0,-1"),
        ({"devices": (0, 1), "workers": 0}, "devices: expected one for workers = 0"),
        ({"workers_per_device": 0}, "workers-per-device: expected 1 or more, got 0"),
        ({"workers_per_device": 4, "workers": 8}, r"workers-per-device: .* got both \(4 and 8\)"),
        ({"precision": "half"}, "precision: expected single, mixed, double, got 'half'"),
        ({"devices": (0,), "platform": "CPU"}, "platform: expected CUDA, OpenCL or HIP .* got 'CPU'"),
        ({"precision": "mixed", "platform": "Reference"}, "platform: .* got 'Reference'"),
        ({"learner_device": "gpu"}, "learner-device: expected cpu, cuda or cuda:N, got 'gpu'"),
        ({"descriptor_device": "cuda:1"}, "descriptor-device: expected auto, cpu or cuda, got 'cuda:1'"),
        ({"shots_per_second": 0.0}, "shots-per-second: expected more than 0, got 0"),
        ({"learner_device": "cuda:"}, "learner-device: expected cpu, cuda or cuda:N, got 'cuda:'"),
    ],
)
def test_what_no_machine_could_do_is_refused(wanted, says):
    with pytest.raises(ConfigError, match=says) as refused:
        Resources(**wanted)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "0,", "all", "0;1", "0.5"])
def test_a_text_that_names_no_devices_is_refused(text):
    with pytest.raises(ConfigError, match="devices: expected numbers such as 0,1, got"):
        parse_devices(text)


def specs(platform, n_atoms=22, most=64, **wanted):
    return worker_specs(RUN, platform, Resources(**wanted), n_atoms=n_atoms, most=most)


@pytest.fixture(autouse=True)
def three_devices(monkeypatch):
    """Pretend to three GPUs and 24 cores: no machine is touched here, numbers alone are worked out."""
    monkeypatch.setattr(workers, "devices_of", lambda platform: ({},) * 3)
    monkeypatch.setattr(workers, "usable_cores", lambda: 24)


def test_workers_of_processors_are_one_for_each_core_but_no_more_than_useful():
    assert len(specs("Reference", most=5)) == 5
    assert len(specs("CPU")) == 24
    assert {spec.device for spec in specs("CPU")} == {None}
    assert len(specs("CPU", workers=7, most=5)) == 7
    assert len(specs("CPU", workers=0)) == 1
    assert [threads_each(Resources(workers=n), 64) for n in (0, 1, 5, 48)] == [24, 24, 4, 1]
    assert [threads_each(Resources(), most) for most in (1, 5, 64)] == [24, 4, 1]


def test_workers_of_devices_are_spread_evenly_over_them():
    assert Counter(spec.device for spec in specs("CUDA")) == {0: 4, 1: 4, 2: 4}
    assert Counter(spec.device for spec in specs("CUDA", n_atoms=20_000)) == {0: 2, 1: 2, 2: 2}
    assert Counter(spec.device for spec in specs("CUDA", workers=7)) == {0: 3, 1: 2, 2: 2}
    assert Counter(spec.device for spec in specs("CUDA", devices=(2, 0), workers_per_device=3)) == {0: 3, 2: 3}
    assert Counter(spec.device for spec in specs("CUDA", workers_per_device=10, most=2)) == {0: 10, 1: 10, 2: 10}
    assert [spec.device for spec in specs("CUDA", most=2)] == [0, 1]
    assert [spec.device for spec in specs("CUDA", devices=(1,), workers=0)] == [1]


def test_there_are_no_more_workers_of_devices_than_cores_unless_asked_for(monkeypatch):
    monkeypatch.setattr(workers, "usable_cores", lambda: 2)
    assert len(specs("CUDA")) == 2
    assert len(specs("CUDA", workers=12)) == 12


def test_precision_is_mixed_unless_asked_for():
    assert {spec.precision for spec in specs("OpenCL")} == {"mixed"}
    assert {spec.precision for spec in specs("OpenCL", precision="double")} == {"double"}


def test_without_a_known_device_openmm_chooses(monkeypatch):
    monkeypatch.setattr(workers, "devices_of", lambda platform: ())
    assert {spec.device for spec in specs("OpenCL", workers=2)} == {None}


def test_descriptors_are_computed_where_it_was_said():
    solvated = resolve({"system": {"kind": "lithium-chloride"}})

    def devices(platform, **options):
        return {spec.device: descriptor_device(spec, solvated) for spec in specs(platform, **options)}

    assert devices("CUDA", workers=4, descriptor_device="cuda") == {0: "cuda:0", 1: "cuda:1", 2: "cuda:2"}
    assert devices("CUDA", workers=4, descriptor_device="cpu") == {0: "cpu", 1: "cpu", 2: "cpu"}
    assert devices("CPU", descriptor_device="cuda") == {None: "cuda"}
    assert devices("OpenCL", workers=1, descriptor_device="cuda") == {0: "cuda"}


@pytest.mark.parametrize(
    ("platform", "system", "device"),
    [
        ("CUDA", "lithium-chloride", "cuda:1"),
        ("CUDA", "alanine-dipeptide", "cpu"),  # has no symmetry functions
        ("OpenCL", "lithium-chloride", "cpu"),
        ("CPU", "lithium-chloride", "cpu"),
    ],
)
def test_descriptors_are_computed_on_the_gpu_of_the_worker_where_that_can_be(monkeypatch, platform, system, device):
    spec, config = specs(platform, workers=2)[-1], resolve({"system": {"kind": system}})
    if not torch.cuda.is_available():
        assert descriptor_device(spec, config) == "cpu"
    monkeypatch.setattr(torch, "empty", lambda _size, device: device)
    assert descriptor_device(spec, config) == device


def test_speed_is_held_against_one_context_on_each_device_or_for_each_worker():
    def raw(**what):
        return Status(state=RunState.RUNNING, raw_steps_per_second=100.0, **what).all_raw_steps_per_second

    assert [raw(workers=8, devices=2), raw(workers=8), raw(workers=0)] == [200.0, 800.0, 100.0]


@pytest.mark.parametrize(
    ("cgroup", "files", "quota"),
    [
        ("0::/", {}, None),
        ("0::/", {"cpu.max": "max 100000"}, None),
        ("0::/", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/batch/job", {"batch/job/cpu.max": "max 100000", "batch/cpu.max": "400000 100000"}, 4.0),
        ("0::/batch/job", {"batch/job/cpu.max": "200000 100000", "batch/cpu.max": "400000 100000"}, 2.0),
        ("0::/of/the/machine/outside", {"cpu.max": "50000 100000"}, 0.5),
        (
            "3:cpu,cpuacct:/a\n1:memory:/a",
            {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"},
            None,
        ),
        ("3:cpu,cpuacct:/a", {"cpu/a/cpu.cfs_quota_us": "300000", "cpu/a/cpu.cfs_period_us": "100000"}, 3.0),
    ],
)
def test_the_quota_is_that_of_the_tightest_control_group(tmp_path, cgroup, files, quota):
    for name, text in {
        "proc/self/cgroup": cgroup,
        **{f"sys/fs/cgroup/{name}": text for name, text in files.items()},
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert core_quota(tmp_path) == quota


def test_a_machine_without_control_groups_has_no_quota(tmp_path):
    assert core_quota(tmp_path) is None


def test_the_environment_limits_cores_and_never_adds_any(monkeypatch):
    monkeypatch.delenv(CORES, raising=False)
    there = usable_cores()
    assert there >= 1
    monkeypatch.setenv(CORES, "1")
    assert usable_cores() == 1
    monkeypatch.setenv(CORES, "100000")
    assert usable_cores() == there


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5"])
def test_a_number_of_cores_that_is_none_is_refused(monkeypatch, text):
    monkeypatch.setenv(CORES, text)
    with pytest.raises(ConfigError, match=f"SEPARATRIX_CORES: expected 1 or more, got {text!r} in the environment"):
        usable_cores()
