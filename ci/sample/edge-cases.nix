# What a store may hold though a tidy system never does; for the tests.
let
  inherit (import ./lib.nix) build busybox;
  many = n: text: builtins.concatStringsSep "" (builtins.genList (_: text) n);
in
rec {
  # Names, files, directories and links at the limits of the format.
  shapes = build "shapes+._?=0" { longName = many 255 "n"; longTarget = many 819 "/four"; deep = many 60 "d/"; } ''
    mkdir -p $out/names $out/files $out/empty/nested $out/$deep
    cd $out/names
    for name in ')' '(' ' ' ',' a a.b a-b A aa a~ ..a type '"' '\' "$(printf 'new\nline')" "$(printf '\377\376')" "$longName"; do
      echo "$name" > "$name"
    done
    cd $out/files
    touch empty
    for size in 1 7 8 9 4095 4096; do head -c $size /dev/zero > $size; done
    printf '#!/bin/sh\n' > executable
    chmod 755 executable
    ln executable hard-link
    seq 300000 > big
    ln -s nowhere dangling
    ln -s . self
    ln -s ../../../../.. out
    ln -s "$longTarget" long
    ln -s ${busybox} absolute
  '';

  # A root that is a regular file, an executable and a link, not a directory.
  file = build "file" { } "seq 10 > $out";
  executable = build "executable" { } "printf '#!%s sh\n' $busybox/busybox > $out; chmod +x $out";
  link = build "link" { inherit file; } "ln -s $file $out";

  # Named by the hash of its one file (fixed:sha256), as downloads are, and by that of its tree (fixed:r:sha256).
  download = build "download.txt" { outputHashMode = "flat"; outputHash = "sha256-JB/CNKwMPNHYXNdmgApy3Hmkb2L8KembGz4qQb/uzis="; } "echo download > $out";
  tree = build "tree" { outputHashMode = "recursive"; outputHash = "sha256-TJ2Y7I6oM1DAcwDkYfl4CZ1Q2S4j93xfI2RFSb1HJxU="; } "mkdir $out; echo tree > $out/file";

  # All of them.
  all = build "edge-cases" { inherit shapes file executable link download tree; } ''
    mkdir $out
    ln -s $shapes $file $executable $link $download $tree $out
  '';

  # Each build of it makes other bytes under the same path: a system's image with a time in it, say.
  unreproducible = build "unreproducible" { } ''
    mkdir $out
    cat /proc/sys/kernel/random/uuid > $out/id
  '';
  atop-unreproducible = build "atop-unreproducible" { inherit unreproducible; } "ln -s $unreproducible $out";

  failing = build "failing" { } "echo 'this build fails, and says so' >&2; exit 1";
}
