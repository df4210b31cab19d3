# Common to the apt stages; every stage sets mark, proxy and work before it calls anything here.
PATH=${PATH:-/usr/bin:/bin}:/usr/local/sbin:/usr/sbin:/sbin
LC_ALL=C LANGUAGE=C
DEBIAN_FRONTEND=noninteractive UCF_FORCE_CONFFOLD=1 APT_LISTCHANGES_FRONTEND=none
export PATH LC_ALL LANGUAGE DEBIAN_FRONTEND UCF_FORCE_CONFFOLD APT_LISTCHANGES_FRONTEND

stage() {
    printf '\n%s stage %s\n' "$mark" "$1"
}

# A proxy that the guest sets for single hosts beats the general one: those are set as well.
find_proxied() {
    proxied=$(apt-config dump Acquire |
        sed -n 's/^\(Acquire::https\{0,1\}::[Pp]roxy::[^ ]\{1,\}\) .*/\1/p')
}

run_apt() {
    if [ -n "$proxy" ]; then
        set -- -o "Acquire::http::Proxy=$proxy" -o "Acquire::https::Proxy=$proxy" \
            -o Acquire::http::Proxy-Auto-Detect= -o Acquire::http::ProxyAutoDetect= "$@"
        for name in $proxied; do
            set -- -o "$name=$proxy" "$@"
        done
    fi
    if [ -f "$work/sources.list" ]; then
        set -- -o "Dir::Etc::sourcelist=$work/sources.list" "$@"
    fi
    if [ -d "$work/sources" ]; then
        set -- -o "Dir::Etc::sourceparts=$work/sources" "$@"
    fi
    apt-get -q -o Dpkg::Use-Pty=0 -o Dpkg::Lock::Timeout=300 \
        -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "$@"
}

# apt's own progress becomes lines "MARK status ..." among its output. They go through a pipe of
# their own, because the output may just then be in the middle of a line. No file is needed for
# the exit status: the guest's disk may be full.
follow_apt() {
    exec 4>&1
    status=$(
        {
            {
                run_apt -o APT::Status-Fd=3 "$@" 3>&1 1>&4 2>&1 4>&- 5>&-
                echo "$?" >&5
            } | while IFS= read -r line; do
                printf '%s status %s\n' "$mark" "$line"
            done >&4
        } 5>&1
    )
    exec 4>&-
    return "$status"
}
