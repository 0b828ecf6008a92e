-- The database of a Nix store, schema 10, as every Nix since 2.0 makes it. The
-- names and types are Nix's; TestSchema compares them with a database of its own.

create table ValidPaths (
    id               integer primary key autoincrement not null,
    path             text unique not null,
    hash             text not null,    -- of the NAR: sha256:<base 16>
    registrationTime integer not null, -- in unix seconds
    deriver          text,
    narSize          integer,
    ultimate         integer,          -- 1 if built here, which makes it trusted; null otherwise
    sigs             text,             -- with spaces between them
    ca               text
);

create table Refs (
    referrer  integer not null,
    reference integer not null,
    primary key (referrer, reference),
    foreign key (referrer) references ValidPaths(id) on delete cascade,
    foreign key (reference) references ValidPaths(id) on delete restrict
);

create index IndexReferrer on Refs(referrer);
create index IndexReference on Refs(reference);

-- A path that refers to itself could not be deleted otherwise.
create trigger DeleteSelfRefs before delete on ValidPaths
  begin
    delete from Refs where referrer = old.id and reference = old.id;
  end;

create table DerivationOutputs (
    drv  integer not null,
    id   text not null, -- such as out
    path text not null,
    primary key (drv, id),
    foreign key (drv) references ValidPaths(id) on delete cascade
);

create index IndexDerivationOutputs on DerivationOutputs(path);
