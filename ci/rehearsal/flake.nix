# The sample's hosts, and the driver of a test where NixOS has it.
{
  outputs = { self }: {
    nixosConfigurations = builtins.mapAttrs (_: toplevel: { config.system.build = { inherit toplevel; }; }) (import ./.);
    checks.x86_64-linux.web-1.driver = import ./driver.nix;
  };
}
