"""Shell functions for a script on a Xen host: a running guest stands still for the moment in which
its disks are copied, and runs on whatever happens."""

# Xen counts pauses: a pause by another program outlives ours, if ours is undone just once.
PAUSE = """begin() {
    guest=$1 seconds=$2 paused= watchdog=
    [ -n "$guest" ] || return 0
    id=$(xl domid "$guest") || exit  # to xl's other verbs a name of digits is an id
    # Whatever ends this script, and if nothing does: production runs on.
    trap 'run_on && stop_watchdog' EXIT
    trap 'exit 1' HUP INT TERM PIPE
    setsid sh -c 'sleep "$2"; xl unpause "$1"' sh "$id" "$seconds" >/dev/null 2>&1 </dev/null &
    watchdog=$!
    start=$(date +%s%N)
    paused=yes
    xl pause "$id" || { paused=; exit 1; }
}
run_on() {
    [ -z "$paused" ] || xl unpause "$id"
}
stop_watchdog() {
    # Until it leads a group of its own it may still be a copy of this shell, whose traps would
    # catch the signal, and be lost with the shell.
    tries=0
    until kill -- "-$watchdog" 2>/dev/null || [ "$tries" -eq 100 ]; do
        tries=$((tries + 1))
        sleep 0.1
    done
    wait "$watchdog"
    [ "$?" -gt 128 ]
}
end() {
    [ -n "$guest" ] || return 0
    run_on || exit
    stop=$(date +%s%N) paused=
    trap - EXIT
    stop_watchdog || {
        echo "the copies took longer than $seconds s: the guest ran on meanwhile" >&2
        exit 1
    }
    echo "paused-ns $((stop - start))"
}"""
