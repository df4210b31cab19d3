# What an upgrade may change without anybody asking: modes, users, modules, settings, certificates.
# It runs beside the checks, with the lowest priority. POSIX sh only; what a guest does not have is
# left out. $1 is a mark that no output of the guest can contain; all of it has a size limit.
# $2: a folder instead of /, for tests. Neither password hashes nor private keys are printed.
PATH=${PATH:-/usr/bin:/bin}:/usr/local/sbin:/usr/sbin:/sbin
LC_ALL=C LANGUAGE=C
export PATH LC_ALL LANGUAGE

section() {
    printf '\n%s %s\n' "$mark" "$1"
}

main() {
    mark=$1 root=${2:-}
    section memory
    memory
    # Of this subshell, which $$ is not.
    renice -n 19 -p "$(exec sh -c 'echo $PPID')" >/dev/null 2>&1
    section modes
    find "$root/etc" -xdev ! -type l -printf '%m %u %g %y %p\n' 2>/dev/null
    section users
    cut -d: -f1,3,4,7 "$root/etc/passwd" 2>/dev/null
    section groups
    cut -d: -f1,3,4 "$root/etc/group" 2>/dev/null
    section modules
    cut -d' ' -f1 /proc/modules 2>/dev/null
    section settings
    (settings)
    section shipped
    sed -n '/^ \/.* [0-9a-f]\{32\}\( obsolete\)\{0,1\}$/p' "$root/var/lib/dpkg/status" 2>/dev/null
    section certificates
    certificates "$root/etc"
    section end
}

# The first lines of /proc/meminfo, without a process.
memory() {
    n=0
    while [ "$n" -lt 3 ] && IFS= read -r line; do
        printf '%s\n' "$line"
        n=$((n + 1))
    done </proc/meminfo
}

# By name, not by folder: below /proc/sys are also keys, and a file system that mounts itself when
# it is looked at.
settings() {
    cd /proc/sys || return
    grep -s . kernel/* vm/* fs/[!b]* fs/inotify/* kernel/yama/* net/core/[!n]* \
        net/core/netdev_[bm]* net/ipv4/icmp* net/ipv4/ip_* net/ipv4/tcp_[!f]* \
        net/ipv4/tcp_fin* net/ipv4/udp* net/ipv4/conf/all/* net/ipv4/conf/default/* \
        net/ipv6/bindv6only net/ipv6/conf/all/[!s]* net/ipv6/conf/default/[!s]*
}

# The first certificate of each file that may be a server's: those where they are usually kept, and
# those that a server's configuration names. awk prints nothing but certificates.
certificates() {
    n=0
    {
        find "$1/ssl" "$1/letsencrypt/live" "$1/nginx" "$1/apache2" "$1/postfix" "$1/dovecot" \
            "$1/haproxy" "$1/pki/tls" -path "$1/ssl/private" -prune -o \
            \( -name '*.pem' -o -name '*.crt' -o -name '*.cer' \) ! -name '*key*' \
            ! -name ca-certificates.crt ! -name ca-bundle.crt \
            \( ! -type l -o -path "$1/letsencrypt/*" \) -print 2>/dev/null
        grep -rhs -E "$named" "$1/nginx" "$1/apache2" "$1/postfix/main.cf" "$1/dovecot" |
            sed -n 's/^[^/#]*\(\/[^ ;,"]*\).*/\1/p'
    } | while IFS= read -r file && [ "$((n += 1))" -le 200 ]; do
        if [ -f "$file" ]; then printf '%s\0' "$file"; fi
    done | xargs -0 awk '
        FNR == 1 { found = 0; inside = 0; print "# " FILENAME }
        FNR > 20000 { nextfile }
        /^-----BEGIN (TRUSTED )?CERTIFICATE-----/ && !found { inside = 1; found = 1; next }
        /^-----/ { inside = 0 }
        inside { print }' /dev/null 2>/dev/null
}
named='^[[:space:]]*(ssl_certificate|SSLCertificateFile|smtpd_tls_cert_file|ssl_cert)[[:space:]=]'

main "$@" </dev/null | head -c 8000000
