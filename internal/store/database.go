package store

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	_ "modernc.org/sqlite" // the driver, without cgo

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

//go:embed schema.sql
var schema string

const schemaVersion = "10"

// registrationTime is the same for all paths, so that the same closure makes
// the same database. Nix shows it and makes nothing of it; 0 would be unknown.
const registrationTime = 1

// writeDatabase makes a store's database in a new file, with nothing left
// beside it. References must be among the infos. For derivations it asks
// outputs what they make.
func writeDatabase(ctx context.Context, file string, infos []nix.PathInfo, outputs func(nix.StorePath) (map[string]nix.StorePath, error)) (err error) {
	// Until it is whole it is of no use to anybody: nothing to roll back to,
	// nothing to wait for the disk for.
	dsn := url.URL{Scheme: "file", Path: file, RawQuery: "_pragma=journal_mode(off)&_pragma=synchronous(off)&_pragma=foreign_keys(on)"}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, schema); err != nil {
		return err
	}

	ids := make(map[nix.StorePath]int64, len(infos))
	infos = nix.SortInfos(infos)
	addPath, err := tx.PrepareContext(ctx, "insert into ValidPaths (path, hash, registrationTime, deriver, narSize, sigs, ca) values (?, ?, ?, ?, ?, ?, ?)")
	if err != nil {
		return err
	}
	for _, info := range infos {
		sigs := make([]string, len(info.Signatures))
		for i, sig := range info.Signatures {
			sigs[i] = sig.String()
		}
		result, err := addPath.ExecContext(ctx, info.Path.String(), "sha256:"+info.NarHash.Hex(), registrationTime,
			orNull(info.Deriver.String()), info.NarSize, orNull(strings.Join(sigs, " ")), orNull(info.CA.String()))
		if err != nil {
			return fmt.Errorf("%s: %w", info.Path, err)
		}
		if ids[info.Path], err = result.LastInsertId(); err != nil {
			return err
		}
	}

	addReference, err := tx.PrepareContext(ctx, "insert into Refs (referrer, reference) values (?, ?)")
	if err != nil {
		return err
	}
	addOutput, err := tx.PrepareContext(ctx, "insert into DerivationOutputs (drv, id, path) values (?, ?, ?)")
	if err != nil {
		return err
	}
	for _, info := range infos {
		for _, reference := range info.References {
			if _, err := addReference.ExecContext(ctx, ids[info.Path], ids[reference]); err != nil {
				return fmt.Errorf("reference of %s to %s: %w", info.Path, reference, err)
			}
		}
		if !strings.HasSuffix(info.Path.Name(), ".drv") {
			continue
		}
		made, err := outputs(info.Path)
		if err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(made)) {
			if _, err := addOutput.ExecContext(ctx, ids[info.Path], name, made[name].String()); err != nil {
				return fmt.Errorf("output %s of %s: %w", name, info.Path, err)
			}
		}
	}
	return tx.Commit()
}

func orNull(s string) sql.NullString { return sql.NullString{String: s, Valid: s != ""} }
