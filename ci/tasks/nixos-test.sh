# See nixos-test.yml. It is run by the shell of the driver's closure, whichever that is.
set -eu

# All that the closure has: the driver's own programs find theirs by themselves, and we need a mknod.
for bin in /nix/store/*/bin; do PATH=$PATH:$bin; done

read -r candidate <candidate/path
if [ ! -e "$candidate" ]; then
  echo "error: $candidate is not in the closure of its test, so the test says nothing about it" >&2
  echo "hint: let the test boot the host's own system.build.toplevel, see docs/testing.md" >&2
  exit 1
fi

[ -e /dev/kvm ] || mknod /dev/kvm c 10 232 2>/dev/null || true
if [ -c /dev/kvm ] && (: <>/dev/kvm) 2>/dev/null; then
  chmod 666 /dev/kvm
  echo "testing $candidate, with KVM"
else
  rm -f /dev/kvm # so that QEMU doesn't stumble over a device that it may not open
  TIMEOUT=$((TIMEOUT * SLOWDOWN))
  echo "testing $candidate, without KVM: QEMU emulates, and the test may take $SLOWDOWN times as long"
fi

status=0
timeout "$TIMEOUT" /closure/bin/nixos-test-driver --output-directory "$PWD/test-output" || status=$?
case $status in
124 | 143) echo "error: the test ran longer than $TIMEOUT seconds" >&2 ;; # as coreutils' and busybox' timeout say it
esac
exit "$status"
