import os
import subprocess
import sys

import pytest

from msl_hf.cores import LAUNCHERS, default_threads, default_workers, running_elsewhere, share_cores, usable_cores


def groups(tmp_path, memberships: str, files: dict[str, str]):
    """(mounted control groups, a process that belongs to some of them)."""
    process, root = tmp_path / "process", tmp_path / "groups"
    process.mkdir()
    (process / "cgroup").write_text(memberships)
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root, process


@pytest.mark.parametrize(
    ("memberships", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "300000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "9900000 100000\n"}, 8),  # more than it is bound to
        ("0::/pod/box\n", {"pod/cpu.max": "200000 100000\n", "pod/box/cpu.max": "max 100000\n"}, 2),  # of the parent
        ("0::/elsewhere\n", {"cpu.max": "400000 100000\n"}, 4),  # the mount begins within
        ("5:cpu,cpuacct:/box\n4:memory:/box\n",
         {"cpu,cpuacct/box/cpu.cfs_quota_us": "150000\n", "cpu,cpuacct/box/cpu.cfs_period_us": "50000\n"}, 3),
        ("5:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ("0::/\n", {}, 8),
        ("0::/\n", {"cpu.max": "rubbish\n"}, 8),
    ],
)  # fmt: skip
def test_usable_cores(tmp_path, monkeypatch, memberships, files, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert usable_cores(*groups(tmp_path, memberships, files)) == cores


def test_usable_cores_elsewhere_than_on_linux(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert usable_cores(tmp_path, tmp_path / "nothing") == 6


@pytest.mark.parametrize(
    ("environment", "threads"),
    [
        ({}, 8),
        ({"OMP_NUM_THREADS": "1"}, 1),
        ({"OMP_NUM_THREADS": "3,2"}, 3),
        ({"OMP_NUM_THREADS": "1", "ACCELERATE_MIXED_PRECISION": "no"}, 8),  # accelerate launch sets it
        ({"OMP_NUM_THREADS": "2", "ACCELERATE_MIXED_PRECISION": "no", "LOCAL_WORLD_SIZE": "2"}, 2),
        ({"OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2"}, 4),
        ({"LOCAL_WORLD_SIZE": "16"}, 1),
    ],
)
def test_threads(monkeypatch, environment, threads):
    for name in ("OMP_NUM_THREADS", "LOCAL_WORLD_SIZE", *LAUNCHERS):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("msl_hf.cores.usable_cores", lambda: 8)
    assert default_threads() == threads


def test_running_elsewhere(tmp_path):
    (tmp_path / "loadavg").write_text("0.51 1.64 2.09 4/78 1547\n")
    assert running_elsewhere(tmp_path / "loadavg") == 3  # without this process
    assert running_elsewhere(tmp_path / "nothing") == 0
    (tmp_path / "rubbish").write_text("busy")
    assert running_elsewhere(tmp_path / "rubbish") == 0


@pytest.mark.parametrize(
    ("others", "own", "modules", "policy"),
    [
        (0, {}, {}, None),
        (6, {}, {}, None),  # 2 threads on 8 cores
        (7, {}, {}, "PASSIVE"),
        (7, {"OMP_WAIT_POLICY": "ACTIVE"}, {}, "ACTIVE"),
        (7, {"GOMP_SPINCOUNT": "7"}, {}, None),
        (7, {}, {"torch": None}, None),  # too late
    ],
)
def test_threads_give_up_their_cores_where_others_run(monkeypatch, others, own, modules, policy):
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS", "LOCAL_WORLD_SIZE", *LAUNCHERS)
    environment = {name: value for name, value in os.environ.items() if name not in names}
    monkeypatch.setattr(os, "environ", {**environment, **own})
    monkeypatch.setattr(sys, "modules", {key: value for key, value in sys.modules.items() if key != "torch"} | modules)
    monkeypatch.setattr("msl_hf.cores.running_elsewhere", lambda: others)
    monkeypatch.setattr("msl_hf.cores.usable_cores", lambda: 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    assert share_cores() == (policy == "PASSIVE")
    assert os.environ.get("OMP_WAIT_POLICY") == policy and "OMP_NUM_THREADS" not in os.environ


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the numbers of running processes are Linux's")
def test_importing_the_package_looks_for_others():
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")
    environment = {key: value for key, value in os.environ.items() if key not in names}
    code = "import msl_hf, os, sys; print(os.environ.get('OMP_WAIT_POLICY'), 'torch' in sys.modules)"
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count())]
    try:
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True,
                              check=True, timeout=240)  # fmt: skip
    finally:
        for process in others:
            process.kill()
    assert done.stdout.split() == ["PASSIVE", "True"]


@pytest.mark.parametrize(
    ("accelerator", "cores", "processes", "workers"),
    [(False, 64, 1, 0), (True, 64, 1, 8), (True, 6, 1, 6), (True, 64, 16, 4), (True, 4, 8, 1)],
)
def test_processes_that_read_images(monkeypatch, accelerator, cores, processes, workers):
    monkeypatch.setattr("msl_hf.cores.usable_cores", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert default_workers(accelerator) == workers
