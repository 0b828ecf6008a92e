# fleet.nix { hosts = 50; }: hosts as a flake has them in nixosConfigurations, web-1 and on, that share 95 % of their
# paths. Editing shared/motd changes all of them; hosts/web-7, if there is one, changes web-7.
#
# With them come broken, which can't be evaluated, and failing, which can't be built, if they are asked for.
{ hosts ? 50, broken ? false, failing ? false }:
let
  inherit (import ./lib.nix) build busybox;

  # What all have. Nix takes texts into the store as they are, so that a fleet is quick to build.
  shared = builtins.genList (n: builtins.toFile "package-${toString n}" (toString (builtins.genList (line: "${toString n}: ${toString line} ${busybox}\n") 50))) 38;
  kernel = build "linux-6.12.30" { motd = ./motd; } "mkdir $out; seq 2000 > $out/bzImage; cp $motd $out/motd";

  system = name: build "nixos-system-${name}-25.05" { inherit kernel shared; etc = builtins.toFile "etc-${name}" (own name); } ''
    mkdir $out
    echo $shared $kernel $etc > $out/all
    printf x86_64-linux > $out/system
  '';
  own = name: "the host ${name}" + (if builtins.pathExists (./hosts + "/${name}") then builtins.readFile (./hosts + "/${name}") else "");

  host = name: toplevel: { inherit name; value.config.system.build = { inherit toplevel; }; };
  names = builtins.genList (n: "web-${toString (n + 1)}") hosts;
in
builtins.listToAttrs (
  map (name: host name (system name)) names
  ++ (if broken then [ (host "broken" (throw "this host can't be evaluated")) ] else [ ])
  ++ (if failing then [ (host "failing" (build "nixos-system-failing-25.05" { needs = build "unbuildable" { } "echo this can not be built; exit 3"; } "mkdir $out")) ] else [ ])
)
