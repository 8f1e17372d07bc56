#!/bin/sh
# Installs the Debian packages of the servers that the end-to-end tests start: install_servers.sh PACKAGE...
#
# Quick and quiet when all are there. Where it may not or cannot install, it says what is missing and ends
# well, since the tests then skip with the reason; with EDM_REQUIRE_E2E=1 it ends with 1 instead. The tests
# start the servers themselves: the system services of newly installed packages are neither started nor left
# enabled.
set -u

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
POLICY=/usr/sbin/policy-rc.d
log=

programs_of() {
	case $1 in
	fstrm-bin) echo fstrm_capture fstrm_replay ;;
	bind9) echo named ;;
	bind9-dnsutils) echo dig ;;
	chromium-driver) echo chromedriver ;;
	knot) echo knotd ;;
	knot-resolver) echo kresd ;;
	pdns-recursor) echo pdns_recursor ;;
	prometheus) echo promtool ;;
	*) echo "$1" ;;
	esac
}

services_of() {
	case $1 in
	fstrm-bin | dnsperf | bind9-dnsutils | knot-module-dnstap | chromium | chromium-driver | prometheus) ;;
	bind9) echo named.service ;;
	knot-resolver) echo kresd.target kres-cache-gc.service ;;
	*) echo "$1.service" ;;
	esac
}

is_there() {
	# A module of Knot DNS has no program.
	case $1 in knot-module-*)
		for file in /usr/lib/*/knot/modules-*/"${1#knot-module-}".so; do
			[ ! -e "$file" ] || return 0
		done
		return 1
		;;
	esac
	for program in $(programs_of "$1"); do
		command -v "$program" >/dev/null 2>&1 || return 1
	done
}

missing() {
	for package in "$@"; do
		is_there "$package" || printf ' %s' "$package"
	done
}

give_up() {
	echo "End-to-end tests: not installed:$1 ($2)." >&2
	if [ "${EDM_REQUIRE_E2E:-}" = 1 ]; then
		echo "EDM_REQUIRE_E2E=1 demands them. Install them with: apt-get install$1" >&2
		exit 1
	fi
	echo "The tests that need them will be skipped. Install them with: apt-get install$1" >&2
	exit 0
}

clean_up() {
	[ -z "$log" ] || rm -f "$log"
	[ -z "$own_policy" ] || rm -f "$POLICY"
}

# Without a policy file, one that forbids starting services stands there while packages are installed.
forbid_services() {
	if [ ! -e "$POLICY" ] && printf '#!/bin/sh\nexit 101\n' >"$POLICY"; then
		own_policy=yes
		chmod 755 "$POLICY"
	fi
}

# Enabling is not up to the policy, and a policy that was there may have allowed starting.
disable_services() {
	command -v systemctl >/dev/null 2>&1 || return 0
	now=
	[ ! -d /run/systemd/system ] || now=--now
	for package in "$@"; do
		for service in $(services_of "$package"); do
			systemctl --quiet $now disable "$service" >/dev/null 2>&1 || :
		done
	done
}

apt() {
	DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120 "$@" </dev/null >>"$log" 2>&1
}

# The tests need promtool alone. From Debian 13 on it has a package of its own; before, that of the server has it,
# which brings a service, a user and 90 MB.
install_promtool() {
	apt install --yes --no-install-recommends promtool ||
		{ apt update && apt install --yes --no-install-recommends promtool; } ||
		unpack_promtool
}

unpack_promtool() {
	folder=$(mktemp -d) || return 1
	chmod 755 "$folder"
	(
		cd "$folder" || exit 1
		apt download prometheus || exit 1
		dpkg-deb -x prometheus_*.deb unpacked && install -m 755 unpacked/usr/bin/promtool /usr/local/bin/promtool
	) >>"$log" 2>&1
	result=$?
	rm -rf "$folder"
	return $result
}

wanted=$(missing "$@")
[ -n "$wanted" ] || exit 0

own_policy=
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

command -v apt-get >/dev/null 2>&1 || give_up "$wanted" "there is no apt-get here"
[ "$(id -u)" = 0 ] || give_up "$wanted" "installing packages needs root"
log=$(mktemp) || exit 1

echo "End-to-end tests: installing$wanted" >&2
# Of prometheus only one program is taken, below.
promtool=
case " $wanted " in *" prometheus "*)
	promtool=yes
	wanted=$(printf '%s' "$wanted" | sed 's/ prometheus//')
	;;
esac
forbid_services
# shellcheck disable=SC2086  # one word for each package
[ -z "$wanted" ] || apt install --yes --no-install-recommends $wanted || {
	# Package lists that are missing or old.
	apt update
	apt install --yes --no-install-recommends $wanted
} || {
	tail -n 5 "$log" >&2
	give_up "$(missing "$@")" "apt-get failed, see above"
}
# shellcheck disable=SC2086
disable_services $wanted
[ -z "$promtool" ] || install_promtool || {
	tail -n 5 "$log" >&2
	give_up " prometheus" "its promtool could not be installed, see above"
}

wanted=$(missing "$@")
[ -z "$wanted" ] || give_up "$wanted" "the packages are installed but their programs were not found"
