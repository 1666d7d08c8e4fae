#!/bin/sh
# The first process of a test machine: mounts what a system has, runs the scenarios, and switches the machine off.
# The host has put into /out: names.txt (the scenarios), boot.txt (which boot of them this is), guest/ (what runs
# them). See README.md.
set -eu
export PATH=/opt/dmimad/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
# No udevd runs until a scenario starts one: libdevmapper has to make the nodes itself.
export DM_DISABLE_UDEV=1
export PYTHONPATH=/out PYTHONDONTWRITEBYTECODE=1

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm /run /out
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock
mount -t securityfs securityfs /sys/kernel/security
modprobe -a virtio_pci 9pnet_virtio 9p
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 out /out

boot=$(cat /out/boot.txt)
# Majors are given out in the order of the modules: mapped devices have another one after each reboot.
[ "$boot" -lt 3 ] || modprobe null_blk nr_devices=0
[ "$boot" -lt 2 ] || modprobe virtio_blk
modprobe dm-mod
modprobe brd rd_nr=16 rd_size=65536
modprobe loop max_loop=16
modprobe virtio_blk
ip link set lo up
hostname dmimad-vm
echo '127.0.0.1 localhost dmimad-vm' >/etc/hosts
tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id

uname -r >/out/release.txt
cd /root
set +e
# shellcheck disable=SC2046  # one word per name
/opt/dmimad/bin/python /out/guest/main.py --out /out/results.jsonl --boot "$boot" $(cat /out/names.txt) \
	>/out/console.log 2>&1 </dev/null
echo $? >/out/status.txt

cd /
dmesg >/out/dmesg.txt
sync
umount /out
# o: off. It is done by another thread of the kernel; if this one ended first, that would be a panic.
echo o >/proc/sysrq-trigger
sleep 60
