# What the package manager left behind, whether it ended well or not. $1 mark, $2 work folder; the
# rest are the packages that were upgraded.
main() {
    mark=$1 work=$2
    shift 2
    stage audit
    dpkg --audit 2>&1 | head -c 20000
    stage states
    dpkg-query -W -f '${Package}:${Architecture} ${db:Status-Status}\n' |
        grep -v -e ' installed$' -e ' config-files$' -e ' not-installed$' | head -n 1000
    invoked=$(service_lines "$@")
    stage services
    printf '%s\n' "$invoked"
    stage starts
    last_starts "$invoked"
    if [ -e "$work/started" ]; then new_files | head -n 100 | show_files; fi
    stage end
    rm -rf "$work"
}

# The unwanted versions that dpkg and ucf put beside configuration files (by change time: the
# modification time is the package's).
new_files() {
    find "${DPKG_ROOT:-}/etc" -type f -cnewer "$work/started" \( -name '*.dpkg-dist' \
        -o -name '*.dpkg-new' -o -name '*.dpkg-old' -o -name '*.ucf-dist' -o -name '*.ucf-old' \)
}

show_files() {
    while IFS= read -r file; do
        stage "file $file"
        case $file in
            *.dpkg-old | *.ucf-old) diff -u "$file" "${file%.*}" ;;
            *) diff -u "${file%.*}" "$file" ;;
        esac 2>&1 | head -c 20000
    done
}

main "$@" </dev/null
