# What an upgrade may change without being asked to: modes, users, modules, settings, certificates.
# It runs beside other things, with the lowest priority and few processes: under emulation each one
# costs. POSIX sh only; what a guest does not have is left out. $1 is a mark that no output of the
# guest can contain; all of it has a size limit. $2: a folder instead of /, for tests. Neither
# password hashes nor private keys are printed.
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
    # All of our own process group, which is this script's alone.
    renice -n 19 -g 0 >/dev/null 2>&1
    section modes
    find "$root/etc" -xdev ! -type l -printf '%m %u %g %y %p\n' 2>/dev/null
    # Lines of three kinds, told from each other by their colons; the second field is the hash.
    section names
    sed 's/^\([^:]*\):[^:]*:/\1:/' "$root/etc/passwd" "$root/etc/group" /proc/modules 2>/dev/null
    section settings
    (settings)
    section shipped
    sed -n -e '/^ \/.* [0-9a-f]\{32\}\( obsolete\)\{0,1\}$/p' \
        -e 's/^\([0-9a-f]\{32\}\)[[:blank:]]\{1,\}\(\/.*\)$/ \2 \1/p' \
        "$root/var/lib/dpkg/status" "$root/var/lib/ucf/hashfile" 2>/dev/null
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
        net/bridge/* net/netfilter/nf_conntrack_max net/ipv6/bindv6only \
        net/ipv6/conf/all/[!s]* net/ipv6/conf/default/[!s]*
}

# The first certificate of each file that may be a server's: those where they are usually kept, and
# those that a server's configuration names. awk prints nothing but certificates.
certificates() {
    found=$(
        find "$1/ssl" "$1/letsencrypt/live" "$1/nginx" "$1/apache2" "$1/postfix" "$1/dovecot" \
            "$1/haproxy" "$1/pki/tls" "$1/exim4" "$1/ldap" "$1/postgresql" "$1/mysql" \
            "$1/lighttpd" "$1/redis" -path "$1/ssl/private" -prune -o \
            \( -name '*.pem' -o -name '*.crt' -o -name '*.cer' \) ! -name '*key*' \
            ! -name ca-certificates.crt ! -name ca-bundle.crt \
            \( ! -type l -o -path "$1/letsencrypt/*" \) -print 2>/dev/null
        sed -n -e 's/^[[:blank:]]*ssl_certificate[[:blank:]]\{1,\}\(\/[^ ;"]*\).*/\1/p' \
            -e 's/^[[:blank:]]*SSLCertificateFile[[:blank:]]\{1,\}\(\/[^ "]*\).*/\1/p' \
            -e 's/^[[:blank:]]*smtpd_tls_cert_file[[:blank:]]*=[[:blank:]]*\(\/[^ ]*\).*/\1/p' \
            -e 's/^[[:blank:]]*MAIN_TLS_CERTIFICATE[[:blank:]]*=[[:blank:]]*\(\/[^ ]*\).*/\1/p' \
            -e 's/^\(olc\)\{0,1\}TLSCertificateFile:\{0,1\}[[:blank:]]\{1,\}"\{0,1\}\(\/[^ "]*\).*/\2/p' \
            -e "s/^[[:blank:]]*ssl_cert_file[[:blank:]]*=[[:blank:]]*'\(\/[^']*\)'.*/\1/p" \
            -e 's/^[[:blank:]]*ssl[-_]cert[[:blank:]]*=[[:blank:]]*[<"]\{0,1\}\(\/[^ "]*\).*/\1/p' \
            -e 's/^[[:blank:]]*ssl\.pemfile[[:blank:]]*=[[:blank:]]*"\(\/[^"]*\)".*/\1/p' \
            -e 's/^[[:blank:]]*tls-cert-file[[:blank:]]\{1,\}\(\/[^ ]*\).*/\1/p' \
            "$1"/nginx/*.conf "$1"/nginx/conf.d/* "$1"/nginx/sites-enabled/* \
            "$1"/nginx/snippets/* "$1"/apache2/sites-enabled/* "$1"/apache2/conf-enabled/* \
            "$1"/httpd/conf.d/* "$1"/postfix/main.cf "$1"/dovecot/*.conf \
            "$1"/dovecot/conf.d/*.conf "$1"/exim4/exim4.conf.localmacros \
            "$1"/exim4/conf.d/main/* "$1"/ldap/slapd.conf "$1/ldap/slapd.d/cn=config.ldif" \
            "$1"/postgresql/*/*/postgresql.conf "$1"/postgresql/*/*/conf.d/*.conf \
            "$1"/mysql/*.cnf "$1"/mysql/*.conf.d/*.cnf "$1"/lighttpd/*.conf \
            "$1"/lighttpd/conf-enabled/*.conf "$1"/redis/*.conf 2>/dev/null
    )
    set --
    set -f
    IFS='
'
    for file in $found; do
        if [ -f "$file" ] && [ $# -lt 200 ]; then set -- "$@" "$file"; fi
    done
    if [ $# -eq 0 ]; then return; fi
    awk '
        FNR == 1 { found = 0; inside = 0; print "# " FILENAME }
        FNR > 20000 { nextfile }
        /^-----BEGIN (TRUSTED )?CERTIFICATE-----/ && !found { inside = 1; found = 1; next }
        /^-----/ { inside = 0 }
        inside { print }' "$@" 2>/dev/null
}

main "$@" </dev/null | head -c 8000000
