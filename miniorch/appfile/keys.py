"""What becomes of each key of a Compose file: one table, read by the reader, the import report and docs/compose.md.

The problem: Swarm ignored `depends_on` for years without a word. The idea: no reader decides in silence. A key is in
this table or it is an error; what is in the table is honoured, approximated (how) or ignored (why), and the report
says which, with its place. A key without a verdict (`-`) has a part of its own below; its keys are what is reported.

Who does this for real: uncloud and Kompose publish such tables by hand. Next file: `miniorch/appfile/values.py`.
"""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    HONOURED = "honoured"
    APPROXIMATED = "approximated"
    IGNORED = "ignored"
    DEFAULT = "default"  # of no key: what holds here because the file says nothing, and would not in Compose
    PART = "-"


@dataclass(frozen=True, slots=True)
class Key:
    """One key. `why` says how it is approximated, or why it is ignored."""

    name: str
    verdict: Verdict
    why: str = ""


_TABLE = """
[file]
name                   honoured
services               -
volumes                -
include                honoured
networks               honoured
secrets                -
configs                -
version                ignored       Compose has not needed it since 2020
models                 ignored       miniorch runs containers only

[service]
image                  honoured
build                  -
command                honoured
entrypoint             honoured
environment            honoured
env_file               honoured
ports                  honoured
expose                 honoured
volumes                honoured
volumes_from           approximated  the other service's volumes are mounted at the same places, on its node
tmpfs                  honoured
healthcheck            -
depends_on             honoured
links                  approximated  the alias is known to the whole app, and no DB_PORT_... variables are set
deploy                 -
scale                  honoured
restart                honoured
stop_grace_period      honoured
x-miniorch             -
stop_signal            honoured
platform               honoured
profiles               honoured
extends                honoured
secrets                approximated  the file is mounted from the machine where the task runs
configs                approximated  the file is mounted from the machine where the task runs
networks               honoured
user                   honoured
working_dir            honoured
hostname               honoured
labels                 honoured
tty                    honoured
stdin_open             honoured
read_only              honoured
init                   honoured
privileged             honoured
cap_add                honoured
cap_drop               honoured
security_opt           honoured
group_add              honoured
devices                honoured
extra_hosts            honoured
sysctls                honoured
ulimits                honoured
shm_size               honoured
pids_limit             honoured
cpus                   honoured
mem_limit              honoured
mem_reservation        honoured
container_name         ignored       every task has a name of its own: miniorch ps
network_mode           approximated  with service:NAME a task goes to that service's node, with an address of its own
net                    approximated  with container:NAME a task goes to that service's node, with an address of its own
external_links         ignored       other apps cannot be reached by name
dns                    ignored       miniorch answers names, and asks the node's own resolvers for all others
dns_opt                ignored       miniorch answers names, and asks the node's own resolvers for all others
dns_search             ignored       the search domain is the app's
domainname             ignored       the domain is APP.miniorch.internal
logging                ignored       the newest 20 MB of a container's output are kept: miniorch logs
log_driver             ignored       the newest 20 MB of a container's output are kept: miniorch logs
log_opt                ignored       the newest 20 MB of a container's output are kept: miniorch logs
pull_policy            ignored       an image is fetched when the node does not have it
pull_refresh_after     ignored       an image is fetched when the node does not have it
volume_driver          ignored       volumes are folders on their node
dockerfile             honoured
label_file             ignored       write the labels below labels
annotations            ignored       Docker's API for them is newer than what is asked for here
attach                 ignored       miniorch logs -f shows what you choose
develop                ignored       files are not watched: run the file again
post_start             ignored       no commands are run beside a container
pre_stop               ignored       no commands are run beside a container
provider               ignored       miniorch runs containers only
models                 ignored       miniorch runs containers only
gpus                   ignored       GPUs are not handed out
runtime                ignored       containers run in the engine's default runtime
isolation              ignored       it means something on Windows only
credential_spec        ignored       it means something on Windows only
cpu_count              ignored       it means something on Windows only
cpu_percent            ignored       it means something on Windows only
cpu_shares             ignored       write cpus: shares say nothing about how much there is
cpu_quota              ignored       write cpus: it is the same limit in one number
cpu_period             ignored       write cpus: it is the same limit in one number
cpu_rt_period          ignored       real-time scheduling is the machine's business
cpu_rt_runtime         ignored       real-time scheduling is the machine's business
cpuset                 ignored       which processors a task runs on is the machine's business
blkio_config           ignored       disk bandwidth is not limited
mem_swappiness         ignored       swapping is the machine's business
memswap_limit          ignored       swapping is the machine's business
oom_kill_disable       ignored       a task beyond its memory limit ends, and its successor starts
oom_score_adj          ignored       which process ends first is the machine's business
cgroup                 ignored       containers are in the engine's own control groups
cgroup_parent          ignored       containers are in the engine's own control groups
device_cgroup_rules    ignored       write devices
storage_opt            ignored       the engine's storage driver decides
ipc                    ignored       every task has a namespace of its own
pid                    ignored       every task has a namespace of its own
uts                    ignored       every task has a namespace of its own
userns_mode            ignored       the engine's own setting counts
mac_address            ignored       addresses belong to tasks, and tasks come and go
use_api_socket         ignored       mount it below volumes if that is meant

[build]
context                honoured
dockerfile             honoured
args                   honoured
target                 honoured
dockerfile_inline      ignored       write it into a file, and name that below dockerfile
tags                   ignored       the image is named by its contents
labels                 ignored       write LABEL in the Dockerfile
cache_from             ignored       the node's own cache is used
cache_to               ignored       the node's own cache is used
no_cache               ignored       the node's own cache is used
pull                   ignored       an image is fetched when the node does not have it
additional_contexts    ignored       the classic builder has one context
network                ignored       a build has Docker's default network
extra_hosts            ignored       a build has Docker's default network
platforms              ignored       images are built for the node's own platform
isolation              ignored       it means something on Windows only
privileged             ignored       the classic builder has no privileged builds
entitlements           ignored       the classic builder has no privileged builds
provenance             ignored       the classic builder writes none
sbom                   ignored       the classic builder writes none
secrets                ignored       the classic builder has none
ssh                    ignored       the classic builder has none
shm_size               ignored       Docker's default is used
ulimits                ignored       Docker's defaults are used

[healthcheck]
test                   honoured
interval               honoured
timeout                honoured
retries                honoured
start_period           honoured
disable                honoured
start_interval         ignored       a starting task is probed often anyway

[x-miniorch]
stop_after             honoured
constraints            honoured
affinities             honoured
spread                 honoured
strategy               honoured

[preferred]
prefer                 honoured
weight                 honoured

[deploy]
replicas               honoured
mode                   honoured
resources              -
restart_policy         -
labels                 ignored       nothing reads labels of services; below labels they are the containers'
endpoint_mode          approximated  a service's name is one address; tasks.NAME gives every task's
placement              -
update_config          approximated  one task after the other, the old one first; the next waits until it serves
rollback_config        ignored       a failed update stops; the tasks that are left go on

[placement]
constraints            honoured
preferences            -
max_replicas_per_node  honoured

[preference]
spread                 honoured

[resources]
limits                 -
reservations           -

[limits]
cpus                   honoured
memory                 honoured
pids                   honoured

[reservations]
cpus                   honoured
memory                 honoured
devices                ignored       devices are not handed out; generic_resources are counted
generic_resources      -

[generic resource]
discrete_resource_spec approximated  counted by the nodes' labels, such as resource.gpu=2; no device is handed out

[discrete resource]
kind                   honoured
value                  honoured

[restart_policy]
condition              honoured
max_attempts           honoured
delay                  honoured
window                 ignored       a task that lived for 60 s does not count as failed at once

[port]
target                 honoured
published              honoured
protocol               honoured
host_ip                honoured
mode                   approximated  every node listens on a published port (ingress)
name                   ignored       it is a note for people
app_protocol           ignored       it is a note for other programs

[mount]
type                   honoured
source                 honoured
target                 honoured
read_only              honoured
bind                   ignored       a path is mounted as it is, and must be there
volume                 ignored       a new volume is an empty folder
tmpfs                  ignored       its size is bounded by the task's memory limit
consistency            ignored       it means something on macOS only

[dependency]
condition              honoured
required               honoured
restart                ignored       a service is not restarted because another one is

[app network]
name                   ignored       networks are named by app and key
external               ignored       networks are an app's own, and its services reach no other app's
internal               ignored       its services reach the outside, too, through their node
driver                 ignored       the network is miniorch's own, and spans all nodes
driver_opts            ignored       the network is miniorch's own
ipam                   ignored       addresses come from the cluster's pool: miniorch up --pool
attachable             ignored       only tasks are on it
enable_ipv4            ignored       tasks have IPv4 addresses
enable_ipv6            ignored       tasks have IPv4 addresses
labels                 ignored       nothing reads labels of networks

[network]
aliases                honoured
ipv4_address           ignored       addresses belong to tasks, and tasks come and go
ipv6_address           ignored       tasks have IPv4 addresses
link_local_ips         ignored       addresses belong to tasks, and tasks come and go
mac_address            ignored       addresses belong to tasks, and tasks come and go
interface_name         ignored       a task has one interface
gw_priority            ignored       a task has one interface
priority               ignored       a task has one interface
driver_opts            ignored       the network is miniorch's own

[volume]
name                   ignored       volumes are named by app and key
driver                 ignored       volumes are folders on their node
driver_opts            ignored       volumes are folders on their node
external               ignored       the app gets a volume of its own, empty at first
labels                 ignored       nothing reads labels of volumes

[file source]
file                   honoured
name                   ignored       it is known by its key
external               ignored       only files of this machine are mounted
environment            ignored       only files of this machine are mounted
content                ignored       only files of this machine are mounted
labels                 ignored       nothing reads them
driver                 ignored       only files of this machine are mounted
driver_opts            ignored       only files of this machine are mounted
template_driver        ignored       only files of this machine are mounted

[file reference]
source                 honoured
target                 honoured
uid                    ignored       the file keeps its owner
gid                    ignored       the file keeps its owner
mode                   ignored       the file keeps its mode

[extends]
service                honoured
file                   honoured

[env file]
path                   honoured
required               honoured
format                 ignored       lines of NAME=value are read
"""


def _parse(text: str) -> dict[str, dict[str, Key]]:
    parts: dict[str, dict[str, Key]] = {}
    for line in text.strip().splitlines():
        if line.startswith("["):
            keys = parts[line.strip("[]")] = {}
        elif line:
            name, verdict, *why = line.split(None, 2)
            keys[name] = Key(name, Verdict(verdict), " ".join(why))
    return parts


PARTS = _parse(_TABLE)
"""Part of the file -> its keys, in the order of the table."""
