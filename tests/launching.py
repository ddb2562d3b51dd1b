"""Several processes of one command, as a launcher starts them."""

import sys

# On CPUs accelerate launch starts one process, whatever --num_processes says, and torchrun starts them in a session of
# their own, where a signal for the group does not reach them.
_LAUNCH = """
import os, socket, subprocess, sys
count, *command = sys.argv[1:]
with socket.socket() as free:
    free.bind(("localhost", 0))
    port = str(free.getsockname()[1])
processes = [
    subprocess.Popen([sys.executable, *command], env={
        **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count,
        "MASTER_ADDR": "localhost", "MASTER_PORT": port,
    })
    for rank in range(int(count))
]
sys.exit(max(abs(process.wait()) for process in processes))
"""


def launched(count: int, *command: str) -> list[str]:
    """The command line of `count` processes of Python with these arguments; of one, without a launcher."""
    return [sys.executable, *(["-c", _LAUNCH, str(count)] if count > 1 else []), *command]
