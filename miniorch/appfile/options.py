"""What the container engine is given as it is, and what it would refuse only when a task starts.

The problem: Docker finds a mistyped capability, and an image name in capitals, on some node and minutes later, and
names neither file nor line. The idea: the few words that it takes are known here, too, so they are refused where they
stand.

Who does this for real: Kubernetes' API server checks all that it can before anything is stored. Where we differ: what
only a node can know (devices, sysctls, security profiles) is left to it. Next file: `miniorch/appfile/placement.py`.
"""

import ipaddress
import re
import signal
from collections.abc import Collection, Iterator, Mapping

from miniorch.appfile.keys import Verdict
from miniorch.appfile.problems import Place
from miniorch.appfile.values import Section, name_remedy
from miniorch.appfile.yaml import Node, shorten
from miniorch.spec import TEMPLATE, ContainerOptions

LEAST_MEMORY = 6 << 20  # Docker starts nothing below
CAPABILITIES = """
ALL AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER
FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD NET_ADMIN NET_BIND_SERVICE
NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYS_ADMIN SYS_BOOT SYS_CHROOT SYS_MODULE SYS_NICE SYS_PACCT
SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG SYSLOG WAKE_ALARM
""".split()  # noqa: SIM905
_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_IMAGE = re.compile(
    rf"(?:(?:[A-Za-z0-9.-]+|\[[0-9a-fA-F:]+])(?::[0-9]+)?/)?{_PART}(?:/{_PART})*(?::{_TAG})?(?:@sha256:[0-9a-f]{{64}})?"
)
_SIGNAL = re.compile(r"RTM(?:IN\+|AX-)[0-9]{1,2}|[1-9]|[1-5][0-9]|6[0-4]")


def image(keys: Section) -> str:
    """The name of an image, as registries have it."""
    node, name = keys.get("image"), keys.text("image")
    if node is not None and name and not _IMAGE.fullmatch(name):
        words = re.sub(r"^[a-z]+://|[^a-z0-9/._:-]+", "-", name.strip().lower()).strip("-")
        better = re.sub(r"[:.-]+$", "", words)
        better = better if _IMAGE.fullmatch(better) else "nginx:1.25"
        message = f'{keys.named("image")} wants name:tag in lower-case letters, got "{shorten(name)}"'
        keys.values.refuse("E0104", message, node.place, f"image: {better}")
    return name


def memory(keys: Section, key: str) -> int:
    """A limit of memory in bytes; 0 is none."""
    size, node = keys.size(key), keys.get(key)
    if node is not None and 0 < size < LEAST_MEMORY:
        keys.values.wrong(keys.named(key), "at least 6M, as Docker does", node, f"{key}: 6M")
    return size


def options(keys: Section, tmpfs: Mapping[str, str], pids: int) -> ContainerOptions:
    """What goes through as it is. `tmpfs` and `pids` are what was read elsewhere."""
    return ContainerOptions(
        user=keys.text("user"),
        working_dir=_folder(keys),
        hostname=hinted(keys, "hostname", keys.text("hostname")),
        stop_signal=_signal(keys),
        tty=keys.flag("tty"),
        stdin_open=keys.flag("stdin_open"),
        read_only=keys.flag("read_only"),
        init=keys.flag("init", True),
        privileged=keys.flag("privileged"),
        cap_add=_capabilities(keys, "cap_add"),
        cap_drop=_capabilities(keys, "cap_drop"),
        security_opt=keys.texts("security_opt"),
        group_add=keys.texts("group_add"),
        devices=keys.texts("devices"),
        extra_hosts=tuple(_hosts(keys)),
        tmpfs=tmpfs,
        sysctls=keys.pairs("sysctls"),
        ulimits=_ulimits(keys),
        labels=keys.pairs("labels"),
        shm_size_bytes=keys.size("shm_size"),
        pids_limit=keys.whole("pids_limit", 0, -1, 1 << 22, 100) or pids,
    )


def hinted(keys: Section, key: str, text: str, place: Place | None = None) -> str:
    """The text; of Swarm's templates in it, those that the agent does not know are reported."""
    if "{{" in text and (unknown := re.search(r"\{\{[^{}]*\.(?:Node|Service|Task)\b[^{}]*}}", TEMPLATE.sub("", text))):
        keys.note(key, Verdict.IGNORED, f"{shorten(unknown[0])} is not known here, and stays as it is", place)
    return text


def _folder(keys: Section) -> str:
    path, node = keys.text("working_dir"), keys.get("working_dir")
    if node and path and not path.startswith("/"):
        right = f"working_dir: /{shorten(path.lstrip('./'))}"
        keys.values.wrong(keys.named("working_dir"), "an absolute path in the container", node, right)
    return path


def _signal(keys: Section) -> str:
    node = keys.get("stop_signal")
    if node is None:
        return ""
    word = keys.text("stop_signal")
    name = word.upper().removeprefix("SIG")
    if word and not _SIGNAL.fullmatch(name) and f"SIG{name}" not in signal.Signals.__members__:
        message = f'{keys.named("stop_signal")} wants the name of a signal, got "{shorten(word)}"'
        remedy = name_remedy(f"SIG{name}", signal.Signals.__members__, "")
        keys.values.refuse("E0104", message, node.place, remedy)
    return word


def _capabilities(keys: Section, key: str) -> tuple[str, ...]:
    node, words = keys.get(key), keys.texts(key)
    for word, item in zip(words, _items(node), strict=False):
        name = word.upper().removeprefix("CAP_")
        if word and name not in CAPABILITIES:
            message = f'{keys.named(key)} wants the name of a capability, got "{shorten(word)}"'
            keys.values.refuse("E0104", message, item.place, name_remedy(name, CAPABILITIES, ""))
    return words


def _items(node: Node | None) -> Collection[Node]:
    return () if node is None else node.value if isinstance(node.value, list) else (node,)


def _hosts(keys: Section) -> Iterator[str]:
    """`name:address` or `name=address`, an IPv6 address with or without brackets, or Docker's word for its machine."""
    what = keys.named("extra_hosts")
    for name, value, place in keys.values.raw_pairs(keys.get("extra_hosts"), what):
        host, mark, address = re.sub("[=:]", "\0", f"{name}={value}" if value is not None else name, count=1).partition(
            "\0"
        )
        address = address.strip("[]")
        try:
            if address != "host-gateway":
                ipaddress.ip_address(address)
        except ValueError:
            message = f'{what} wants name:address, got "{shorten(host + ":" * bool(mark) + address)}"'
            keys.values.refuse("E0104", message, place, f'"{shorten(host)}:10.0.0.1"')
        yield f"{host}:{address}"


def _ulimits(keys: Section) -> dict[str, str]:
    """`nofile: 1024` or `nofile: {soft: 1024, hard: 2048}` as "soft:hard"."""
    values, found, what = keys.values, {}, keys.named("ulimits")
    for name, entry in values.mapping(keys.get("ulimits"), what).items():
        inner = f"{what} {shorten(name)}"
        if isinstance(entry.node.value, dict):
            both = [entry.node.value[word].node for word in ("soft", "hard") if word in entry.node.value]
            if len(both) != 2 or len(entry.node.value) != 2:
                values.wrong(inner, "soft and hard", entry.node, f"{name}: {{soft: 1024, hard: 2048}}")
                continue
        else:
            both = [entry.node, entry.node]
        found[name] = ":".join(str(values.whole(node, inner, -1, 1 << 53, 1024)) for node in both)
    return found
