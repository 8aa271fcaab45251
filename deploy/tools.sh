# Sourced by the scripts of this project: finds the tools that they need, and installs those that are missing where
# it may (as root, on Debian and its kin). Elsewhere it says what to install, and ends with exit code 2.

apt_updated=

# need 'TEST' PACKAGE… : unless the shell command TEST succeeds, installs the Debian packages.
need() {
  local test=$1
  shift
  (eval "$test") >/dev/null 2>&1 && return
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "${0##*/}: something is missing ($test fails): install $* (these are Debian's names) and run again" >&2
    exit 2
  fi
  echo "installing $*" >&2
  [ -n "$apt_updated" ] || { apt-get -qq update && apt_updated=yes; }
  DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >/dev/null
}

# What every build needs: Rust, a C compiler with its headers, and make, because the cryptography and the allocator are
# written in C.
need_rust() {
  command -v cargo >/dev/null || {
    echo "${0##*/}: cargo is missing: install Rust 1.90 or newer from https://rustup.rs" >&2
    exit 2
  }
  need "echo '#include <stdlib.h>' | cc -E -" gcc libc6-dev
  need "make --version" make
}
