"""The processor cores that this process may use, and threads that wait without taking them from others.

Imported before torch, and imports nothing of the package.
"""

import os
import sys
import time
from pathlib import Path

MOST_WORKERS = 8  # more take memory, and seldom bring anything
LAUNCHERS = ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID")  # set by accelerate launch and by torchrun


def usable_cores(control_groups: Path = Path("/sys/fs/cgroup"), process: Path = Path("/proc/self")) -> int:
    """How many cores this process may use: those that it is bound to, or fewer where its control group has a quota.

    Args:
        control_groups: Where control groups are mounted, of version 1 or 2.
        process: Of this process in the file system of processes.

    Returns:
        At least 1; a quota of 2.5 cores is 2, because the threads of a third would keep the others waiting.
    """
    # os.cpu_count() knows neither: in a container it is what the machine has.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *(int(quota) for quota in _quotas(control_groups, process))]))


def default_threads() -> int:
    """Threads of one process: what the user has set for OpenMP, else the usable cores, shared among local processes.

    Launchers set 1 where the user has set nothing.
    """
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    launched = any(name in os.environ for name in LAUNCHERS)
    if given.isdigit() and int(given) > (1 if launched else 0):
        return int(given)
    return max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def default_workers(has_accelerator: bool) -> int:
    """Processes that read images for one that trains or predicts: on an accelerator its share of the cores, at most 8.

    On a CPU none: they would take the cores that compute.
    """
    if not has_accelerator:
        return 0
    return max(1, min(MOST_WORKERS, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


def _quotas(control_groups: Path, process: Path) -> list[float]:
    """Cores that the control groups of a process, and those around them, leave it."""
    found = []
    try:
        memberships = [line.split(":", 2) for line in (process / "cgroup").read_text().splitlines()]
    except OSError:  # no Linux
        return found
    for _, controllers, group in memberships:
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = control_groups / controllers  # version 2 has one hierarchy, without a name
        for folder in (root / group.strip("/"), *(root / group.strip("/")).parents):
            if not folder.is_relative_to(root):
                break
            try:
                if controllers:
                    quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
                else:
                    quota, period = (folder / "cpu.max").read_text().split()
                if quota.strip() not in ("max", "-1"):
                    found.append(int(quota) / int(period))
            except (OSError, ValueError):  # the outermost group has no quota
                continue
    return found


def running_elsewhere(load: Path = Path("/proc/loadavg"), looks: int = 9) -> int:
    """Processes and threads that run at this moment beside this one, or wait for a core; the median of several looks.

    Where there is no such file: 0. In a container these are those of the whole machine.
    """
    found = []
    try:
        for _ in range(looks):
            found.append(int(load.read_text().split()[3].split("/")[0]) - 1)
            time.sleep(0.005)
    except (OSError, ValueError, IndexError):
        return 0
    return sorted(found)[looks // 2]


def share_cores() -> bool:
    """Where others use the cores, have OpenMP's threads give theirs up while they wait; a user's own settings win.

    By default they spin for some milliseconds. That is a sixth faster on cores of one's own; where another process
    runs, the thread that is waited for has no core meanwhile, and a training step takes four times as long. The number
    of threads is left alone, because sums come out differently with another one, and a run that goes on after an
    interruption would.

    Returns:
        Whether the threads now give up their cores. False, too, where torch has been imported already: OpenMP reads
        its settings when torch is loaded.
    """
    if "torch" in sys.modules:
        return False
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    if usable_cores() < cores:
        os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))  # OpenMP knows the binding, but no quota
    if {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        return False
    crowded = running_elsewhere() + default_threads() > (os.cpu_count() or 1)
    if crowded:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    return crowded
