#!/usr/bin/env bash
# Runs a command in another root directory, which has this workspace at the same path: in-root.sh ROOT WORKSPACE COMMAND…
# Needs root. What it mounts is in a namespace of its own, and is gone when the command ends.
set -eu
root=$1 workspace=$2
shift 2

mount --types proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --types tmpfs tmpfs "$root/tmp"
# To install packages: the names of hosts, and the authorities that sign for them.
[ -e "$root/etc/resolv.conf" ] || touch "$root/etc/resolv.conf"
mount --bind "$(readlink --canonicalize /etc/resolv.conf)" "$root/etc/resolv.conf"
if [ -d /etc/ssl/certs ]; then
    mkdir --parents "$root/etc/ssl/certs"
    mount --bind /etc/ssl/certs "$root/etc/ssl/certs"
fi
# Last, because the root may be in the workspace.
mkdir --parents "$root$workspace"
mount --bind "$workspace" "$root$workspace"

exec chroot "$root" /usr/bin/env --chdir="$workspace" "$@"
