#!/bin/sh
# Usage: check-clean.sh [--remove] [DIR]
#        check-clean.sh --lost
#
# Looks for what a test, the demo or a site may leave behind: processes, mounts
# and loop devices. Exit status 0 when there is nothing, 1 when there is, and
# each finding is a line on standard error.
#
# With DIR, what counts is everything that has to do with that directory:
# processes that run in it, were started with it as TMPDIR or name it on their
# command line, mounts below it, loop devices over files below it. `make test`
# gives each run a directory of its own, so that two runs, or a site that is in
# use on the same machine, are not taken for each other's leftovers.
#
# A loop device whose file system was taken out of the tree (an unmount that did
# not wait, a power loss that a test played) no longer tells where its file was.
# Such devices count with DIR as well, unless they are named in LOOPS_BEFORE, which
# is what `check-clean.sh --lost` printed before the run.
#
# Without DIR, it is every process of a lockstep binary and every mount and
# loop device that the driver makes, whoever made it.
#
# --remove takes away what was found, all but such devices. It needs DIR: nobody's
# production is to be taken away because a test ran.
set -eu

remove=
if [ "${1:-}" = --remove ]; then
	remove=yes
	shift
fi
dir=${1:-}
if [ $# -gt 1 ] || { [ -n "$remove" ] && [ -z "${dir#--lost}" ]; }; then
	echo "usage: check-clean.sh [[--remove] DIR | --lost]" >&2
	exit 2
fi
case $dir in
--lost | "") ;;
/ | [!/]*) echo "check-clean: $dir is not an absolute path below /" >&2 && exit 2 ;;
esac
dir=${dir%/}

# ancestors prints this shell and all that it was started by: they know DIR
# because they chose it.
ancestors() {
	pid=$$
	while [ "$pid" -gt 1 ]; do
		echo "$pid"
		pid=$(sed -n 's/^PPid:[[:space:]]*//p' "/proc/$pid/status" 2>/dev/null) || return 0
		[ -n "$pid" ] || return 0
	done
}

# belongs tells whether a process is one of those looked for. One that ends
# meanwhile is not.
belongs() {
	if [ -n "$dir" ]; then
		case $(readlink "/proc/$1/cwd" 2>/dev/null || true)/ in "$dir"/*) return 0 ;; esac
		grep -qzxF "TMPDIR=$dir" "/proc/$1/environ" 2>/dev/null && return 0
		grep -qzF "$dir/" "/proc/$1/cmdline" 2>/dev/null && return 0
		return 1
	fi
	case $(readlink "/proc/$1/exe" 2>/dev/null || true) in
	*/lockstep | */lockstep' (deleted)' | */kubectl-lockstep) return 0 ;;
	esac
	return 1
}

processes() {
	mine=" $(ancestors | tr '\n' ' ')"
	for proc in /proc/[0-9]*; do
		pid=${proc#/proc/}
		case $mine in *" $pid "*) continue ;; esac
		# The shells of this script's own pipes have it as parent.
		parent=$(sed -n 's/^PPid:[[:space:]]*//p' "$proc/status" 2>/dev/null) || continue
		[ "$parent" = $$ ] && continue
		belongs "$pid" && echo "$pid"
	done
	return 0
}

# mounts prints mount points, deepest first. /proc/mounts writes a space in a
# path as \040, which none of ours has.
mounts() {
	if [ -n "$dir" ]; then
		awk -v dir="$dir/" 'index($2 "/", dir) == 1 { print $2 }' /proc/mounts
	else
		awk '$3 == "fuse.lockstep" { print $2 }' /proc/mounts
	fi | sort -r
}

# lost prints loop devices over a file of ours that is in no tree any more, and
# those over a device that was bound to a place which is gone, as a kubelet's are.
lost() {
	for backing in /sys/block/loop*/loop/backing_file; do
		case $(cat "$backing" 2>/dev/null || true) in
		/ | /device | /device-* | '/device (deleted)')
			device=/dev/${backing#/sys/block/}
			echo "${device%/loop/backing_file}"
			;;
		esac
	done
	return 0
}

# lost_meanwhile prints those that were not lost before.
lost_meanwhile() {
	[ -n "$dir" ] && [ -n "${LOOPS_BEFORE+set}" ] || return 0
	lost | while read -r device; do
		case " $LOOPS_BEFORE " in *" $device "*) ;; *) echo "$device, its file is in no tree any more" ;; esac
	done
}

# loops prints loop devices with their files. What lies over a file system of
# ours is called "device" there, see engine/frontend/fuse.FileName.
loops() {
	for backing in /sys/block/loop*/loop/backing_file; do
		[ -e "$backing" ] || continue
		file=$(cat "$backing" 2>/dev/null) || continue
		device=/dev/${backing#/sys/block/}
		device=${device%/loop/backing_file}
		if [ -n "$dir" ]; then
			case $file in "$dir"/*) echo "$device $file" ;; esac
		else
			case $file in */devices/*/device | */devices/*/device-* | */devices/*/device' (deleted)' | /device | /device-* | '/device (deleted)') echo "$device $file" ;; esac
		fi
	done
	return 0
}

found() {
	processes | while read -r pid; do
		echo "process $pid: $(sed 's/\x00/ /g' "/proc/$pid/cmdline" 2>/dev/null || true)"
	done
	mounts | sed 's/^/mount /'
	{ loops && lost_meanwhile; } | sed 's/^/loop device /'
}

# take_away goes from users to what they use: processes, mounts, devices, and
# what was mounted below devices. A FUSE mount whose server is gone is aborted
# by the forced unmount and cannot hang it.
take_away() {
	for pid in $(processes); do
		kill -KILL "$pid" 2>/dev/null || true
	done
	for point in $(mounts); do
		umount -f "$point" 2>/dev/null || umount -l "$point" 2>/dev/null || true
	done
	loops | while read -r device _; do
		losetup -d "$device" 2>/dev/null || true
	done
	for point in $(mounts); do
		umount -l "$point" 2>/dev/null || true
	done
}

if [ "$dir" = --lost ]; then
	lost
	exit
fi
left=$(found)
if [ -n "$left" ] && [ -n "$remove" ]; then
	take_away
	# The kernel lets go of a device once its last user is gone, which may be
	# a moment after.
	tries=50
	while [ -n "$(found)" ] && [ "$tries" -gt 0 ]; do
		sleep 0.1
		tries=$((tries - 1))
	done
	still=$(found)
	if [ -n "$still" ]; then
		printf 'check-clean: cannot be taken away:\n%s\n' "$still" >&2
	fi
fi
if [ -n "$left" ]; then
	printf 'check-clean: left behind%s:\n%s\n' "${dir:+ in $dir}" "$left" >&2
	exit 1
fi
