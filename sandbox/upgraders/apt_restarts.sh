# Which services the scripts of packages restart, and when those were started last. Used on
# production and in clones: it only reads.
info=${DPKG_ROOT:-}/var/lib/dpkg/info

# Lines of the packages' ($@) scripts that speak to systemd, each after its file's name.
service_lines() {
    scripts=
    for name in "$@"; do
        for file in "$info/$name.postinst" "$info/$name":*.postinst; do
            if [ -e "$file" ]; then scripts="$scripts $file"; fi
        done
    done
    if [ -z "$scripts" ]; then return; fi
    grep -HE '(deb-systemd-invoke|invoke-rc\.d|systemctl) ' $scripts /dev/null 2>/dev/null |
        head -c 200000
}

# Of the running services that these lines ($1) name: when they stopped, began and were ready. The
# kernel's control groups list them without a process.
last_starts() {
    named=
    for unit in /sys/fs/cgroup/system.slice/*.service \
        /sys/fs/cgroup/systemd/system.slice/*.service; do
        unit=${unit##*/}
        case $1 in *"${unit%.service}"*) named="$named $unit" ;; esac
    done
    if [ -z "$named" ] || ! command -v systemctl >/dev/null 2>&1; then return; fi
    set -f
    systemctl show -p Id -p ActiveExitTimestampMonotonic -p InactiveExitTimestampMonotonic \
        -p ActiveEnterTimestampMonotonic -- $named 2>/dev/null | head -c 200000
    set +f
}
