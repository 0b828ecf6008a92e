#!/bin/busybox sh
# The system's init, in place of systemd.
export PATH=@applets@
echo "stage 2: this is @out@"
ln -s @out@ /run/current-system
ln -s @out@/etc /etc
hostname "$(cat /etc/hostname)"
ifconfig lo up
nginx=$(readlink @out@/sw/bin/nginx)
$nginx -p 80 -h "${nginx%/bin/nginx}/html"
echo "reached target multi-user"

# The test's way in, as NixOS has it in machines that are tested: a shell, which says when it may begin.
exec 3<>/dev/ttyS1
stty raw -echo <&3
echo ":0:" >&3
while IFS= read -r command <&3; do
  sh -c "$command" </dev/null >&3 2>&1
  echo ":$?:" >&3
done
