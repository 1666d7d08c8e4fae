#!/bin/busybox sh
# The first process of a machine with systemd: finds its disk, and makes way for the systemd on it.
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
for module in virtio_pci virtio_blk crc32c_generic ext4; do
	/bin/busybox modprobe "$module"
done
# The first disk on the bus; the kernel may still be looking at it.
tries=0
while [ ! -b /dev/vda ] && [ "$tries" -lt 100 ]; do
	/bin/busybox sleep 0.1
	tries=$((tries + 1))
done
/bin/busybox mount -t ext4 /dev/vda /new
for place in dev proc sys; do
	/bin/busybox mount -o move "/$place" "/new/$place"
done
exec /bin/busybox switch_root /new /sbin/init
