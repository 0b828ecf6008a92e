# The sample's web-1 as a system that boots, and the driver of a test that boots it: what nixosTests.….driver is for
# a real NixOS. The kernel and the QEMU are those of ci/get vm; vm.nix says where they are.
let
  vm = import ./vm.nix;
  inherit (import ./lib.nix) build busybox applets;

  kernel = build "linux-6.1" { image = builtins.path { path = vm + "/vmlinuz"; name = "vmlinuz"; }; } ''
    mkdir -p $out/lib/modules
    ln -s $image $out/bzImage
  '';

  # As QEMU takes it: an archive, padded so that another one can come after it.
  initrd = build "initrd-linux-6.1" { init = ./stage-1.sh; } ''
    mkdir -p root/bin $out
    cp $busybox/busybox root/bin
    cp $init root/init
    chmod +x root/init
    (cd root && find . | cpio -o -H newc) > archive
    dd if=archive bs=512 conv=sync of=$out/initrd
  '';

  web-1 = build "nixos-system-web-1-25.05" { inherit applets kernel initrd; base = (import ./default.nix).web-1; stage2 = ./stage-2.sh; } ''
    cp -a $base $out
    chmod -R u+w $out
    rm $out/kernel $out/kernel-modules $out/initrd $out/init
    ln -s $kernel/bzImage $out/kernel
    ln -s $kernel/lib/modules $out/kernel-modules
    ln -s $initrd/initrd $out/initrd
    sed -i "s|$base|$out|g" $out/bin/switch-to-configuration
    sed "s|/bin/busybox|$busybox/busybox|; s|@applets@|$applets|; s|@out@|$out|g" $stage2 > $out/init
    chmod +x $out/init
  '';

  qemu = build "qemu-7.2" { files = builtins.path { path = vm + "/qemu"; name = "qemu"; }; } ''
    mkdir -p $out/bin
    cat > $out/bin/qemu-system-x86_64 <<EOF
    #!$busybox/busybox sh
    export QEMU_MODULE_DIR=$files/modules
    exec $files/lib/ld-linux-x86-64.so.2 --library-path $files/lib $files/bin/qemu-system-x86_64 -L $files/share "\$@"
    EOF
    chmod +x $out/bin/qemu-system-x86_64
  '';
in
{
  inherit web-1;

  driver = build "nixos-test-driver-web-1" {
    inherit qemu;
    candidate = web-1;
    driver = ./nixos-test-driver.sh;
    exportReferencesGraph = [ "graph" web-1 ]; # what the machine has in its store
  } ''
    mkdir -p $out/bin
    for applet in $($busybox/busybox --list); do ln -s $busybox/busybox $out/bin/$applet; done
    grep '^/nix/store/' graph | sort -u > $out/closure
    sed "s|/bin/busybox|$busybox/busybox|; s|@out@|$out|g; s|@qemu@|$qemu|; s|@candidate@|$candidate|g" $driver > $out/bin/nixos-test-driver
    chmod +x $out/bin/nixos-test-driver
  '';
}
