"""What the container engine is given as it is, and what it would refuse only when a task starts.

The problem: Docker finds a mistyped capability, and an image name in capitals, on some node and minutes later, and
names neither file nor line. The idea: the few words that it takes are known here, too, so they are refused where they
stand. Each function is a reader of the table of keys (`section.py`).

Who does this for real: Kubernetes' API server checks all that it can before anything is stored. Where we differ: what
only a node can know (devices, sysctls, security profiles) is left to it. Next file: `miniorch/appfile/placement.py`.
"""

import ipaddress
import json
import re
import shlex
import signal
from collections.abc import Mapping

from miniorch.appfile.keys import Key
from miniorch.appfile.values import Values, name_remedy
from miniorch.appfile.yaml import Node, shorten
from scheduler import attributes

LEAST_MEMORY = 6 << 20  # Docker starts nothing below
MAX_COMMAND = 131_072  # Linux takes no longer argument
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
_LIMIT = Key("", takes=f"-1..{1 << 53}", example="1024")


def image(values: Values, node: Node, what: str, key: Key) -> str:
    """The name of an image, as registries have it."""
    name = values.text(node, what, key)
    if name and not _IMAGE.fullmatch(name):
        words = re.sub(r"^[a-z]+://|[^a-z0-9/._:-]+", "-", name.strip().lower()).strip("-")
        better = re.sub(r"[:.-]+$", "", words)
        better = better if _IMAGE.fullmatch(better) else "nginx:1.25"
        values.misfit(what, "name:tag in lower-case letters", name, node.place, f"image: {better}")
    return name


def arguments(values: Values, node: Node, what: str, key: Key) -> tuple[str, ...] | None:
    """`command` and `entrypoint`: a list is taken as it is, a text is split as a shell would."""
    if isinstance(node.value, list):
        return values.texts(node, what)
    text = values.text(node, what, empty=True)
    if len(text) > MAX_COMMAND:
        values.wrong(what, f"at most {MAX_COMMAND} letters, as Linux does", node, "write it into a file of the image")
        return None
    try:
        return tuple(shlex.split(text))
    except ValueError:
        right = f"{key.name}: {shorten(json.dumps([word.strip(chr(39) + chr(34)) for word in text.split()]), 200)}"
        message = f"{what} has a quotation mark that is not closed"
        values.refuse("E0104", message, node.place, f"write it as a list: {right}")
        return None


def memory(values: Values, node: Node, what: str, key: Key) -> int:
    """A limit of memory in bytes; 0 is none."""
    size = values.size(node, what)
    if 0 < size < LEAST_MEMORY:
        values.wrong(what, "at least 6M, as Docker does", node, f"{key.name}: 6M")
    return size


def folder(values: Values, node: Node, what: str, key: Key) -> str:
    path = values.text(node, what)
    if path and not path.startswith("/"):
        right = f"{key.name}: /{shorten(path.lstrip('./'))}"
        values.wrong(what, "an absolute path in the container", node, right)
    return path


def signal_name(values: Values, node: Node, what: str, key: Key) -> str:
    word = values.text(node, what)
    name = word.upper().removeprefix("SIG")
    if word and not _SIGNAL.fullmatch(name) and f"SIG{name}" not in signal.Signals.__members__:
        remedy = name_remedy(f"SIG{name}", signal.Signals.__members__, "")
        values.misfit(what, "the name of a signal", word, node.place, remedy)
    return word


def capabilities(values: Values, node: Node, what: str, key: Key) -> tuple[str, ...]:
    words = values.texts(node, what)
    for word, item in zip(words, node.value if isinstance(node.value, list) else [node], strict=False):
        name = word.upper().removeprefix("CAP_")
        if word and name not in CAPABILITIES:
            values.misfit(what, "the name of a capability", word, item.place, name_remedy(name, CAPABILITIES, ""))
    return words


def hosts(values: Values, node: Node, what: str, key: Key) -> tuple[str, ...]:
    """`name:address` or `name=address`, an IPv6 address with or without brackets, or Docker's word for its machine."""
    found = []
    for name, value, place in values.raw_pairs(node, what):
        text = f"{name}={value}" if value is not None else name
        host, mark, address = re.sub("[=:]", "\0", text, count=1).partition("\0")
        address = address.strip("[]")
        try:
            if address != "host-gateway":
                ipaddress.ip_address(address)
        except ValueError:
            right = f'"{shorten(host)}:10.0.0.1"'
            values.misfit(what, "name:address", host + ":" * bool(mark) + address, place, right)
        found.append(f"{host}:{address}")
    return tuple(found)


def ulimits(values: Values, node: Node, what: str, key: Key) -> Mapping[str, str]:
    """`nofile: 1024` or `nofile: {soft: 1024, hard: 2048}` as "soft:hard"."""
    found = {}
    for name, entry in values.mapping(node, what).items():
        inner, both = f"{what} {shorten(name)}", [entry.node, entry.node]
        if isinstance(entry.node.value, dict):
            if set(entry.node.value) != {"soft", "hard"}:
                values.wrong(inner, "soft and hard", entry.node, f"{name}: {{soft: 1024, hard: 2048}}")
                continue
            both = [entry.node.value[word].node for word in ("soft", "hard")]
        found[name] = ":".join(str(values.whole(one, inner, _LIMIT)) for one in both)
    return found


def platform(values: Values, node: Node, what: str, key: Key) -> str:
    text = values.text(node, what, key).lower()
    if not text or attributes.PLATFORM.fullmatch(text):
        return text
    values.wrong(what, "a system and a processor", node, f"platform: {key.example}")
    return ""


def attribute(values: Values, node: Node, what: str, key: Key) -> str:
    """What a node has and tasks are spread over, such as `node.labels.zone`."""
    name = attributes.spelt(values.text(node, what, key))
    if not name or attributes.known(name):
        return name
    message = f'{what}: there is no attribute "{shorten(name)}"'
    values.refuse("E0104", message, node.place, f"write {attributes.nearest(name)}")
    return ""


def resource(values: Values, node: Node, what: str, key: Key) -> str:
    """What nodes have whole pieces of, such as `gpu`."""
    kind = values.text(node, what, key)
    if not kind or attributes.is_generic(kind):
        return kind
    values.wrong(what, "a name of letters and digits, not cpus or memory", node, f"{key.name}: {key.example}")
    return ""
