# What can be known of an upgrade before anything is cloned, in one go and with few processes. It is
# run on production itself, so nothing here writes: apt only simulates, with the lists as they are,
# and as the user nobody, which could not even refresh apt's own cache. POSIX sh; works without apt,
# systemd. $1 is a mark that no output of the guest can contain; every section has a size limit. $2:
# all, security, kernel, packages, release, script; the rest are names of packages.
# managers/apt_restarts.sh comes before it.
PATH=${PATH:-/usr/bin:/bin}:/usr/local/sbin:/usr/sbin:/sbin
LC_ALL=C LANGUAGE=C SYSTEMD_COLORS=0 COLUMNS=500 DEBIAN_FRONTEND=noninteractive
export PATH LC_ALL LANGUAGE SYSTEMD_COLORS COLUMNS DEBIAN_FRONTEND
# Code in memory whose file is gone, so that it was replaced. Not what is left of an initramfs
# (device 00:01 or 00:02): on a busy host its udev may run on, and no upgrade has replaced that.
DEVICE='((0[1-9a-f]|[1-9a-f][0-9a-f]+):[0-9a-f]+|00:(0[3-9a-f]|[1-9a-f][0-9a-f]+))'
STALE="r-xp [0-9a-f]+ $DEVICE [0-9]+ +/(usr|lib|lib32|lib64|bin|sbin|opt)/.* \\(deleted\\)\$"
root=${DPKG_ROOT:-}

has() {
    command -v "$1" >/dev/null 2>&1
}

section() {
    printf '\n%s %s\n' "$mark" "$1"
}

main() {
    mark=$1 what=$2
    shift 2
    section now
    date +%s
    section kernel
    uname -r
    hypervisor
    space
    boot_chain
    if has dpkg-query; then
        section states
        dpkg-query -W -f '${Package}\t${db:Status-Status}\t${db:Status-Want}\n' |
            grep -v -e '	installed	install$' -e '	config-files	' -e '	not-installed	' |
            head -c 100000
        section interrupted
        for file in "$root"/var/lib/dpkg/updates/[0-9]*; do
            if [ -e "$file" ]; then echo "${file##*/}"; fi
        done | head -c 1000
    fi
    if has apt-get; then upgrade "$@"; fi
    if [ -d /run/systemd/system ] && has systemctl; then
        section manager
        systemctl show -p FinishTimestampMonotonic
    fi
    section stale
    grep -lE "$STALE" /proc/[0-9]*/maps 2>/dev/null | units_of
    section end
}

# A PV guest's kernel is unpacked by the tools of this Xen.
hypervisor() {
    section xen
    for file in type guest_type version/major version/minor; do
        if IFS= read -r line 2>/dev/null <"/sys/hypervisor/$file"; then
            printf '%s=%s\n' "$file" "$line"
        fi
    done
}

# df prints a line for each path, in their order.
space() {
    paths=
    for path in / /usr /boot /var/cache/apt/archives /var/tmp; do
        if [ -d "$path" ]; then paths="$paths $path"; fi
    done
    section paths
    printf '%s\n' $paths
    section df
    df -P -k $paths 2>&1 | head -c 10000
    section inodes
    df -P -i $paths 2>/dev/null | head -c 10000
    section mounts
    head -c 100000 /proc/mounts
}

boot_chain() {
    section boot
    stat -c '%s %n' "$root"/boot/vmlinu[xz]-* "$root"/boot/initrd.img-* 2>/dev/null | head -c 20000
    section initramfs
    sed -n -e 's/^[[:space:]]*\(COMPRESS\|MODULES\)=\([A-Za-z0-9"]*\).*/\1=\2/p' \
        "$root"/etc/initramfs-tools/initramfs.conf \
        "$root"/etc/initramfs-tools/conf.d/* 2>/dev/null | head -c 10000
    section initramfs_modules
    sed -n 's/^\([A-Za-z0-9_-]\{1,\}\).*/\1/p' "$root"/etc/initramfs-tools/modules \
        "$root"/usr/share/initramfs-tools/modules.d/* 2>/dev/null | head -c 20000
    section disks
    for disk in /sys/block/*; do printf '%s\n' "${disk##*/}"; done | head -c 10000
    section hosts
    hosts=$(host_drivers /sys/block/sd*)
    printf '%s\n' "$hosts"
    section drivers
    grep -oE "/(xen-blkfront|virtio_blk|nvme|sd_mod$(file_names $hosts))\.ko" \
        "$root"/lib/modules/*/modules.dep "$root"/lib/modules/*/modules.builtin 2>/dev/null |
        head -c 50000
    section config
    # mkinitramfs itself asks for it since 0.141, and takes gzip where the kernel has no zstd.
    grep -E '^CONFIG_(KERNEL_ZSTD|RD_ZSTD|MODULES)=|^[^#]*CONFIG_RD_ZSTD' "$root"/boot/config-* \
        "$root"/usr/sbin/mkinitramfs /dev/null 2>/dev/null | head -c 20000
    section reboot_required
    if [ -e /run/reboot-required ] || [ -e /var/run/reboot-required ]; then echo yes; fi
}

