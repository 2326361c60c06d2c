#!/usr/bin/env bash
# Installs what miniorch needs on Debian or Ubuntu, and only what is missing; says each step before it does it.
#
#   scripts/setup.sh              what `make run` needs
#   scripts/setup.sh --tests      and what `make test` needs
#   scripts/setup.sh --standins   only what making stand-in images needs (scripts/images.py calls this)
#
# Nothing that is there already is changed, reconfigured, restarted or removed. A second run takes less than a second.
set -euo pipefail
cd "$(dirname "$0")/.."

CACHE=${MINIORCH_CACHE:-/var/cache/miniorch}
DOCKERD_LOG=/var/log/miniorch-dockerd.log
POLICY=/usr/sbin/policy-rc.d
DOCKER_WAIT_SECONDS=60
DOCKERD_TRIES=3
missing=() # packages
did=no     # whether anything was changed

say() { printf 'setup: %s\n' "$*"; }
die() {
    printf 'setup: %s\n' "$@" >&2
    exit 1
}
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
has() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ]; }
add() { [[ " ${missing[*]} " == *" $1 "* ]] || missing+=("$1"); }
need() { has "$1" || add "$2"; }
known() { apt-cache show "$1" >/dev/null 2>&1; }

check_system() {
    [ "$(uname -s)" = Linux ] || die "miniorch runs on Linux, and this is $(uname -s)." \
        "Run it in a virtual machine with Debian 12 or Ubuntu 24.04: Vagrant, Multipass, Lima, or WSL 2 on Windows." \
        "In there: clone this repository and type make run."
    [ "$(id -u)" = 0 ] || has sudo || die "this needs root: run it as root, or install sudo"
}

# ---- packages ----

