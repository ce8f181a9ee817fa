#!/usr/bin/env bash
# Installs Debian in a directory, unless that has been done: install-debian.sh SUITE DIRECTORY PACKAGE,… Needs root.
set -eu
suite=$1 directory=$2 packages=$3

# `debootstrap` creates the directory early. This file is made at its end.
complete=$directory/complete
[ ! -e "$complete" ] || exit 0
rm -rf --one-file-system "$directory"
mkdir --parents "$directory"
debootstrap --variant=minbase --include="$packages" "$suite" "$directory"
touch "$complete"
