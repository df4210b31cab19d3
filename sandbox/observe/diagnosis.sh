# Why units do not run: what they are made of, what they said, and whose files those are. POSIX sh.
# $1 is a mark that no output of the guest can contain; the rest are units.
PATH=${PATH:-/usr/bin:/bin}:/usr/local/sbin:/usr/sbin:/sbin
LC_ALL=C LANGUAGE=C SYSTEMD_COLORS=0 COLUMNS=500
export PATH LC_ALL LANGUAGE SYSTEMD_COLORS COLUMNS

section() {
    printf '\n%s %s\n' "$mark" "$1"
}

main() {
    mark=$1
    shift
    paths=
    for unit; do
        section "show $unit"
        shown=$(systemctl show -p LoadState -p SubState -p UnitFileState -p FragmentPath \
            -p DropInPaths -p Result -p ExecMainStatus -p ExecStartPre -p ExecStart -- "$unit" |
            head -c 20000)
        printf '%s\n' "$shown"
        section "log $unit"
        said=$(journalctl -b -o cat --no-pager -q -n 60 -u "$unit" 2>/dev/null | head -c 20000)
        printf '%s\n' "$said"
        section "libraries $unit"
        programs=$(printf '%s\n' "$shown" | sed -n 's/.*path=\(\/[^ ;]*\) ;.*/\1/p' | sort -u)
        libraries=$(for program in $programs; do ldd "$program" 2>/dev/null; done |
            sed -n 's/.*=> \(\/[^ ]*\) (.*/\1/p' | sort -u | head -n 100)
        printf '%s\n' "$libraries"
        named=$(printf '%s\n%s\n' "$shown" "$said" | tr -c 'A-Za-z0-9_./+@:\n-' '\n' |
            sed -n 's/^[^/]*\(\/[A-Za-z0-9_.+@-][A-Za-z0-9_./+@-]*\).*/\1/p' |
            sed 's/[.:]*$//' | sort -u | head -n 60)
        # What was put beside a file that is complained about may be what is wrong with it.
        beside=$(printf '%s\n' "$named" | sed -n 's/^\(\/etc\/.*\)\/[^/]*$/\1/p' | sort -u |
            head -n 10 | while IFS= read -r folder; do
                find "$folder/." -maxdepth 1 -type f 2>/dev/null | head -n 100
            done | sed 's/\/\.\//\//')
        paths="$paths
$libraries
$named
$beside"
    done
    section owners
    if command -v dpkg-query >/dev/null 2>&1; then
        # A merged /usr has two names for a file, and dpkg knows one of them.
        printf '%s\n' "$paths" | sort -u | sed -n -e 's/^\/usr\(\/.*\)/&\n\1/p;t' \
            -e 's/^\/\(lib[^/]*\|bin\|sbin\)\/.*/&\n\/usr&/p;t' -e '/^\//p' |
            tr '\n' '\0' | xargs -0 dpkg-query -S -- 2>/dev/null | head -c 200000
    fi
    section end
}

main "$@" </dev/null
