# Hosts as a flake has them in nixosConfigurations, web-1 and on, that share 95 % of their paths, if nobody asks for
# another fleet. Editing motd changes all of them, and hosts/web-7, where there is one, web-7.
{ hosts ? 50
, shared ? 38 # paths of all hosts, besides two more
, own ? 1 # paths of each host, besides its system
, work ? 0 # that it takes to evaluate a host: each million some tenths of a second and a hundred MB
, broken ? false # have one host more, which can't be evaluated
, failing ? false # have one host more, which can't be built
}:
let
  inherit (import ./lib.nix) build busybox;

  # Nix takes texts into the store as they are, so that a fleet is quick to build.
  text = name: builtins.toFile name (toString (builtins.genList (line: "${name}: line ${toString line} ${busybox}\n") 50));

  kernel = build "linux-6.12.30" { motd = ./motd; } "mkdir $out; seq 2000 > $out/bzImage; cp $motd $out/motd";
  packages = builtins.genList (n: text "package-${toString n}") shared;

  system = name: build "nixos-system-${name}-25.05" { inherit kernel packages; etc = etc name; } ''
    mkdir $out
    echo $kernel $packages $etc > $out/all
    printf x86_64-linux > $out/system
  '';
  etc = name: builtins.genList (n: builtins.toFile "etc-${toString n}-${name}" "${toString n} of ${name}\n${local name}") own;
  local = name: if builtins.pathExists (./hosts + "/${name}") then builtins.readFile (./hosts + "/${name}") else "";

  evaluated = toplevel: assert work == 0 || builtins.length (builtins.sort (a: b: a < b) (builtins.genList (n: work - n) work)) > 0; toplevel;
  host = name: toplevel: { inherit name; value.config.system.build.toplevel = evaluated toplevel; };
in
builtins.listToAttrs (
  map (name: host name (system name)) (builtins.genList (n: "web-${toString (n + 1)}") hosts)
  ++ (if broken then [ (host "broken" (throw "this host can't be evaluated")) ] else [ ])
  ++ (if failing then [ (host "failing" (build "nixos-system-failing-25.05" { needs = build "unbuildable" { } "echo this can not be built; exit 3"; } "mkdir $out")) ] else [ ])
)
