# Fetch and install what was simulated. $1 mark, $2 proxy, $3 work folder, $4 "minimal first" or "";
# the rest are apt-get's own arguments. apt installs nothing before everything is fetched, and its
# status lines tell the two apart, so one start of apt does both. To the next release in two steps,
# as Debian's release notes have it: first what needs no new and no removed package.
main() {
    mark=$1 proxy=$2 work=$3 minimal=$4
    shift 4
    find_proxied
    if [ ! -e "$work/started" ]; then : >"$work/started" || return 1; fi
    if [ -n "$minimal" ]; then
        stage minimal
        follow_apt -y upgrade --without-new-pkgs || return
    fi
    stage apply
    follow_apt -y "$@"
}

main "$@" </dev/null
