package nixstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nar"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/tempdir"
)

// A Directory is a store below a directory that somebody else has made, with
// nix --store DIR or as a [Root]. No Nix is needed to read it, and it need not
// be writable. What its database says is not to be believed: the hash of each
// path is to be held against its NAR.
type Directory struct {
	dir  string // without nix/store
	db   *sql.DB
	copy *tempdir.Dir // that the database was copied to
}

// IsDirectory says whether a store lies below dir.
func IsDirectory(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, databaseFile))
	return err == nil
}

const databaseFile = "nix/var/nix/db/db.sqlite"

// maxDatabase is the size of the largest database that is read, in bytes. (One
// of a hundred thousand paths has 0.1 GB.)
const maxDatabase = 1 << 30

// OpenDirectory opens the store below dir. Symlinks that lead out of dir are
// not followed. Nobody may write to the store until it is closed.
func OpenDirectory(ctx context.Context, dir string) (_ *Directory, err error) {
	d := &Directory{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("opening the store in %s: %w", dir, err), d.Close())
		}
	}()
	if err := d.copyDatabase(); err != nil {
		return nil, err
	}
	// It is our own copy, which SQLite may bring up to date from its log.
	dsn := url.URL{Scheme: "file", Path: filepath.Join(d.copy.Path(), "db.sqlite"), RawQuery: "_pragma=trusted_schema(off)&_pragma=query_only(on)"}
	if d.db, err = sql.Open("sqlite", dsn.String()); err != nil {
		return nil, err
	}
	var tables int
	const query = `select count(*) from sqlite_schema where type = 'table' and name in ('ValidPaths', 'Refs', 'DerivationOutputs')`
	if err := d.db.QueryRowContext(ctx, query).Scan(&tables); err != nil {
		return nil, fmt.Errorf("reading its database: %w", err)
	}
	if tables != 3 {
		return nil, errors.New("its database is not that of a store")
	}
	return d, nil
}

// copyDatabase copies the database to where it can be opened: a Nix that is
// gone leaves part of it, or all, in its log, which SQLite reads only where it
// may write.
func (d *Directory) copyDatabase() error {
	root, err := os.OpenRoot(d.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if info, err := root.Stat("nix/store"); err != nil {
		return err
	} else if !info.IsDir() {
		return errors.New("nix/store is not a directory")
	}
	schema, err := root.ReadFile("nix/var/nix/db/schema")
	if err != nil {
		return err
	}
	if got := strings.TrimSpace(string(schema)); got != schemaVersion {
		return fmt.Errorf("its database has schema %q, and %s is what is known", got, schemaVersion)
	}
	if d.copy, err = tempdir.New("db"); err != nil {
		return err
	}
	for _, suffix := range []string{"", "-wal", "-journal"} {
		err := copyFile(root, databaseFile+suffix, filepath.Join(d.copy.Path(), "db.sqlite"+suffix))
		if err != nil && !(suffix != "" && errors.Is(err, fs.ErrNotExist)) {
			return err
		}
	}
	return nil
}

func copyFile(root *os.Root, name, to string) error {
	if info, err := root.Stat(name); err != nil {
		return err
	} else if !info.Mode().IsRegular() || info.Size() > maxDatabase {
		return fmt.Errorf("%s is not a file of at most %d bytes", name, maxDatabase)
	}
	from, err := root.Open(name)
	if err != nil {
		return err
	}
	defer from.Close()
	file, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, io.LimitReader(from, maxDatabase))
	return errors.Join(err, file.Close())
}

// Close forgets the store.
func (d *Directory) Close() error {
	var err error
	if d.db != nil {
		err = d.db.Close()
	}
	err = errors.Join(err, d.copy.Remove())
	return err
}

// Roots lists the paths, sorted, that nothing in the store needs: no other path
// refers to them, nor, if they were built here, to the derivation that makes
// them. Derivations are not among them.
func (d *Directory) Roots(ctx context.Context) ([]nix.StorePath, error) {
	rows, err := d.db.QueryContext(ctx, `
		with Referred(id) as (select reference from Refs where referrer != reference)
		select path from ValidPaths as p
		where path not like '%.drv'
		and id not in Referred
		and not exists (select * from DerivationOutputs where path = p.path and drv in Referred)
		order by path`)
	if err != nil {
		return nil, d.unreadable(err)
	}
	defer rows.Close()
	var roots []nix.StorePath
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, d.unreadable(err)
		}
		root, err := nix.ParseStorePath(text)
		if err != nil {
			return nil, d.unreadable(err)
		}
		roots = append(roots, root)
	}
	if err := rows.Err(); err != nil {
		return nil, d.unreadable(err)
	}
	return roots, nil
}

