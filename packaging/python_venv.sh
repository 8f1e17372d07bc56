#!/bin/sh
# Sees to it that PYTHON is new enough and can make virtual environments: python_venv.sh PYTHON
#
# Quick and quiet when it is so. Debian and Ubuntu have the module for it in a package of its own: root gets it
# installed, everybody else is told in one line what to install.
set -u

python=$1

if ! command -v "$python" >/dev/null 2>&1; then
	echo "Python 3.11 or newer is needed, and there is no $python here. Install the packages python3 and python3-venv." >&2
	exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
	echo "Python 3.11 or newer is needed, and $python is older. Name another one: make PYTHON=python3.13 ..." >&2
	exit 1
fi
can_make() {
	"$python" -c 'import ensurepip, venv' 2>/dev/null
}
can_make && exit 0

if [ "$("$python" -c 'import sys; print(sys.executable)')" = /usr/bin/python3 ]; then
	package=python3-venv
else
	package=python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv
fi

give_up() {
	echo "$python cannot make virtual environments ($1): install what it needs with: apt-get install $package" >&2
	exit 1
}

command -v apt-get >/dev/null 2>&1 || give_up "it has no ensurepip"
[ "$(id -u)" = 0 ] || give_up "it has no ensurepip, and installing packages needs root"

log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
apt() {
	DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120 "$@" </dev/null >>"$log" 2>&1
}
echo "Installing $package" >&2
# The package lists may be missing or old.
apt install --yes --no-install-recommends "$package" || {
	apt update
	apt install --yes --no-install-recommends "$package"
} || {
	tail -n 5 "$log" >&2
	give_up "apt-get failed, see above"
}
can_make || give_up "it has no ensurepip, although the package is installed"
