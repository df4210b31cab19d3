# Refresh the lists and simulate, in one go: under emulation every start of apt costs seconds.
# $1 mark, $2 proxy, $3 work folder, $4 "update" or "", $5 "always" or "if security": what to
# fetch, when nothing but security updates would change, $6 proposed deb lines,
# $7 "kernel" or "", $8 the release to go to, or ""; the rest are apt-get's own arguments.
main() {
    mark=$1 proxy=$2 work=$3 update=$4 uris=$5 repositories=$6 kernel=$7 release=$8
    shift 8
    mkdir -p "$work" && chmod 755 "$work" || return 1
    find_proxied
    dpkg --get-selections >"$work/selections" 2>/dev/null &
    selections=$!
    if [ -n "$update" ]; then
        propose_sources || return 1
        if [ -n "$release" ]; then
            stage release
            go_to_release || return
        fi
        stage update
        follow_apt update -o APT::Update::Error-Mode=any || return
    fi
    if [ -n "$kernel" ]; then
        stage kernel
        metapackages=$(kernel_metapackages)
        printf '%s\n' $metapackages
        if [ -z "$metapackages" ]; then return 0; fi
        set -- "$@" $metapackages
    fi
    stage simulate
    begin_uris "$@"
    simulation=$(run_apt -s -y "$@" 2>&1)
    status=$?
    printf '%s\n' "$simulation"
    if [ "$status" -eq 0 ] && printf '%s\n' "$simulation" | grep -q '^Inst ' && are_wanted; then
        stage uris
        show_uris "$@"
    else
        forget_uris
    fi
    if [ "$status" -ne 0 ]; then return "$status"; fi
    stage held
    if wait "$selections"; then
        on_hold <"$work/selections"
    else
        dpkg --get-selections | on_hold
    fi
    return 0
}

on_hold() {
    sed -n 's/[[:space:]]\{1,\}hold$//p'
}

# What another processor of the guest can do meanwhile. A file may fail where a pipe does not, on
# a full disk for one: then it is asked again.
begin_uris() {
    fetcher=
    if [ "$(nproc 2>/dev/null || echo 1)" -gt 1 ]; then
        run_apt -y --print-uris "$@" >"$work/uris" 2>&1 &
        fetcher=$!
    fi
}

show_uris() {
    if [ -n "$fetcher" ] && wait "$fetcher"; then
        cat "$work/uris"
    else
        run_apt -y --print-uris "$@" 2>&1
    fi
}

forget_uris() {
    if [ -n "$fetcher" ]; then
        kill "$fetcher" 2>/dev/null
        wait "$fetcher"
    fi
}

# Who asks looks closer: what is wanted in vain costs one start of apt.
are_wanted() {
    [ "$uris" = always ] ||
        ! printf '%s\n' "$simulation" | grep '^Inst ' | grep -qiv security
}

# The guest's own sources and the proposed ones side by side in a folder of ours.
propose_sources() {
    rm -rf "$work/sources" "$work/sources.list"
    if [ -z "$repositories$release" ]; then return 0; fi
    eval "$(apt-config shell parts Dir::Etc::sourceparts/d list Dir::Etc::sourcelist/f)"
    mkdir -p "$work/sources" || return 1
    if [ -d "$parts" ]; then cp -Rp "$parts/." "$work/sources/" || return 1; fi
    if [ -n "$release" ] && [ -f "$list" ]; then
        cp -p "$list" "$work/sources.list" || return 1
    fi
    if [ -z "$repositories" ]; then return 0; fi
    printf '%s\n' "$repositories" >"$work/sources/zz-upgrade-sandbox.list"
    chmod 644 "$work/sources/zz-upgrade-sandbox.list"
}

# In those copies every suite of the release that runs becomes one of the next: bookworm,
# bookworm-updates, bookworm/updates. Twice: two suites of a line share the space between them.
# Prints the release that runs, then each file that names it.
go_to_release() {
    runs=$(sed -n 's/^VERSION_CODENAME="\{0,1\}\([a-z][a-z0-9-]*\)"\{0,1\}$/\1/p' \
        "${DPKG_ROOT:-}/etc/os-release" "${DPKG_ROOT:-}/usr/lib/os-release" 2>/dev/null |
        head -n 1)
    printf '%s\n' "${runs:-unknown}"
    if [ "$runs" = "$release" ]; then return 0; fi
    named=
    for file in "$work/sources.list" "$work"/sources/*.list "$work"/sources/*.sources; do
        case $file in
            */zz-upgrade-sandbox.list) continue ;;
            *.list) where='/^[[:space:]]*deb/' ;;
            *) where='/^[Ss][Uu][Ii][Tt][Ee][Ss]:/,/^[^[:space:]#]/' ;;
        esac
        if [ -z "$runs" ] || [ ! -f "$file" ]; then continue; fi
        change="$where s#\\([[:space:]:]\\)$runs\\([-/[:space:]]\\)#\\1$release\\2#g"
        last="$where s#\\([[:space:]:]\\)$runs\$#\\1$release#"
        sed -e "$change" -e "$change" -e "$last" <"$file" >"$work/next" || return 1
        if ! cmp -s "$work/next" "$file"; then
            cat "$work/next" >"$file" || return 1
            printf '%s\n' "${file##*/}"
            named=yes
        fi
    done
    rm -f "$work/next"
    [ -n "$named" ]
}

# linux-image-amd64 is one; linux-image-6.1.0-37-amd64, a single kernel, is not.
kernel_metapackages() {
    dpkg-query -W -f '${db:Status-Status} ${Package}\n' 'linux-image-*' 2>/dev/null |
        sed -n 's/^installed \(linux-image-[a-z][^ ]*\)$/\1/p' |
        grep -v -e '-dbg$' -e '^linux-image-unsigned-' -e '^linux-image-extra-'
}

main "$@" </dev/null
