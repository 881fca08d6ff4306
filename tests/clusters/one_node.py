"""A real Slurm of one node, this machine, for the tests that submit to one.

Configuration, state, spool, keys and sockets are in a folder of its own; the daemons
run as the user of the tests and listen on free ports. Nothing is bound to cores and
nothing needs cgroups, so that it also runs in a container.
"""

import contextlib
import os
import pathlib
import pwd
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping

from tests.launching import free_port

# Debian's packages, by a program of each.
SLURM = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "munged": "munge",
}
OPEN_MPI = {"mpirun": "openmpi-bin"}
# Debian's daemons are not on the PATH of every user.
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
# As in JAX, which connects to the first node of a job by its name.
NODE = "localhost"
CPUS = 2

_SECONDS_TO_START = 60
_SECONDS_TO_STOP = 10
# After SIGTERM: a state is saved in much less, also while other tests run.
_SECONDS_TO_KILL = 60


def missing_packages(programs: Mapping[str, str]) -> list[str]:
    """The packages whose programs are not on this machine."""
    return [
        package
        for name, package in programs.items()
        if not shutil.which(name, path=PATH)
    ]


@contextlib.contextmanager
def running(folder: pathlib.Path) -> Iterator[dict[str, str]]:
    """Starts Slurm in an empty folder; ends it and all its jobs afterwards.

    Yields:
        The environment in which Slurm's commands find it.
    """
    ports = free_port(), free_port()
    environment = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": PATH}
    (folder / "slurm.conf").write_text(_configuration(folder, *ports))
    # Slurm refuses to read what others may write, and munged what they may read.
    folder.chmod(0o700)
    key = folder / "munge.key"
    key.touch(0o600)
    key.write_bytes(secrets.token_bytes(128))
    for name in ("state", "spool"):
        (folder / name).mkdir()
    munged = [
        *("munged", "--foreground", "--force", f"--key-file={key}"),
        *(f"--{x}-file={folder / 'munged'}.{x}" for x in ("pid", "seed", "log")),
        f"--socket={folder / 'munge.socket'}",
    ]
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for command in (munged, ["slurmctld", "-D"], ["slurmd", "-D", "-N", NODE]):
            with (folder / f"{command[0]}.out").open("wb") as out:
                daemons.append(
                    subprocess.Popen(
                        command,
                        env={**os.environ, **environment},
                        stdin=subprocess.DEVNULL,
                        stdout=out,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,  # Ctrl-C is the tests'.
                    )
                )
        _wait_until_idle(environment, daemons, folder)
        yield environment
    finally:
        _end_jobs(environment)
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            try:
                daemon.wait(_SECONDS_TO_STOP)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _configuration(folder: pathlib.Path, controller: int, node: int) -> str:
    user = pwd.getpwuid(os.getuid()).pw_name
    host = socket.gethostname()
    return f"""\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1
KillWait={_SECONDS_TO_KILL}
ReturnToService=2
NodeName={NODE} NodeHostname={host} NodeAddr=127.0.0.1 CPUs={CPUS}
PartitionName=all Nodes={NODE} Default=YES MaxTime=INFINITE State=UP
"""


def _wait_until_idle(
    environment: Mapping[str, str],
    daemons: list[subprocess.Popen[bytes]],
    folder: pathlib.Path,
) -> None:
    give_up = time.monotonic() + _SECONDS_TO_START
    while time.monotonic() < give_up and all(x.poll() is None for x in daemons):
        with contextlib.suppress(subprocess.CalledProcessError):
            if _ask(environment, "sinfo", "--noheader", "--format=%t") == "idle":
                return
        time.sleep(0.2)
    logs = [*folder.glob("*.log"), *folder.glob("*.out")]
    tails = "\n".join(f"{log.name}: {log.read_text()[-2_000:]}" for log in logs)
    raise AssertionError(f"Slurm does not start: {tails}")


def _end_jobs(environment: Mapping[str, str]) -> None:
    """Kills all jobs and waits until their processes have ended."""
    give_up = time.monotonic() + _SECONDS_TO_STOP
    with contextlib.suppress(subprocess.CalledProcessError):
        while jobs := _ask(environment, "squeue", "--noheader", "--format=%A").split():
            if time.monotonic() > give_up:
                break
            _ask(environment, "scancel", *jobs)
            _ask(environment, "scancel", "--signal=KILL", *jobs)
            time.sleep(0.2)


def _ask(environment: Mapping[str, str], *command: str) -> str:
    """What a command of Slurm prints; raises CalledProcessError if it fails."""
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()
