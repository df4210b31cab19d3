#!/bin/sh
# Run once by the lab's builder, in dom0: volumes, guests' disks, guests' definitions.
set -eu
data=/dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_lab-data
guest=/dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_lab-guest
for device in "$data" "$guest"; do
    [ -b "$device" ] || { echo "$device is missing" >&2; exit 1; }
done
pvcreate -q "$data"
vgcreate -q vg0 "$data"
lvcreate -q --type thin-pool -L 8G --poolmetadatasize 64M -n thin vg0
lvcreate -q -V 2G --thinpool vg0/thin -n web01-root
lvcreate -q -V 64M --thinpool vg0/thin -n web01-data
lvcreate -q -L 4G -n images vg0
dd if="$guest" of=/dev/vg0/web01-root bs=1M conv=sparse,fsync status=none
mkfs.ext4 -q /dev/vg0/web01-data
mkfs.xfs -q -m reflink=1 /dev/vg0/images
mkdir -p /srv/images
# systemd's 90 seconds are too few where a busy machine emulates this one.
echo '/dev/vg0/images /srv/images xfs defaults,x-systemd.device-timeout=900 0 2' >>/etc/fstab
systemctl daemon-reload
mount /srv/images
qemu-img convert -f raw -O qcow2 "$guest" /srv/images/db01.qcow2
for guest in web01 db01; do
    virsh --quiet define "/etc/upgrade-sandbox-lab/$guest.xml"
done
virsh --quiet autostart web01
sync
