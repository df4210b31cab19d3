# Which services the scripts of packages restart, and when those were started last. Used on
# production and in clones: it only reads.
info=${DPKG_ROOT:-}/var/lib/dpkg/info

# Lines of the packages' ($@) scripts that speak to systemd, each after its file's name: of those
# that run before the upgrade only what stops something when one is made. How deep a line is shows in
# its indentation: a condition of the script's outermost level is looked at, no other.
service_lines() {
    scripts=
    for name in "$@"; do
        set -- "$info/$name.preinst" "$info/$name.prerm" "$info/$name.postinst"
        # A look through the whole folder, only for who can be there for several architectures.
        if [ ! -e "$info/$name.list" ]; then set -- "$@" "$info/$name":*.p*; fi
        for file in "$@"; do
            case $file in
                *.preinst | *.prerm | *.postinst)
                    if [ -e "$file" ]; then scripts="$scripts $file"; fi
                    ;;
            esac
        done
    done
    if [ -z "$scripts" ]; then return; fi
    awk '
        function upgrades(test) {
            if (test ~ /compare-versions/) return 0
            return test !~ /\$[{]?1|remove/ || test ~ /[^!]=+ *"?upgrade/
        }
        FNR == 1 { meant = 1; named = 0; chosen = 0; after = FILENAME ~ /[.]postinst$/ }
        /^[ \t]*(#|echo |printf )/ { next }
        after {
            if (/(deb-systemd-invoke|invoke-rc[.]d|systemctl|configure_version) /)
                print FILENAME ":" $0
            next
        }
        /^[A-Za-z_]+ *[(][)]/ { named = !/} *$/ }
        /^if / { meant = upgrades($0) }
        /^(else|elif)/ { meant = 0 }
        /^case / { meant = 0; chosen = 1 }
        chosen && /^[ \t]*[a-z|*" -]+[)]/ { meant = /(^|[^a-z-])upgrade[^a-z]/ }
        /(deb-systemd-invoke|invoke-rc[.]d|systemctl) .*stop|^stop_version / {
            if (meant && !named) print FILENAME ":" $0
        }
        /^}/ { named = 0 }
        /^(fi|esac)|^if .*; *fi *$/ { meant = 1; chosen = 0 }' $scripts 2>/dev/null |
        head -c 200000
}

# Of the running services that these lines ($1) name, instances by their template: when they
# stopped, began and were ready. The kernel's control groups list them without a process.
last_starts() {
    named=
    groups=${DPKG_ROOT:-}/sys/fs/cgroup
    for unit in "$groups"/system.slice/*.service "$groups"/system.slice/*.slice/*.service \
        "$groups"/systemd/system.slice/*.service "$groups"/systemd/system.slice/*.slice/*.service; do
        if [ ! -e "$unit" ]; then continue; fi
        unit=${unit##*/}
        name=${unit%.service}
        case $1 in *"${name%%@*}"*) named="$named $unit" ;; esac
    done
    if [ -z "$named" ] || ! command -v systemctl >/dev/null 2>&1; then return; fi
    set -f
    systemctl show -p Id -p ActiveExitTimestampMonotonic -p InactiveExitTimestampMonotonic \
        -p ActiveEnterTimestampMonotonic -- $named 2>/dev/null | head -c 200000
    set +f
}
