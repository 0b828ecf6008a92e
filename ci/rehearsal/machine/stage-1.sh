#!/bin/busybox sh
# The initrd's: hands over to the system's init, which is in the same memory.
/bin/busybox mkdir -p /dev /proc /run /sys /tmp
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox mount -t proc proc /proc
for word in $(/bin/busybox cat /proc/cmdline); do
  case $word in init=*) init=${word#init=} ;; esac
done
echo "stage 1: $init takes over"
exec "$init"
