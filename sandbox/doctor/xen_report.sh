# What `sandbox doctor` wants to know of a Xen host, in one go; xen_report.py reads it.
# Run as `sh -s`; sections begin with "== NAME". Changes nothing.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export LC_ALL=C
section() { printf '\n== %s\n' "$1"; }

section clock
date +%s.%N
section user
id -u
section xl-info
xl info 2>&1
section libxl-conf
grep -v '^[[:space:]]*#' /etc/libvirt/libxl.conf 2>/dev/null
section programs
for program in xl xenstore-read lvs lvcreate qemu-img qemu-nbd nft ip dnsmasq setsid; do
    found=$(command -v "$program") && printf '%s %s\n' "$program" "$found"
done
section loaders
ls -d /usr/lib/grub-xen/*.bin /usr/bin/pygrub /usr/sbin/pygrub /usr/lib/xen*/bin/pygrub \
    /usr/lib/xen*/boot/hvmloader 2>/dev/null
section device-models
ls -d /usr/libexec/xen-qemu-system-i386 /usr/lib/xen*/bin/qemu-system-i386 \
    /usr/bin/qemu-system-i386 2>/dev/null
section consoles
for place in /proc/[0-9]*; do
    # Its command line, one argument a line.
    read -r name 2>/dev/null <"$place/comm" && [ "$name" = xenconsoled ] &&
        tr '\0' '\n' <"$place/cmdline" && break
done
section console-settings
grep -hsE '^[[:space:]]*XENCONSOLED_' /etc/default/xen /etc/default/xencommons \
    /etc/sysconfig/xencommons
section lvs
lvs --reportformat json --units b --nosuffix \
    -o vg_name,lv_name,lv_size,segtype,data_percent,metadata_percent \
    -o+lv_health_status,lv_check_needed,lv_permissions 2>&1
section space
df -B1 --output=avail /var/lib 2>/dev/null | tail -n 1
section end