install_missing() {
    [ ${#missing[@]} -gt 0 ] || return 0
    has apt-get || die "these are missing: ${missing[*]} (Debian's package names)" \
        "Only apt is known here: install them with your distribution's package manager, then run this again."
    did=yes
    say "apt-get update, to see current packages"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq </dev/null
    if printf '%s\n' "${missing[@]}" | grep -qx docker.io; then prepare_docker_install; fi
    say "apt-get install ${missing[*]}"
    local services=()
    if printf '%s\n' "${missing[@]}" | grep -qx haproxy; then services+=(haproxy); fi
    if printf '%s\n' "${missing[@]}" | grep -qx etcd-server; then services+=(etcd); fi
    hold "${services[@]}"
    # --no-remove: a package that would push another one out is not installed.
    as_root env DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes apt-get install -y -qq \
        --no-install-recommends --no-remove -o Dpkg::Use-Pty=0 "${missing[@]}" </dev/null >/dev/null
    release "${services[@]}"
    missing=()
}

# The agent starts its own HAProxy, and the tests their own etcd. The packages would start others at once and at every
# boot.
hold() {
    [ $# -gt 0 ] && [ ! -e $POLICY ] || return 0
    as_root tee $POLICY >/dev/null <<POLICY_TEXT
#!/bin/sh
# Written by miniorch's scripts/setup.sh for the time of one installation.
case " $* " in *" \$1 "*) exit 101 ;; esac
exit 0
POLICY_TEXT
    as_root chmod 755 $POLICY
    trap remove_policy EXIT
}
remove_policy() { if grep -qs "miniorch's scripts" $POLICY; then as_root rm -f $POLICY; fi; }
release() {
    remove_policy
    local service
    for service in "$@"; do
        say "the package's own service $service stays off: miniorch starts one of its own"
        if [ -d /run/systemd/system ]; then
            as_root systemctl disable -q "$service"
        else
            as_root update-rc.d "$service" disable >/dev/null 2>&1 || true
        fi
    done
}

# ---- Docker ----

docker_answers() {
    has docker || return 1
    docker version >/dev/null 2>&1 </dev/null && return 0
    [ "$(id -u)" != 0 ] && [ -e /var/run/docker.sock ] && as_root docker version >/dev/null 2>&1
}

want_docker() {
    if docker_answers; then return 0; fi
    need dockerd docker.io
    # Newer releases have the command line in a package of its own; before `apt-get update` it may not be known yet.
    if ! has docker; then if known docker-cli; then add docker-cli; else add docker.io; fi; fi
}

# Before the installation, because the package starts dockerd at once.
prepare_docker_install() {
    if known docker-cli && ! has docker; then add docker-cli; fi
    [ -e /etc/docker/daemon.json ] && return 0
    say "writing /etc/docker/daemon.json: live-restore, so that containers live on while dockerd restarts"
    as_root mkdir -p /etc/docker
    printf '{\n  "live-restore": true\n}\n' | as_root tee /etc/docker/daemon.json >/dev/null
}

# In a session of its own and without a terminal: it outlives this shell.
launch_dockerd() {
    local flags=
    [ -e /etc/docker/daemon.json ] || flags=--live-restore
    dockerd=$(as_root sh -c "nohup setsid dockerd $flags </dev/null >>$DOCKERD_LOG 2>&1 & echo \$!")
}

start_docker() {
    if docker_answers; then return 0; fi
    did=yes
    local dockerd='' tries=1
    [ -z "${DOCKER_HOST:-}" ] || die "DOCKER_HOST is $DOCKER_HOST and no Docker answers there" \
        "Start that one, or: unset DOCKER_HOST"
    if [ -d /run/systemd/system ]; then
        say "systemctl start docker"
        as_root systemctl start docker
    else
        say "starting dockerd (no systemd here); its log: $DOCKERD_LOG"
        launch_dockerd
    fi
    local deadline=$((SECONDS + DOCKER_WAIT_SECONDS))
    until docker_answers; do
        if [ -n "$dockerd" ] && [ ! -e "/proc/$dockerd" ] && [ $tries -lt $DOCKERD_TRIES ]; then
            # After a crash it takes its predecessor, or that one's containerd, for alive, and gives up. It passes.
            say "dockerd ended; starting it again"
            sleep 1
            tries=$((tries + 1))
            launch_dockerd
        elif [ -n "$dockerd" ] && [ ! -e "/proc/$dockerd" ]; then
            as_root tail -n 10 $DOCKERD_LOG >&2
            die "dockerd ended $tries times; the last lines of $DOCKERD_LOG are above"
        fi
        [ $SECONDS -lt $deadline ] || die "Docker did not answer within $DOCKER_WAIT_SECONDS s" \
            "See its log: $DOCKERD_LOG, or journalctl -u docker"
        sleep 0.2
    done
}

# ---- stand-in images ----

want_standins() {
    need mmdebstrap mmdebstrap
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing+=(debian-archive-keyring)
    need busybox busybox-static
}

# Debian's other busybox needs libc, which an image of one file does not have; and the two packages exclude each other.
fetch_static_busybox() {
    local found
    found=$(command -v busybox || echo /bin/busybox)
    if [ -x "$CACHE/busybox" ] || ! ldd "$found" >/dev/null 2>&1; then return 0; fi
    did=yes
    say "$found is not static: unpacking the package busybox-static into $CACHE, without installing it"
    local folder
    folder=$(mktemp -d)
    (cd "$folder" && apt-get download -qq -o APT::Sandbox::User=root busybox-static && dpkg-deb -x ./*.deb .)
    as_root mkdir -p "$CACHE"
    as_root install -m 755 "$(find "$folder" -type f -path '*bin/busybox')" "$CACHE/busybox"
    rm -r "$folder"
}

# ---- Python ----

# Prints a Python that is new enough and can make environments.
find_python() {
    local python
    for python in python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3; do
        if "$python" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            command -v "$python" && return 0
        fi
    done
    return 1
}

want_python() {
    if find_python >/dev/null; then return 0; fi
    if [ -x .venv/bin/python ] && .venv/bin/python -c '' 2>/dev/null; then return 0; fi
    local version
    for version in 3.14 3.13 3.12 3.11; do
        if has "python$version"; then
            missing+=("python$version-venv")
            return 0
        fi
    done
    # python3 of this release, if it is new enough; else an additional one (Ubuntu 22.04: universe has python3.11).
    has apt-get || die "Python 3.11 or newer with its venv module is missing: install it, then run this again"
    known python3 || as_root apt-get update -qq </dev/null
    version=$(apt-cache show python3 2>/dev/null | sed -n 's/^Version: \(3\.[0-9]*\).*/\1/p' | sort -V | tail -1)
    if [ -n "$version" ] && [ "${version#3.}" -ge 11 ]; then
        missing+=(python3 python3-venv)
    elif known python3.11; then
        say "python3 is ${version:-missing} here, and 3.11 is needed: python3.11 comes beside it"
        missing+=(python3.11 python3.11-venv)
    else
        die "Python 3.11 or newer is needed, and apt offers ${version:-none}" \
            "On Ubuntu 22.04: sudo add-apt-repository universe; older releases: use Ubuntu 24.04 or Debian 12"
    fi
}

# .venv exactly as requirements.lock says. The stamp also has the folder, because an environment cannot be moved.
make_venv() {
    local stamp python
    stamp="$(sha256sum requirements.lock pyproject.toml) $PWD"
    if [ "$(cat .venv/stamp 2>/dev/null)" = "$stamp" ] && .venv/bin/python -c '' 2>/dev/null; then return 0; fi
    did=yes
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        python=$(find_python) || die "no Python 3.11 with venv was found, even after the installation"
        say "making .venv with $python"
        "$python" -m venv --clear .venv
    fi
    say "installing the packages of requirements.lock into .venv, each checked by its hash"
    local pip=(.venv/bin/python -m pip --disable-pip-version-check --no-input -qq)
    "${pip[@]}" install --require-hashes -r requirements.lock </dev/null
    "${pip[@]}" install --no-deps --no-build-isolation -e . </dev/null
    printf '%s\n' "$stamp" >.venv/stamp
}

main() {
    check_system
    case "${1:-}" in
        --standins)
            want_standins
            install_missing
            fetch_static_busybox
            return 0
            ;;
        --tests)
            want_standins
            need etcd etcd-server
            need dig bind9-dnsutils
            need vagrant vagrant
            ;;
        "") ;;
        *) die "unknown option $1: --tests, --standins, or nothing" ;;
    esac
    need nft nftables
    need haproxy haproxy
    need ip iproute2
    need iptables iptables
    want_docker
    want_python
    install_missing
    if [ "${1:-}" = --tests ]; then fetch_static_busybox; fi
    start_docker
    make_venv
    if [ $did = no ]; then say "everything is there"; else say "done in $SECONDS s"; fi
}

main "$@"