# A SCSI disk needs its controller's driver, too: "sda virtio_scsi", from the device above it that
# has one. Modules only, and without a process.
host_drivers() {
    for disk in "$@"; do
        device=$(cd -P "$disk/device" 2>/dev/null && pwd -P)
        device=${device%/*}
        while [ -n "$device" ] && [ ! -e "$device/driver" ]; do device=${device%/*}; done
        module=$(cd -P "$device/driver/module" 2>/dev/null && pwd -P)
        if [ -n "$module" ]; then echo "${disk##*/} ${module##*/}"; fi
    done
}

# Their modules' files as a pattern's alternatives: any of "_" may be "-" in a file's name.
file_names() (
    for module in "$@"; do
        IFS=_
        set -- $module
        IFS=.
        printf '|%s' "$*"
    done
)

# --- what apt would do -----------------------------------------------------------------------

# The user nobody can write nothing. Where it may not read what apt has to, or setpriv is missing,
# apt runs as root and keeps its cache in memory, which is slower; the last section of the output
# says so.
run_apt() {
    if [ "$(id -u)" = 0 ] && has setpriv; then
        said=$(setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs -- \
            apt-get -q -y "$@" 2>&1 | head -c 2000000)
        case $said in
            *'Permission denied'*) ;;
            *)
                printf '%s\n' "$said"
                return
                ;;
        esac
    fi
    apt-get -q -y -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= "$@" 2>&1 | head -c 2000000
    if [ "$(id -u)" = 0 ]; then section as_root; fi
}

# Its plan with versions and its list of files in one: every start of apt costs.
plan_of() {
    run_apt --print-uris -V "$@"
}

upgrade() {
    if grep -qE '^[^ ]+ (/|/usr|/boot|/var) [^ ]+ ro[, ]' /proc/mounts; then
        section hooks
        apt-config dump DPkg::Pre-Invoke DPkg::Pre-Install-Pkgs 2>/dev/null | head -c 20000
    fi
    section lists
    when_refreshed
    case $what in
        kernel)
            set -- install --only-upgrade $(kernel_metapackages)
            if [ "$#" -eq 2 ]; then return; fi
            ;;
        packages) set -- install --allow-downgrades "$@" ;;
        release | script) return ;;
        *) set -- dist-upgrade ;;
    esac
    plan=$(plan_of "$@")
    case $what/$plan in
        security/*'will be upgraded:'*) only_security "$@" ;;
    esac
    section plan
    printf '%s\n' "$plan"
    comes
}

# The files have the archive's times; their folders change whenever they are refreshed.
when_refreshed() {
    lists=$root/var/lib/apt/lists
    for file in "$lists"/*_Packages* "$lists"/*Release; do
        if [ -f "$file" ]; then
            stat -c '%Z' "$lists" "$lists/partial" "$file" 2>/dev/null | sort -n | tail -n 1
            return
        fi
    done
}

# The plan anew, when there is more in it than security updates.
only_security() {
    chosen=$(security_updates "$@")
    case $chosen in
        */others*) ;;
        *) return ;;
    esac
    plan=
    set -f
    set -- install --only-upgrade ${chosen%/others}
    set +f
    if [ "$#" -gt 2 ]; then plan=$(plan_of "$@"); fi
}

# "name=version" of what the security archives upgrade in the plan; "/others" after it when the
# plan has more than they do. Lists that are kept compressed cannot be read here: apt is asked again.
security_updates() {
    set -- "$root"/var/lib/apt/lists/*[Ss]ecurity*_Packages "$@"
    if [ ! -f "$1" ]; then
        shift
        run_apt -s "$@" | sed -n \
            's/^Inst \([a-z0-9][a-z0-9.+:-]*\) \[[^]]*\] (\([^ ()]*\) [^()]*[Ss]ecurity[^()]*).*/\1=\2/p'
        echo /others
        return
    fi
    for file in "$@"; do
        if [ -f "$file" ]; then set -- "$@" "$file"; fi
        shift
    done
    printf '%s\n' "$plan" | awk '
        NR == FNR && /^The following / {
            kind = /will be upgraded/ ? "upgrade" : /NEW|REMOVED|DOWNGRADED/ ? "other" : ""
            next
        }
        NR == FNR && /^   / && kind != "" {
            name = $1; version = $NF
            sub(/[:*].*/, "", name); sub(/[)]$/, "", version); sub(/^[(]/, "", version)
            wanted[name] = version; kinds[name] = kind; total++
            next
        }
        NR == FNR { kind = ""; next }
        /^Package: / { name = $2 }
        /^Version: / && name in wanted && wanted[name] == $2 {
            delete wanted[name]; found++
            if (kinds[name] == "upgrade") print name "=" $2
        }
        END { if (found < total) print "/others" }' - "$@"
}