// Closure returns what the database says of the path and of all that it
// references, sorted by path. All of their files are there.
func (d *Directory) Closure(ctx context.Context, root nix.StorePath) ([]nix.PathInfo, error) {
	rows, err := d.db.QueryContext(ctx, `
		with recursive Closure(id) as (
			select id from ValidPaths where path = ?
			union select reference from Refs join Closure on referrer = id
		)
		select path, hash, narSize, deriver, sigs, ca, (
			select group_concat(coalesce(q.path, '`+unregistered+`'), ' ')
			from Refs left join ValidPaths as q on q.id = reference where referrer = p.id
		) from ValidPaths as p where id in Closure order by path`, root.String())
	if err != nil {
		return nil, d.unreadable(err)
	}
	defer rows.Close()
	var infos []nix.PathInfo
	for rows.Next() {
		info, err := scanInfo(rows)
		if err != nil {
			return nil, d.unreadable(err)
		}
		if _, err := os.Lstat(d.realPath(info.Path)); err != nil {
			return nil, hint.With(fmt.Errorf("%s is registered in the store in %s, but its files are not there: %w", info.Path, d.dir, err),
				"hand over the whole store")
		}
		infos = append(infos, info)
	}
	if err := rows.Err(); err != nil {
		return nil, d.unreadable(err)
	}
	if len(infos) == 0 {
		return nil, fmt.Errorf("%s is not in the store in %s", root, d.dir)
	}
	return infos, nil
}

// unregistered stands for a reference to what is not in the database.
const unregistered = "-"

// scanInfo takes what is known of a path from a row.
func scanInfo(rows *sql.Rows) (info nix.PathInfo, err error) {
	var path, hash string
	var size sql.NullInt64
	var deriver, sigs, ca, references sql.NullString
	if err := rows.Scan(&path, &hash, &size, &deriver, &sigs, &ca, &references); err != nil {
		return info, err
	}
	if info.Path, err = nix.ParseStorePath(path); err != nil {
		return info, err
	}
	if info.NarHash, err = nix.ParseHash(hash); err != nil {
		return info, fmt.Errorf("%s: %w", path, err)
	}
	if info.NarSize = size.Int64; info.NarSize <= 0 {
		return info, fmt.Errorf("the size of %s is not known", path)
	}
	if deriver.String != "" {
		if info.Deriver, err = nix.ParseStorePath(deriver.String); err != nil {
			return info, fmt.Errorf("the deriver of %s: %w", path, err)
		}
	}
	for text := range strings.FieldsSeq(sigs.String) {
		sig, err := nix.ParseSignature(text)
		if err != nil {
			return info, fmt.Errorf("a signature of %s: %w", path, err)
		}
		info.Signatures = append(info.Signatures, sig)
	}
	info.CA = ca.String
	for text := range strings.FieldsSeq(references.String) {
		if text == unregistered {
			return info, fmt.Errorf("%s refers to a path that is not registered", path)
		}
		reference, err := nix.ParseStorePath(text)
		if err != nil {
			return info, fmt.Errorf("a reference of %s: %w", path, err)
		}
		info.References = append(info.References, reference)
	}
	info.References = nix.SortPaths(info.References)
	return info, nil
}

// unreadable is the error of reading the database, or of what stands in it.
func (d *Directory) unreadable(err error) error {
	return fmt.Errorf("the database of the store in %s: %w", d.dir, err)
}

func (d *Directory) realPath(path nix.StorePath) string {
	return filepath.Join(d.dir, path.String())
}

// DumpNAR writes the NAR of a path.
func (d *Directory) DumpNAR(ctx context.Context, path nix.StorePath, w io.Writer) error {
	if err := nar.Dump(contextWriter{ctx, w}, d.realPath(path)); err != nil {
		return fmt.Errorf("reading %s from the store in %s: %w", path, d.dir, err)
	}
	return nil
}
