# Fetch and install what was simulated. $1 mark, $2 proxy, $3 work folder; the rest are apt-get's
# own arguments. apt installs nothing before everything is fetched, and its status lines tell
# the two apart, so one start of apt does both.
main() {
    mark=$1 proxy=$2 work=$3
    shift 3
    find_proxied
    if [ ! -e "$work/started" ]; then : >"$work/started" || return 1; fi
    stage apply
    follow_apt -y "$@"
}

main "$@" </dev/null
