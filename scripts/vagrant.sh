#!/usr/bin/env bash
# Prepares one virtual machine; the Vagrantfile runs it as root in each of them, and then lets the machine join.
#
#   scripts/vagrant.sh init 192.168.56.11    the first machine: a cluster of one, which others can join
#   scripts/vagrant.sh wait                  any other: ready to join
#
# Can be repeated: `vagrant provision` brings a changed checkout and what is missing, and touches no container.
set -euo pipefail

CHECKOUT=/vagrant
HOME_FOLDER=/opt/miniorch # the checkout belongs to another user, who may change it at any time

mkdir -p $HOME_FOLDER
cp -a $CHECKOUT/. $HOME_FOLDER/
cd $HOME_FOLDER
modprobe vxlan
scripts/setup.sh
ln -sf $HOME_FOLDER/.venv/bin/miniorch /usr/local/bin/miniorch
if [ "$1" = init ]; then miniorch init --advertise "$2"; fi
