#!/bin/busybox sh
# nixos-test-driver --output-directory DIR: boots the candidate, and tests it. The machine's console goes to the log
# and to DIR/machine.log, its screen to DIR/machine.ppm.
set -eu
PATH=@out@/bin
output=$2
state=$(mktemp -d)
boot=${BOOT_TIMEOUT:-120} # seconds; an emulated machine is slow
watchdog=

say() { echo "machine: $*"; }

fail() {
  say "error: $*" >&2
  exit 1
}

cleanup() {
  for process in $watchdog $(cat "$state/pid" 2>/dev/null); do kill "$process" 2>/dev/null || true; done
  wait # until all of the console is in the log
  rm -rf "$state"
}
trap cleanup EXIT

# Its store, in memory: the candidate's closure and nothing else.
(cd / && { printf './nix\n./nix/store\n'; while read -r path; do find ".$path"; done <@out@/closure; } | cpio -o -H newc) >"$state/store"
cat @candidate@/initrd "$state/store" >"$state/initrd"

say "booting @candidate@"
mkfifo "$state/shell.in" "$state/shell.out" "$state/monitor.in" "$state/monitor.out"
exec 3<>"$state/shell.in" 4<>"$state/shell.out" 5<>"$state/monitor.in"
{
  @qemu@/bin/qemu-system-x86_64 -machine accel=kvm:tcg -m 512 -nodefaults -no-reboot -display none -vga std \
    -kernel @candidate@/kernel -initrd "$state/initrd" -append "console=ttyS0 panic=-1 init=@candidate@/init $(cat @candidate@/kernel-params)" \
    -serial stdio -serial "pipe:$state/shell" -monitor "pipe:$state/monitor" -pidfile "$state/pid" </dev/null 2>&1 || true
  rm -f "$state/pid"
  printf '\n:gone:\n' >&4
} | tee "$output/machine.log" | while IFS= read -r line; do echo "machine # $line"; done &

# answer SECONDS: waits until the machine's shell says how its command went, and shows what that printed.
answer() {
  (
    left=$1
    while [ "$left" -gt 0 ]; do
      sleep 1
      left=$((left - 1))
    done
    printf '\n:late:\n' >&4
  ) >/dev/null 2>&1 &
  watchdog=$!
  while IFS= read -r line <&4; do
    case $line in
    :0:) break ;;
    :gone:) fail "it has stopped" ;;
    :late:) fail "it has not answered for $1 seconds" ;;
    :*:) fail "that failed, with status $line" ;;
    ?*) say "| $line" ;;
    esac
  done
  kill $watchdog
}

succeed() {
  say "must succeed: $*"
  echo "$*" >&3
  answer 60
}

answer "$boot"
say "it is up"
# shellcheck disable=SC2016 # it is for the machine's shell
succeed '[ "$(readlink /run/current-system)" = @candidate@ ]'
succeed "wget -q -O - http://127.0.0.1/ | grep 'It works'"
echo "screendump $output/machine.ppm" >&5
succeed '@candidate@/bin/switch-to-configuration test'
say "all tests have passed"
