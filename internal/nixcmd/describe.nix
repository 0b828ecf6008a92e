# What Store.Evaluate wants to know of a value, without building it: the recipe that it is or, if it isn't one, what
# else. A function is called, as nix-build does it, if all that it wants is among the arguments or has a default.
arguments: given:
let
  plain = builtins.unsafeDiscardStringContext;
  wanted = builtins.functionArgs given;
  value =
    if builtins.isFunction given && wanted != { } && builtins.all (name: wanted.${name} || arguments ? ${name}) (builtins.attrNames wanted)
    then given (builtins.intersectAttrs wanted arguments)
    else given;
  type = builtins.typeOf value;
in
if value.type or null == "derivation" then {
  type = "derivation";
  recipe = plain value.drvPath;
  path = plain value.outPath; # called outPath, it would be all that is printed
  output = value.outputName or "out";
  name = value.name or "";
  system = value.stdenv.hostPlatform.system or value.system or "";
}
else if type == "list" then { inherit type; length = builtins.length value; }
else if type == "set" then { inherit type; attributes = builtins.attrNames value; }
else { type = { lambda = "function"; bool = "boolean"; int = "number"; float = "number"; }.${type} or type; }
