# Everything that an observation needs, in one go and with few processes: under emulation each
# one costs. POSIX sh only; works without systemd, ss, dpkg. $1 is a mark that no output of the
# guest can contain; every section has a size limit, because the guest may be hostile. $2: "all",
# "reboot" for what tells whether one is due, or "units".
PATH=${PATH:-/usr/bin:/bin}:/usr/local/sbin:/usr/sbin:/sbin
LC_ALL=C LANGUAGE=C SYSTEMD_COLORS=0 COLUMNS=500
export PATH LC_ALL LANGUAGE SYSTEMD_COLORS COLUMNS
# Code in memory whose file is gone, so that it was replaced. Not what is left of an initramfs
# (device 00:01 or 00:02): on a busy host its udev may run on, and no upgrade has replaced that.
DEVICE='((0[1-9a-f]|[1-9a-f][0-9a-f]+):[0-9a-f]+|00:(0[3-9a-f]|[1-9a-f][0-9a-f]+))'
STALE="r-xp [0-9a-f]+ $DEVICE [0-9]+ +/(usr|lib|lib32|lib64|bin|sbin|opt)/.* \\(deleted\\)\$"

has() {
    command -v "$1" >/dev/null 2>&1
}

section() {
    printf '\n%s %s\n' "$mark" "$1"
}

main() {
    mark=$1
    section boot_id
    cat /proc/sys/kernel/random/boot_id
    section kernel
    uname -r
    section uptime
    cat /proc/uptime
    section kernels
    for file in "${DPKG_ROOT:-}"/boot/vmlinu[xz]-*; do
        if [ -f "$file" ]; then printf '%s\n' "${file##*/}"; fi
    done | head -c 20000
    section reboot_required
    if [ -e /run/reboot-required ] || [ -e /var/run/reboot-required ]; then echo yes; fi
    case $2 in
        all) system ;;
        units) units ;;
    esac
    if [ "$2" != units ]; then
        section stale
        stale_processes | head -c 20000
    fi
    section end
}

system() {
    units
    packages
    ports
    section mounts
    head -c 100000 /proc/mounts
    section df
    df -P -k -l 2>/dev/null || df -P -k
    section inodes
    df -P -i -l 2>/dev/null || df -P -i
    logs
}

units() {
    if [ ! -d /run/systemd/system ] || ! has systemctl; then return; fi
    section manager
    systemctl show -p SystemState -p FinishTimestampMonotonic
    section target
    systemctl show default.target -p Id -p ActiveState
    section units
    systemctl list-units --all --full --plain --no-legend --no-pager \
        --type=service,socket,timer,mount,target,path,swap,automount | head -c 1000000
    section restarts
    systemctl show --type=service --state=active,activating -p Id -p NRestarts \
        -p ActiveExitTimestampMonotonic -p InactiveExitTimestampMonotonic \
        -p ActiveEnterTimestampMonotonic '*' 2>/dev/null | head -c 200000
    section links
    find /etc/systemd/system -type l \( -path '*.wants/*' -o -path '*.requires/*' \
        -o -lname /dev/null \) 2>/dev/null | head -c 200000
}

packages() {
    if has dpkg-query; then
        section dpkg
        dpkg-query -W -f \
            '${Package}\t${Architecture}\t${Version}\t${db:Status-Status}\t${db:Status-Want}\n' |
            head -c 4000000
        section conffiles
        # Those of ucf (sshd_config, php.ini) are none of dpkg's.
        conffiles=$(dpkg-query -W -f '${Conffiles}\n' |
            head -q -c 4000000 - "${DPKG_ROOT:-}/var/lib/ucf/hashfile" 2>/dev/null |
            sed -n -e 's/^ \(\/.*\) [0-9a-f]\{32\}\( .*\)\{0,1\}$/\1/p' \
                -e 's/^ \(\/.*\) newconffile.*$/\1/p' \
                -e 's/^[0-9a-f]\{32\}[[:blank:]]\{1,\}\(\/.*\)$/\1/p')
        printf '%s\n' "$conffiles"
        section md5sums
        printf '%s\n' "$conffiles" | tr '\n' '\0' | xargs -0 md5sum -- 2>/dev/null
    elif has rpm; then
        section rpm
        rpm -qa --qf '%{NAME}\t%{ARCH}\t%{VERSION}-%{RELEASE}\tinstalled\tinstall\n' |
            head -c 4000000
    fi
}

ports() {
    if has ss && ss -l -n -t >/dev/null 2>&1; then
        section ss
        ss -l -n -t -u -p | head -c 500000
        return
    fi
    for table in tcp tcp6 udp udp6; do
        if [ -r "/proc/net/$table" ]; then
            section "net_$table"
            head -c 500000 "/proc/net/$table"
        fi
    done
}

logs() {
    section kernel_log
    if dmesg >/dev/null 2>&1; then
        dmesg -r | sed -n 's/^<[0-3]>//p' | kinds | head -c 200000
    elif has journalctl; then
        journalctl -k -b -p err -o cat --no-pager -q -n 2000 2>/dev/null | kinds | head -c 200000
    fi
    if has journalctl; then
        section journal
        journalctl -b -p err -o cat --no-pager -q -n 2000 2>/dev/null | kinds | head -c 200000
    fi
}

# The last lines of those that differ in more than numbers: what is said every second must not hide
# the rest. Only for a pipe: it takes the place of the shell there.
kinds() {
    if ! has awk; then exec tail -n 200; fi
    exec awk '{
        kind = $0
        gsub(/0x[0-9a-fA-F]+|[0-9]+/, "#", kind)
        if (!(kind in known)) { known[kind] = 1; line[++n] = substr($0, 1, 2000) }
    }
    END { for (i = n > 200 ? n - 199 : 1; i <= n; i++) print line[i] }'
}

# Programs that still run code which an upgrade has replaced, by name.
stale_processes() {
    grep -lE "$STALE" /proc/[0-9]*/maps 2>/dev/null |
        while IFS= read -r maps; do
            if IFS= read -r name 2>/dev/null <"${maps%maps}comm"; then printf '%s\n' "$name"; fi
        done | sort -u
}

main "$@" </dev/null
