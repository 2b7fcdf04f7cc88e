"""Reads the place of a TPU VM from the metadata server of Google's cloud, if no variable gives it."""

from __future__ import annotations

import logging
import urllib.error
import urllib.request

from jaxbert.launch.clusters import METADATA_HOSTS, METADATA_WORKER
from jaxbert.launch.place import Environment

_TIMEOUT_SECONDS = 10
_MULTISLICE = ("MEGASCALE_NUM_SLICES", "MEGASCALE_SLICE_ID", "MEGASCALE_COORDINATOR_ADDRESS")
_DIRECT = urllib.request.build_opener(
    urllib.request.ProxyHandler({})
)  # the server belongs to this machine: no proxy knows it
logger = logging.getLogger("jaxbert")


def tpu_metadata(environment: Environment) -> dict[str, str]:
    """Return the hosts of the slice, the number of this host, and with several slices the number of this slice.

    JAX itself sets TPU_SKIP_MDS_QUERY on a machine without a TPU.
    """
    told = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES", "TPU_SKIP_MDS_QUERY")
    if environment.get("JAX_PLATFORMS") == "cpu" or any(name in environment for name in told):
        return {}
    server = environment.get("GCE_METADATA_IP", "metadata.google.internal")
    try:
        found = {name: _attribute(server, name) for name in (METADATA_HOSTS, METADATA_WORKER, "tpu-env")}
    except OSError as error:
        logger.info(
            f"the metadata server {server} did not answer ({error}): this process runs as if it were the only TPU host"
        )
        return {}
    multislice = _read_tpu_env(found.pop("tpu-env") or "")
    return {name: value for name, value in found.items() if value} | multislice


def _attribute(server: str, name: str) -> str | None:
    """Request one attribute; return None if the machine has no attribute of that name."""
    url = f"http://{server}/computeMetadata/v1/instance/attributes/{name}"
    request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
    try:
        with _DIRECT.open(request, timeout=_TIMEOUT_SECONDS) as answer:
            return answer.read().decode("utf-8").strip()
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise


def _read_tpu_env(text: str) -> dict[str, str]:
    """Parse lines such as `MEGASCALE_NUM_SLICES: '2'`."""
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    values = {name.strip(): value.strip().strip("'\"") for name, value in pairs}
    return {name: values[name] for name in _MULTISLICE if values.get(name)}
