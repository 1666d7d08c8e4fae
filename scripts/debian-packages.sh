#!/bin/sh
# Install the Debian packages of programs that are missing.  Usage: debian-packages.sh PROGRAM:PACKAGE …
# Only as root or with passwordless sudo. Otherwise, or where it fails, says what is missing; always exits 0: what cannot do
# without the program says so itself. The packages' services are neither started nor enabled: dmimad's tests start their own.
set -eu

PATH=$PATH:/usr/sbin:/sbin
policy=/usr/sbin/policy-rc.d

missing_of() {
    for pair in "$@"; do
        command -v "${pair%%:*}" >/dev/null 2>&1 || echo "${pair#*:}"
    done
}

# invoke-rc.d and deb-systemd-invoke ask this file before they start a service; 101 means "do not".
forbid_services() {
    [ -e "$policy" ] && return
    trap 'rm -f "$policy"' EXIT INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
}

apt_install() {
    DEBIAN_FRONTEND=noninteractive apt-get install --quiet --quiet --yes --no-install-recommends \
        -o DPkg::Lock::Timeout=120 "$@" >/dev/null
}

install() {
    forbid_services
    # The package lists may be absent or old: fetch them only then.
    apt_install "$@" 2>/dev/null || { apt-get update --quiet --quiet && apt_install "$@"; } || return
    if [ -d /run/systemd/system ]; then
        for package in "$@"; do
            systemctl disable --quiet "$package.service" 2>/dev/null || true
        done
    fi
}

packages=$(missing_of "$@")
[ -n "$packages" ] || exit 0
if command -v apt-get >/dev/null 2>&1; then
    if [ "$(id -u)" = 0 ]; then
        echo "Installing Debian packages: $(echo "$packages" | tr '\n' ' ')…"
        # shellcheck disable=SC2086  # one word per package
        install $packages || true
    elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
        sudo -n sh "$0" "$@"
        exit 0
    fi
fi
packages=$(missing_of "$@")
if [ -n "$packages" ]; then
    echo "Missing, and not installed from here: $(echo "$packages" | tr '\n' ' ')(what needs them is left out)" >&2
fi
