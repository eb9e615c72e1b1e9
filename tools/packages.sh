# packages.sh: which Debian packages each command of the tree needs, and installing those that are missing.
# To be sourced by bash. It writes to standard error only.
# shellcheck shell=bash disable=SC2034

# What builds the library and the command, and what packs the guest's files.
packages_build=(gcc libc6-dev meson ninja-build pkg-config python3 libzydis-dev libzycore-dev libjson-c-dev libxxhash-dev)
packages_guest=(cpio)

# What the tests need on top: the second compiler, C++, the test library, the assembler for the guests, the
# headers that ours are compared with, and a firmware to boot.
packages_check=(g++ clang clang-14 libclang-rt-14-dev libcmocka-dev nasm mingw-w64-common seabios)

# What the benchmarks compare with.
packages_bench=(qemu-system-x86)

# packages_installed NAME: looks at dpkg's file lists alone, since asking dpkg takes longer than the rest of
# a run.
packages_installed() {
    [[ -e /var/lib/dpkg/info/$1.list ]] || compgen -G "/var/lib/dpkg/info/$1:*.list" >/dev/null
}

# packages_as_root COMMAND...: runs it as root; 1 if there is no way to become root without a password.
packages_as_root() {
    if ((EUID == 0)); then
        "$@"
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        sudo -n "$@"
    else
        return 1
    fi
}

# packages_need NAME...: installs what is missing, or says what to install and ends the script with exit
# code 2.
packages_need() {
    local missing=() name
    for name in "$@"; do
        packages_installed "$name" || missing+=("$name")
    done
    ((${#missing[@]} == 0)) && return
    if ! packages_as_root true; then
        printf '%s\n' "These Debian packages are missing, and installing them needs root:" \
            "    apt-get install --no-install-recommends ${missing[*]}" >&2
        exit 2
    fi
    echo "Installing ${missing[*]}" >&2
    if ! packages_as_root apt-get update >&2 ||
        ! packages_as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y --no-install-recommends "${missing[@]}" >&2; then
        printf '%s\n' "Installing failed. These Debian packages are needed:" \
            "    apt-get install --no-install-recommends ${missing[*]}" >&2
        exit 2
    fi
}
