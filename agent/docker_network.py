"""The node's network as Docker knows it: made once, made again when somebody prunes it, freed of what got stuck.

Docker's own part is small: the network names our driver (`netplugin/driver.py` does the work) and the node's subnet,
so that Docker refuses an address that is taken twice. Next file: `agent/docker_connection.py`.
"""

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

from docker.errors import APIError, NotFound

from agent.docker_connection import Connection, said_by
from miniorch.errors import EngineError

NETWORK = "miniorch"
T = TypeVar("T")


class DockerNetwork:
    """All methods block: call them inside `Connection.call`."""

    def __init__(self, docker: Connection, driver: str) -> None:
        self._docker = docker
        self._driver = driver
        self.subnet = self.gateway = ""

    def make(self) -> None:
        """docker network create --driver miniorch --subnet 10.200.0.0/24 --gateway 10.200.0.1 miniorch"""
        api = self._docker.client()
        try:
            found = api.inspect_network(NETWORK)
        except NotFound:
            pool = {"Subnet": self.subnet, "Gateway": self.gateway}
            api.create_network(NETWORK, driver=self._driver, ipam={"Driver": "default", "Config": [pool]})
            return
        subnets = [pool.get("Subnet") for pool in found["IPAM"]["Config"] or []]
        if subnets == [self.subnet] and found["Driver"] == self._driver:
            return
        if found["Containers"]:
            raise EngineError(
                f"Docker's network {NETWORK} has the subnet {', '.join(map(str, subnets))} and containers; "
                f"this node's subnet is {self.subnet}",
                remedy="miniorch down --all",
            )
        api.remove_network(found["Id"])
        self.make()

    def remove(self) -> None:
        """docker network rm miniorch"""
        with contextlib.suppress(NotFound):
            self.free_stuck_endpoints()
            self._docker.client().remove_network(NETWORK)

    def given(self, work: Callable[[], T]) -> T:
        """Do some work. If the network is missing, make it: `docker network prune` removes one that is not in use."""
        try:
            return work()
        except APIError as error:
            if f"network {NETWORK} not found" not in said_by(error):
                raise
        self.make()
        return work()

    def free_stuck_endpoints(self) -> None:
        """docker network disconnect --force miniorch NAME, for names without a container.

        With the container still there this would take the network from it and leave the endpoint.
        """
        api: Any = self._docker.client()
        names = {name.lstrip("/") for one in api.containers(all=True) for name in one["Names"]}
        for entry in (api.inspect_network(NETWORK)["Containers"] or {}).values():
            if entry["Name"] not in names:
                api.disconnect_container_from_network(entry["Name"], NETWORK, force=True)
