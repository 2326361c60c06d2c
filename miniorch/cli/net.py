"""`net verify`: is every kernel as the state says? A line per difference: what is, what should be."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from miniorch.cli.ask import Server
from miniorch.cli.output import Answer
from miniorch.errors import MiniorchError, Unreachable, to_wire
from miniorch.model import NodeState

AT_ONCE = 8


def verify(node: str, *, repair: bool) -> Answer:
    """Print what differs; 0 if nothing does (any more), 1 if something does, 5 if a node could not be asked."""
    server = Server()
    nodes = {one.name: one for one in ([server.node(node)] if node else server.nodes())}
    method = "POST" if repair else "GET"

    def ask(name: str) -> Any:
        if nodes[name].state is NodeState.DOWN:
            return {"node": name, **to_wire(Unreachable("it is down", remedy="miniorch nodes"))}
        try:
            return server.transport.request_now(method, f"/v1/nodes/{name}/network")
        except MiniorchError as error:
            return {"node": name, **to_wire(error)}

    with ThreadPoolExecutor(AT_ONCE) as pool:
        reports = list(pool.map(ask, sorted(nodes)))
    words = [f"{report['node']}: {line}" for report in reports for line in lines(report)]
    code = 5 if any("differences" not in report for report in reports) else 0
    code = 1 if any(report.get("differences") for report in reports) else code
    return Answer(reports, "\n".join(words), code=code)


def lines(report: dict[str, Any]) -> list[str]:
    """What is said of one node."""
    if "differences" not in report:
        return [f"not looked at: {report['message']}"]
    said = [report["note"]] if report["note"] else []
    said += [f"repaired: {line}" for line in report["repaired"]] + list(report["differences"])
    if not report["differences"]:
        said.append("as it should be" if not report["repaired"] else "now as it should be")
    return said
