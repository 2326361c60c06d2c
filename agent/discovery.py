"""Finding other services by environment variables, for programs that read no DNS. Pure.

For each service of the app a container gets `DB_SERVICE_HOST`, the service's address, and, if the service publishes a
port, `DB_SERVICE_PORT`, the port that its tasks listen on: together they can be connected to. The address is the one
that DNS answers, and it stays while the service exists, so a container need not be made anew when tasks move.

Who does this for real: Kubernetes, with these names (there for the services that were older than the pod; so it is
here). They are given to a container when it is made and are no part of its spec: another service that comes or goes
replaces nothing. What the app file sets stays as it is. Next file: `agent/container_spec.py`.
"""

import re
from collections.abc import Iterable

from miniorch.model import Endpoints


def variables(app: str, endpoints: Iterable[Endpoints]) -> dict[str, str]:
    """The variables of all services of an app, by name."""
    found = {}
    for service in endpoints:
        if service.app == app:
            name = re.sub(r"[^A-Z0-9]", "_", service.service.upper())
            found[f"{name}_SERVICE_HOST"] = service.vip
            if service.ports:
                found[f"{name}_SERVICE_PORT"] = str(service.ports[0].target)
    return dict(sorted(found.items()))
