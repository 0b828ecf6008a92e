let
  inherit (import ./lib.nix) build;

  system = name: { hooks ? "", sick ? false, panics ? false, kernel ? "linux-6.12", inhibitors ? null }:
    build "nixos-system-${name}-25.05" { inherit hooks inhibitors; kernel = build kernel { } "echo ${kernel} > $out"; } ''
      mkdir -p $out/bin
      cp ${./switch-to-configuration} $out/bin/switch-to-configuration
      echo "$hooks" > $out/hooks
      ln -s $kernel $out/kernel
      ${if sick then "touch $out/sick" else ""}
      ${if panics then "touch $out/panics" else ""}
      ${if inhibitors == null then "" else ''echo "$inhibitors" > $out/switch-inhibitors''}
    '';
in
{
  a = system "a" { inhibitors = ''{"systemd": "257"}''; };
  b = system "b" { };
  c = system "c" { };
  failing = system "failing" { hooks = ''after_test() { echo "unit broken.service failed"; exit 1; }''; };
  idle = system "idle" { hooks = "before_test() { exit 0; }"; };
  sick = system "sick" { sick = true; };
  hanging = system "hanging" { hooks = "after_test() { sleep 1000; }"; };
  cut-off = system "cut-off" { hooks = ''after_test() { touch "$root/cut-off"; }''; };
  outage = system "outage" { hooks = ''after_test() { touch "$root/outage"; }''; };
  deadly = system "deadly" { hooks = ''after_test() { read pid rest < "$root/state/lock"; kill -9 $pid; }''; };
  undead = system "undead" { hooks = ''after_test() { read pid rest < "$root/state/lock"; kill -9 $pid; sleep 1000; }''; };
  stubborn = system "stubborn" { hooks = ''before_boot() { echo "no space left on /boot"; exit 1; }''; };
  loaderless = system "loaderless" { hooks = ''before_boot() { touch "$root/no-boot-loader"; }''; };
  kernel = system "kernel" { kernel = "linux-6.13"; };
  sick-kernel = system "sick-kernel" { kernel = "linux-6.13"; sick = true; };
  stubborn-kernel = system "stubborn-kernel" { kernel = "linux-6.13"; hooks = ''before_boot() { exit 1; }''; };
  panics = system "panics" { kernel = "linux-6.13"; panics = true; };
  inhibited = system "inhibited" { inhibitors = ''{"systemd": "258", "dbus": "1"}''; };
  odd = system "odd" { inhibitors = "/nix/store/systemd-257"; };
}
