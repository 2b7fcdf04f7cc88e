"""Starts JAX's runtime for several processes before any device is used, and ends a process of several.

JAX is imported only where it is needed: the command line calls this module at the end of every verb, also of one without
devices.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import socket
import sys

from jaxbert.config import LaunchConfig
from jaxbert.errors import UserError
from jaxbert.launch.detect import locate_process, overlooked
from jaxbert.launch.fatal import abort_explained, interruptible, roll_call
from jaxbert.launch.metadata import tpu_metadata
from jaxbert.launch.place import DEACTIVATED, ProcessPlace

_PACKAGES = {
    "gketpu": ("libtpu", "install jaxbert with its extra tpu, or set JAX_PLATFORMS=cpu"),
    "gcetpu": ("libtpu", "install jaxbert with its extra tpu, or set JAX_PLATFORMS=cpu"),
    "mpi4py": ("mpi4py", "install it, or set launch.coordinator to HOST:PORT on the machine of rank 0"),
    "k8s": ("kubernetes", "install it, or set JAX_NUM_PROCESSES and REPLICATED_JOB_NAME in the manifest"),
}
"""The packages that JAX's detections need, and the user's alternative."""
_GOOD_ENDS, _WRONG = (0, 75), 2
_SHUTDOWN_SECONDS = 300
_MARGIN_SECONDS = 10
"""Process 0 gives up earlier by this time, and tells the others who is missing."""
_REACH_SECONDS = 5
logger = logging.getLogger("jaxbert")


def start(launch: LaunchConfig) -> None:
    """Join the other processes of the run; do nothing if there are no others.

    Raises:
      UserError: if the section or the environment is wrong, or not all processes came in time.
    """
    place = _find(launch)
    if place is None or place.processes == 1:
        remark = overlooked(os.environ) if launch.distributed == "auto" else None
        if remark:
            logger.info(remark)
        return
    package, way_out = _PACKAGES.get(place.method, ("", ""))
    if package and importlib.util.find_spec(package) is None:
        raise UserError(
            f"{place.cluster}: the package {package} is missing, which is needed to find the others: {way_out}"
        )
    logger.info(_describe(place, launch.timeout_seconds))
    _initialize(place, launch)
    if place.process:
        from jaxbert.terminal import mute

        mute()


def _find(launch: LaunchConfig) -> ProcessPlace | None:
    """Look for the other processes: in the configuration, in the environment and, on a TPU VM, in its metadata."""
    environment = dict(os.environ)
    if launch.distributed != "off" and launch.num_processes is None:
        from jaxbert.train.runtime import tpu_attached

        if tpu_attached():
            environment |= tpu_metadata(environment)
    return locate_process(launch, environment)


def _describe(place: ProcessPlace, seconds: int) -> str:
    """Describe the place on one line."""
    parts = [
        f"process {place.process} of {place.processes or 'as many as Kubernetes says'} (counted from 0)",
        place.cluster,
    ]
    if place.coordinator:
        parts.append(f"coordinator {place.coordinator}")
    if place.local_devices is not None:
        parts.append(f"GPUs {', '.join(map(str, place.local_devices))} of those that it sees")
    return f"{'; '.join(parts)}; waiting up to {seconds} s for all"


def _initialize(place: ProcessPlace, launch: LaunchConfig) -> None:
    import jax

    if jax.distributed.is_initialized():
        return
    if place.process == 0 and place.coordinator and "JAX_COORDINATOR_BIND_ADDRESS" not in os.environ:
        _check_port(place.coordinator)
    known, seconds = place.method == DEACTIVATED, launch.timeout_seconds
    try:
        with abort_explained(lambda said: _why(place, seconds, said), _WRONG), interruptible(), roll_call(seconds):
            jax.distributed.initialize(
                coordinator_address=place.coordinator,
                num_processes=place.processes if known else None,
                process_id=place.process if known else None,
                local_device_ids=place.local_devices,
                cluster_detection_method=place.method,
                initialization_timeout=seconds + _MARGIN_SECONDS,
                heartbeat_timeout_seconds=launch.heartbeat_seconds,
                shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
            )
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(_why(place, seconds, str(error))) from error


def _check_port(address: str) -> None:
    """Raise an error if the port is in use: the runtime would share it with another run, or crash (jaxlib 0.10.2)."""
    host, _, port = address.rpartition(":")
    both = socket.has_dualstack_ipv6()
    try:
        family = socket.AF_INET6 if both else socket.AF_INET
        socket.create_server(("", int(port)), family=family, dualstack_ipv6=both).close()
    except OSError as error:
        raise UserError(
            f"port {port} of {host}, where process 0 is to listen, is taken ({error.strerror}): stop the program that "
            "uses it, or choose another port with launch.coordinator or JAX_COORDINATOR_PORT, the same for all processes"
        ) from error


def _why(place: ProcessPlace, seconds: int, said: str) -> str:
    """Return the reason of a failed start: who is missing, as far as it is known."""
    missing = missing_processes(said)
    if missing:
        return (
            f"{len(missing)} of {place.processes or 'all'} processes did not come within {seconds} s: "
            f"{', '.join(map(str, missing))} (counted from 0); see their logs, or raise launch.timeout_seconds"
        )
    if place.process and place.coordinator and "DEADLINE_EXCEEDED" in said:
        return f"{_reach(place.coordinator, seconds)}; this is process {place.process} of {place.processes}"
    found = re.search(r"absl::Status: (.*)", said)
    reason = found[1] if found else next(iter(said.splitlines()), "no reason was given")
    where = place.coordinator or "of its own choice"
    return f"the processes of the run could not be joined ({place.cluster}, coordinator {where}): {reason}"


def _reach(address: str, seconds: int) -> str:
    """Return a sentence about whether process 0 can be reached."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS):
            return f"process 0 at {address} did not see all others within {seconds} s: its log names those that are missing"
    except OSError as error:
        reason = error.strerror or error
        return (
            f"process 0 at {address} could not be reached within {seconds} s ({reason}): see its log and the way to it"
        )


def missing_processes(error: str) -> list[int]:
    """Return the numbers in JAX's list of processes that did not reach a barrier."""
    _, _, names = error.partition("timed out task names:\n")
    found = re.match(r"(?:\s*(?:\S*task:)?\d+\n)+", names)
    return sorted(int(number) for number in re.findall(r"(\d+)\n", found[0])) if found else []


def lost(error: BaseException) -> str | None:
    """Return one line that another process is gone, if the exception means that, else None."""
    if not _has_others():
        return None
    from jaxbert.processes import another_is_gone

    if not another_is_gone(error):
        return None
    reason = str(error).splitlines()[0]
    return f"another process of this run ended or cannot be reached: see the logs of the others ({reason})"


def end(code: int) -> None:
    """End a process that has others: together with them if the run ended well, at once if it did not.

    At its end, JAX makes a process wait for all others. After an error in one process they would never come: it ends without
    waiting, and the others notice that it is silent.
    """
    if not _has_others():
        return
    if code in _GOOD_ENDS:
        import jax

        jax.distributed.shutdown()
        return
    os._exit(code)


def _has_others() -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()
