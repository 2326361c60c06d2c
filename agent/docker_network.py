"""The node's network as Docker knows it: made once, made again when somebody prunes it, freed of what got stuck.

Docker's own part is small: the network names our driver (`netplugin/driver.py` does the work). Docker gives out no
addresses (its `null` IPAM), since the agent chooses them.

The problem: on a network that a user has made, Docker gives each container a name server of its own, 127.0.0.11. That
is one more start of the 80 MB program dockerd and eleven of iptables, a third of what a container's start costs, and
nobody asks it here; whoever did would learn the names of other apps' containers. The idea: Docker leaves it out where
its own networks are meant, and what looks like `container:NAME` counts among them. So the network's name begins with
that, and a container finds it by its id. Where an engine should see that differently, all works, only slower.
Next file: `agent/docker_connection.py`.
"""

import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from docker.errors import APIError, NotFound

from agent.docker_connection import said_by
from miniorch.errors import EngineError

DRIVER = "miniorch"
NETWORK = "container:miniorch"
SUBNET_LABEL = "miniorch.subnet"
T = TypeVar("T")


class DockerNetwork:
    """All methods block, with the SDK's client: they are work for `Connection.call`."""

    def __init__(self) -> None:
        self.subnet = self.id = ""
        self._making = threading.Lock()

    def make(self, api: Any) -> None:
        """docker network create --driver miniorch --ipam-driver null --label miniorch.subnet=... container:miniorch

        Docker makes a second one of that name if asked twice at a time, and then starts nothing on either.
        """
        labels = {SUBNET_LABEL: self.subnet}
        with self._making:
            kept = None
            for found in self._all(api):
                if kept is None and found["Labels"] == labels and found["Driver"] == DRIVER:
                    kept = found
                elif not found["Containers"]:
                    api.remove_network(found["Id"])
                elif kept is None:
                    raise EngineError(
                        f"Docker's network {NETWORK} has the subnet {found['Labels'].get(SUBNET_LABEL)} and "
                        f"containers; this node's subnet is {self.subnet}",
                        remedy="miniorch down --all",
                    )
            kept = kept or api.create_network(NETWORK, driver=DRIVER, ipam={"Driver": "null"}, labels=labels)
            self.id = str(kept["Id"])

    def remove(self, api: Any) -> None:
        """docker network rm container:miniorch"""
        self.free_stuck_endpoints(api)
        for found in self._all(api):
            api.remove_network(found["Id"])

    def given(self, api: Any, work: Callable[[], T]) -> T:
        """Do some work. If the network is missing, make it: `docker network prune` removes one that is not in use."""
        try:
            return work()
        except APIError as error:
            if not any(f"network {NETWORK} {trouble}" in said_by(error) for trouble in ("not found", "is ambiguous")):
                raise
        self.make(api)
        return work()

    def _all(self, api: Any) -> list[Any]:
        """The networks of that name, those with containers first."""
        found = []
        for one in api.networks(names=[NETWORK]):
            with contextlib.suppress(NotFound):
                found += [api.inspect_network(one["Id"])] if one["Name"] == NETWORK else []
        return sorted(found, key=lambda one: (not one["Containers"], one["Created"]))

    def free_stuck_endpoints(self, api: Any) -> None:
        """docker network disconnect --force container:miniorch NAME, for names without a container.

        With the container still there this would take the network from it and leave the endpoint.
        """
        entries = [(one["Id"], entry["Name"]) for one in self._all(api) for entry in (one["Containers"] or {}).values()]
        names = {name.lstrip("/") for one in api.containers(all=True) for name in one["Names"]}  # after the entries
        for network, name in entries:
            if name not in names:
                with contextlib.suppress(APIError):  # it was on its way out
                    api.disconnect_container_from_network(name, network, force=True)
