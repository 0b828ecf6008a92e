# One function that builds a path with busybox, and busybox itself, a folder
# with one static program in it.
rec {
  busybox = builtins.path { path = ./busybox; name = "busybox"; };

  # build NAME VARIABLES SCRIPT: runs the script with all that busybox can on PATH.
  build = name: variables: script: derivation (variables // {
    inherit name busybox;
    system = builtins.currentSystem;
    builder = "${busybox}/busybox";
    args = [
      "sh"
      "-euc"
      ''
        $busybox/busybox mkdir .bin
        $busybox/busybox --install -s .bin
        export PATH=$PWD/.bin
        ${script}
      ''
    ];
  });
}