kernel_metapackages() {
    dpkg-query -W -f '${db:Status-Status} ${Package}\n' 'linux-image-*' 2>/dev/null |
        sed -n 's/^installed \(linux-image-[a-z][a-z0-9.+-]*\)$/\1/p' |
        grep -v -e '-dbg$' -e '^linux-image-unsigned-' -e '^linux-image-extra-'
}

# Of the packages that are installed and would change: configuration files, dpkg's and ucf's, that
# the administrator may have changed or deleted, services that their scripts restart, and who runs
# their files.
comes() {
    set --
    lists=
    for name in $(printf '%s\n' "$plan" |
        sed -n '/^The following packages will be [uD]/,/^[^ ]/s/^   \([a-z0-9][a-z0-9.+:-]*\) (.*/\1/p' |
        head -n 2000); do
        set -- "$@" "$name"
        for file in "$info/$name.list" "$info/$name":*.list; do
            if [ -e "$file" ]; then lists="$lists $file"; fi
        done
    done
    if [ "$#" -eq 0 ]; then return; fi
    section conffiles
    conffiles=$(dpkg-query -W -f '${Package}\n${Conffiles}\n' "$@" 2>/dev/null | head -c 1000000)
    printf '%s\n' "$conffiles"
    section ucf
    by_ucf=$(ucf_files)
    printf '%s\n' "$by_ucf"
    section md5sums
    shipped=$(printf '%s\n' "$conffiles" "$by_ucf" | sed -n \
        -e 's/^ \(\/.*\) [0-9a-f]\{32\}$/.\1/p' -e 's/^[0-9a-f]\{32\} \(\/.*\)$/.\1/p')
    printf '%s\n' "$shipped" | tr '\n' '\0' |
        (cd "$root/" && xargs -0 md5sum -- 2>/dev/null) | head -c 1000000
    section missing
    printf '%s\n' "$shipped" | missing_of
    invoked=$(service_lines "$@")
    section scripts
    printf '%s\n' "$invoked"
    section starts
    last_starts "$invoked"
    if [ -n "$lists" ]; then
        section users
        running $lists | units_of
    fi
}

# What scripts put in place through ucf, which asks as dpkg does: "DIGEST PATH" as the package had
# it, and "PACKAGE PATH".
ucf_files() {
    if [ -e "$root/var/lib/ucf/hashfile" ]; then
        sed -n 's/^\([^[:space:]]\{1,\}\)[[:space:]]\{1,\}\(\/.*\)$/\1 \2/p' \
            "$root/var/lib/ucf/hashfile" "$root/var/lib/ucf/registry" 2>/dev/null | head -c 500000
    fi
}

# dpkg asks about those that were deleted, too.
missing_of() {
    while IFS= read -r file; do
        if [ -n "$file" ] && [ ! -e "$root/$file" ]; then printf '%s\n' "$file"; fi
    done
}

# /proc/PID/maps of who runs a program or library of these lists ($@): exactly that path, which the
# kernel has beneath /usr where the package has it beneath /.
running() {
    {
        grep -hE '\.so(\.|$)|/s?bin/' "$@"
        echo maps
        grep -E ' r-xp [^/]* /.*(\.so(\.|$| )|/s?bin/)' /proc/[0-9]*/maps 2>/dev/null
    } | awk '
        !running { if ($0 == "maps") running = 1; else { sub(/^\/usr/, ""); ours[$0] = 1 }; next }
        {
            path = substr($0, index($0, " /") + 1)
            sub(/ \(deleted\)$/, "", path); sub(/^\/usr/, "", path)
            maps = substr($0, 1, index($0, ":") - 1)
            if (path in ours && !(maps in told)) { told[maps] = 1; print maps }
        }'
}

# The control groups of each process name its unit; some of version 1 name none.
units_of() {
    while IFS= read -r maps; do
        while IFS= read -r line; do
            case $line in
                *.service*)
                    printf '%s\n' "$line"
                    break
                    ;;
            esac
        done 2>/dev/null <"${maps%maps}cgroup"
    done | sort -u | head -c 50000
}

main "$@" </dev/null
