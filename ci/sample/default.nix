# Two hosts, each a small system in the shape of NixOS's: what `make demo`
# deploys, and what the tests push, fetch and compare. NixOS itself is made in
# the same way, by `system.build.toplevel`, of some thousand derivations; these
# need nothing but the static busybox that ci/sample/copy lays beside them.
#
# To make the next day's system, edit motd.
let
  lib = import ./lib.nix;
  inherit (lib) build busybox;

  # A source, copied to the store as it is and named by its contents.
  motd = builtins.path { path = ./motd; name = "motd"; };

  # A text that refers to another path, named by its contents too.
  stage2 = builtins.toFile "stage-2-init.sh" ''
    echo "stage 2 of $0, by ${busybox}"
  '';

  kernel = build "linux-6.12.30" { } ''
    modules=$out/lib/modules/6.12.30
    mkdir -p $modules/kernel/net
    seq 200000 | bzip2 > $out/bzImage
    seq 50000 > $modules/kernel/net/tun.ko
    echo 'kernel/net/tun.ko:' > $modules/modules.dep
    touch $modules/modules.softdep
    ln -s bzImage $out/vmlinuz
  '';

  initrd = build "initrd-linux-6.12.30" { inherit kernel; } ''
    mkdir $out
    (cd $kernel/lib/modules && find . -type f | sort | cpio -o -H newc) | bzip2 > $out/initrd
  '';

  # It refers to itself.
  systemd = build "systemd-257.6" { } ''
    mkdir -p $out/bin $out/lib/systemd/system-generators $out/example/systemd/system
    printf '#!%s sh\necho "systemd of %s"\n' $busybox/busybox $out > $out/lib/systemd/systemd
    chmod +x $out/lib/systemd/systemd
    ln -s ../lib/systemd/systemd $out/bin/init
    for unit in basic multi-user network; do echo "[Unit]" > $out/example/systemd/system/$unit.target; done
  '';

  nginx = build "nginx-1.28.0" { } ''
    mkdir -p $out/bin $out/html $out/logs
    printf '#!%s sh\nexec %s httpd "$@"\n' $busybox/busybox $busybox/busybox > $out/bin/nginx
    chmod +x $out/bin/nginx
    echo '<h1>It works</h1>' > $out/html/index.html
  '';

  unit = build "unit-nginx.service" { inherit nginx; } ''
    mkdir $out
    printf '[Service]\nExecStart=%s/bin/nginx -f\n' $nginx > $out/nginx.service
  '';

  # What all users find on their PATH.
  path = build "system-path" { inherit nginx systemd; } ''
    mkdir -p $out/bin
    ln -s $nginx/bin/nginx $systemd/bin/init $out/bin
    for applet in cat ls sh; do ln -s $busybox/busybox $out/bin/$applet; done
  '';

  etc = host: build "etc" { inherit host motd systemd unit; } ''
    mkdir -p $out/etc/systemd/system/multi-user.target.wants $out/etc/ssh/authorized_keys.d
    ln -s $motd $out/etc/motd
    ln -s $unit/nginx.service $out/etc/systemd/system/nginx.service
    ln -s ../nginx.service $out/etc/systemd/system/multi-user.target.wants/nginx.service
    ln -s $systemd/example/systemd/system/*.target $out/etc/systemd/system
    echo $host > $out/etc/hostname
    echo 'root:x:0:0::/root:/bin/sh' > $out/etc/passwd
  '';

  system = host: build "nixos-system-${host}-25.05" { inherit initrd kernel path stage2 systemd; etc = etc host; } ''
    mkdir -p $out/bin $out/specialisation
    ln -s $etc/etc $out/etc
    ln -s $initrd/initrd $out/initrd
    ln -s $kernel/bzImage $out/kernel
    ln -s $kernel/lib/modules $out/kernel-modules
    ln -s $path $out/sw
    ln -s $systemd $out/systemd
    printf 25.05.20250601.abcdef > $out/nixos-version
    printf x86_64-linux > $out/system
    printf 'loglevel=4 net.ifnames=0' > $out/kernel-params
    printf '#!%s sh\n. %s\n' $busybox/busybox $stage2 > $out/init
    sed "s|@busybox@|$busybox/busybox|; s|@out@|$out|" ${./switch-to-configuration} > $out/bin/switch-to-configuration
    chmod +x $out/init $out/bin/switch-to-configuration
  '';
in
{
  web-1 = system "web-1";
  web-2 = system "web-2";
}
