# One function that builds a path with busybox, and busybox itself, a folder
# with one static program in it.
rec {
  busybox = builtins.path { path = ./busybox; name = "busybox"; };

  # build NAME VARIABLES SCRIPT: runs the script with all that busybox can do on PATH.
  build = name: variables: script: run name (variables // { inherit busybox; PATH = applets; }) script;

  applets = run "busybox-applets" { } "${busybox}/busybox mkdir $out; ${busybox}/busybox --install -s $out";

  run = name: variables: script: derivation (variables // {
    inherit name;
    system = builtins.currentSystem or "x86_64-linux"; # a flake may not ask the machine
    builder = "${busybox}/busybox";
    args = [ "sh" "-euc" script ];
  });
}
