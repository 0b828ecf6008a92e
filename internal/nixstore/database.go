package nixstore

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	_ "modernc.org/sqlite" // in Go, so that our programs stay static

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// schemaVersion is what db/schema says. It has been the same since Nix 2.0.
const schemaVersion = "10"

// schema is that of Nix 2.8 to 2.34 (src/libstore/schema.sql), which differ in
// comments only.
const schema = `
create table ValidPaths (
    id               integer primary key autoincrement not null,
    path             text unique not null,
    hash             text not null,
    registrationTime integer not null,
    deriver          text,
    narSize          integer,
    ultimate         integer,
    sigs             text,
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
create trigger DeleteSelfRefs before delete on ValidPaths
  begin
    delete from Refs where referrer = old.id and reference = old.id;
  end;
create table DerivationOutputs (
    drv  integer not null,
    id   text not null,
    path text not null,
    primary key (drv, id),
    foreign key (drv) references ValidPaths(id) on delete cascade
);
create index IndexDerivationOutputs on DerivationOutputs(path);
`

// registrationTime of all paths, in unix seconds: like the modification time of
// their files, the same whenever they are fetched.
const registrationTime = 1

// Register writes the store's database, in which the paths of infos are valid.
// They must have been restored, and be closed under references. It is the last
// step, and the only one that makes the store one: the database appears at once.
func (r *Root) Register(ctx context.Context, infos []nix.PathInfo) error {
	final := filepath.Join(r.databaseDir(), "db.sqlite")
	unfinished := final + ".new"
	if err := writeDatabase(ctx, unfinished, infos); err != nil {
		os.Remove(unfinished)
		return fmt.Errorf("writing the database of the store in %s: %w", r.dir, err)
	}
	if err := os.WriteFile(filepath.Join(r.databaseDir(), "schema"), []byte(schemaVersion), 0o644); err != nil {
		return err
	}
	return os.Rename(unfinished, final)
}

func writeDatabase(ctx context.Context, file string, infos []nix.PathInfo) error {
	// Whoever is interrupted begins anew: no journal is needed, nor left behind.
	location := url.URL{Scheme: "file", Path: file, RawQuery: "_pragma=journal_mode(off)&_pragma=synchronous(off)"}
	db, err := sql.Open("sqlite", location.String())
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, schema); err != nil {
		return err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := insert(ctx, tx, infos); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	return db.Close()
}

func insert(ctx context.Context, tx *sql.Tx, infos []nix.PathInfo) error {
	paths, err := tx.PrepareContext(ctx, `insert into ValidPaths
		(id, path, hash, registrationTime, deriver, narSize, sigs, ca) values (?, ?, ?, ?, ?, ?, ?, ?)`)
	if err != nil {
		return err
	}
	defer paths.Close()
	refs, err := tx.PrepareContext(ctx, `insert into Refs (referrer, reference) values (?, ?)`)
	if err != nil {
		return err
	}
	defer refs.Close()

	ids := make(map[nix.StorePath]int, len(infos))
	for i, info := range infos {
		ids[info.Path] = i + 1
	}
	for i, info := range infos {
		_, err := paths.ExecContext(ctx, i+1, info.Path.String(), "sha256:"+info.NarHash.Hex(), registrationTime,
			orNull(info.Deriver.String()), info.NarSize, orNull(joinSignatures(info.Signatures)), orNull(info.CA))
		if err != nil {
			return fmt.Errorf("%s: %w", info.Path, err)
		}
		for _, ref := range info.References {
			id, ok := ids[ref]
			if !ok {
				return fmt.Errorf("%s refers to %s, which is not in the store", info.Path, ref)
			}
			if _, err := refs.ExecContext(ctx, i+1, id); err != nil {
				return fmt.Errorf("%s: %w", info.Path, err)
			}
		}
	}
	return nil
}

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func joinSignatures(sigs []nix.Signature) string {
	texts := make([]string, len(sigs))
	for i, sig := range sigs {
		texts[i] = sig.String()
	}
	return strings.Join(texts, " ")
}
