#!/bin/sh
# What collect.yml puts into its archive: BASE/evidence.tar.gz. Nothing is changed but in BASE/evidence. PYTHON is a python3.
# What can not be had is told in its own file.
base=$1
cd "$base/evidence" || exit 1
said() { file=$1; shift; "$@" > "$file" 2>&1 || echo "(exit status $?: $*)" >> "$file"; }
date -u > when
for word in status metrics; do
  said "$word.json" "$PYTHON" -I "$base/lib/relay.pyz" ctl --socket "$base/run/control.sock" "$word"
done
said uname uname -a
said uptime uptime
said processes ps -eo pid,ppid,user,stat,etime,pcpu,rss,comm
said memory cat /proc/meminfo
said disks df -k
said addresses ip addr
said ways ip route
said sockets ss -tuanm
said udp cat /proc/net/snmp
said drops cat /proc/net/softnet_stat
said sysctl cat /proc/sys/net/core/rmem_max /proc/sys/net/core/wmem_max
said python "$PYTHON" -VV
said kernel dmesg -T
said journal journalctl -u commcli-relay -n 5000 --no-pager -o short-iso
said packages sh -c 'dpkg -l 2>/dev/null || rpm -qa'
cd "$base" || exit 1
tar -czf evidence.tar.gz $(for each in evidence log table etc/relay.json etc/allowed_signers; do
  [ -e "$each" ] && echo "$each"; done)
[ $? -le 1 ]   # 1: a log grew while it was read
