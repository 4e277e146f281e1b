#!/usr/bin/env bash
# A real SLURM of two nodes on this machine, for tests/test_cluster.py, as root; no node has a GPU.
#
#   tests/slurm.sh start DIR      its state and logs go to DIR
#   tests/slurm.sh stop DIR
set -euo pipefail
dir=$2
conf=/etc/slurm/slurm.conf  # Commands inside jobs look for it nowhere else.
mark="# of tests/slurm.sh"

stop() {
  grep -qsF "$mark" $conf || return 0
  scancel --user="$(id -un)" || true
  for _ in $(seq 20); do
    if [ -z "$(squeue --noheader)" ]; then break; fi
    sleep 0.5
  done
  for name in slurmd-n1 slurmd-n2 slurmctld munged; do
    if [ -s "$dir/$name.pid" ]; then kill "$(cat "$dir/$name.pid")" 2> /dev/null || true; fi
  done
  rm -f $conf
}

start() {
  if [ -e $conf ]; then
    echo "$conf is there already: this machine belongs to a cluster" >&2
    exit 1
  fi
  mkdir -p "$dir/state" /etc/slurm
  host=$(hostname -s)
  cat > $conf << EOF
$mark
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=17800
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=1
MpiDefault=none
SlurmctldPidFile=$dir/slurmctld.pid
SlurmctldLogFile=$dir/slurmctld.log
StateSaveLocation=$dir/state
SlurmdPidFile=$dir/slurmd-%n.pid
SlurmdLogFile=$dir/slurmd-%n.log
SlurmdSpoolDir=$dir/spool-%n
KillWait=3
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=17801 CPUs=1 RealMemory=2000
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=17802 CPUs=1 RealMemory=2000
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
EOF
  # As root it warns of nothing but of whom the folders belong to.
  head -c 1024 /dev/urandom > "$dir/munge.key"
  chmod 400 "$dir/munge.key"
  munged --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" \
    --pid-file="$dir/munged.pid" --log-file="$dir/munged.log" --seed-file="$dir/munged.seed"
  slurmctld
  slurmd -N n1
  slurmd -N n2
  for _ in $(seq 60); do
    if [ "$(sinfo --noheader --format=%T%D)" = idle2 ]; then return; fi
    sleep 0.5
  done
  sinfo
  exit 1
}

"$1"
