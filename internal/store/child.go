package store

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"modernc.org/sqlite"
)

// A database that a stranger has made is a program for SQLite. It is therefore
// read by a child of ourselves: this same executable, started again under another
// name, which holds no key and no credential, gets no environment, no file but a
// copy of the database and a pipe, no network where the kernel lets us take it
// away, and a bounded share of memory and time. As root, it becomes nobody in an
// empty root directory first. What it answers is taken for what it is, text of a
// stranger: rows of bounded length, each of which is parsed.

// childName is what the child is called. No program is started under it by
// accident.
const childName = "nixos-closure: reads a database"

func init() {
	if len(os.Args) > 1 && os.Args[0] == childName {
		os.Exit(childMain(os.Args[1:], os.Stdout))
	}
}

// What the child is asked.
const (
	askRoots   = "roots"
	askClosure = "closure" // of the store path that follows
)

// A row is what the child answers of a path, as the database has it.
type row struct {
	Path       string `json:"path,omitempty"`
	Hash       string `json:"hash,omitempty"`
	NarSize    int64  `json:"narSize,omitempty"`
	Deriver    string `json:"deriver,omitempty"`
	Sigs       string `json:"sigs,omitempty"`
	CA         string `json:"ca,omitempty"`
	References string `json:"references,omitempty"`

	Error string `json:"error,omitempty"` // instead of all that, in the last row
	End   bool   `json:"end,omitempty"`   // the last row, if there is no error
}

// unregistered stands for a reference to what is not in the database.
const unregistered = "-"

// Bounds of what a database may take to be read. (That of a machine with a hundred
// thousand paths takes some 40 MiB and two seconds.)
const (
	childMemory  = 512 << 20 // bytes of data
	childSeconds = 60        // of CPU
	maxRow       = 2 << 20   // bytes; ten thousand references take 0.7 MiB
	maxRows      = 1 << 20
)

// ask has a child read the database, and calls each for each row of its answer.
func (d *Directory) ask(ctx context.Context, each func(row) error, question ...string) error {
	done := make(chan error, 1)
	go func() {
		// The kernel takes the end of this thread for that of the parent.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := d.askOnce(ctx, unix.CLONE_NEWNET|unix.CLONE_NEWIPC, each, question)
		if errors.Is(err, errNotStarted) { // namespaces are not ours to make
			err = d.askOnce(ctx, 0, each, question)
		}
		done <- err
	}()
	return <-done
}

var errNotStarted = errors.New("the child that reads it can't be started")

func (d *Directory) askOnce(ctx context.Context, namespaces uintptr, each func(row) error, question []string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = append([]string{childName}, question...)
	cmd.Env = []string{}
	cmd.Dir = d.copyDir()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Cloneflags: namespaces}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%w: %w", errNotStarted, err)
	}
	err = readRows(stdout, each)
	cancel() // it has said all that counts
	waitErr := cmd.Wait()
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("reading it ended early (%w): it takes more than %d MiB of memory or %d s, or is no database of Nix's", waitErr, childMemory>>20, childSeconds)
	}
	return err
}

// readRows reads an answer to its end, which is io.ErrUnexpectedEOF if that
// doesn't come.
func readRows(answer io.Reader, each func(row) error) error {
	lines := bufio.NewReaderSize(answer, maxRow)
	for range maxRows {
		line, err := lines.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			return fmt.Errorf("it says more than %d bytes of a path", maxRow)
		case err != nil:
			return io.ErrUnexpectedEOF
		}
		var r row
		if err := json.Unmarshal(line, &r); err != nil {
			return err
		}
		switch {
		case r.Error != "":
			return errors.New(r.Error)
		case r.End:
			return nil
		}
		if err := each(r); err != nil {
			return err
		}
	}
	return fmt.Errorf("it has more than %d paths", maxRows)
}

// childMain is the child. It answers on w, and returns its exit status.
func childMain(question []string, w io.Writer) int {
	answer := bufio.NewWriter(w)
	say := func(r row) error {
		line, err := json.Marshal(r)
		if err != nil {
			return err
		}
		_, err = answer.Write(append(line, '\n'))
		return err
	}
	err := confine()
	if err == nil {
		err = answerQuestion(question, say)
	}
	last := row{End: true}
	if err != nil {
		last = row{Error: err.Error()[:min(len(err.Error()), 4096)]}
	}
	if errors.Join(say(last), answer.Flush()) != nil {
		return 1
	}
	return 0
}

// confine bounds what the child can take and reach.
func confine() error {
	debug.SetMemoryLimit(childMemory / 2)
	for _, limit := range []struct {
		resource int
		max      uint64
	}{
		{unix.RLIMIT_DATA, childMemory},
		{unix.RLIMIT_CPU, childSeconds},
		{unix.RLIMIT_FSIZE, 2 * maxDatabase}, // SQLite brings its copy up to date
		{unix.RLIMIT_NOFILE, 32},
		{unix.RLIMIT_CORE, 0},
	} {
		if err := unix.Setrlimit(limit.resource, &unix.Rlimit{Cur: limit.max, Max: limit.max}); err != nil {
			return fmt.Errorf("bounding the child that reads it: %w", err)
		}
	}
	if os.Geteuid() != 0 {
		return nil
	}
	// A root of the machine, or of a container. Where that one may not become
	// another, the bounds above and the lack of anything to take remain.
	const nobody = 65534
	files, err := os.ReadDir(".")
	if err != nil {
		return err
	}
	if unix.Chroot(".") != nil {
		return nil
	}
	for _, name := range append([]string{"."}, namesOf(files)...) {
		if os.Chown(name, nobody, nobody) != nil {
			return nil
		}
	}
	return errors.Join(syscall.Setgroups(nil), syscall.Setresgid(nobody, nobody, nobody), syscall.Setresuid(nobody, nobody, nobody))
}

func namesOf(files []os.DirEntry) []string {
	names := make([]string, len(files))
	for i, f := range files {
		names[i] = f.Name()
	}
	return names
}

// Limits of SQLite (sqlite3_limit): identifiers and values.
var sqliteLimits = map[int]int{
	0:  maxRow,    // SQLITE_LIMIT_LENGTH, of a value and of a row
	1:  64 << 10,  // SQLITE_LIMIT_SQL_LENGTH, that of the schema included
	2:  32,        // SQLITE_LIMIT_COLUMN
	3:  100,       // SQLITE_LIMIT_EXPR_DEPTH
	4:  10,        // SQLITE_LIMIT_COMPOUND_SELECT
	5:  100 << 10, // SQLITE_LIMIT_VDBE_OP
	6:  16,        // SQLITE_LIMIT_FUNCTION_ARG
	7:  0,         // SQLITE_LIMIT_ATTACHED
	8:  100,       // SQLITE_LIMIT_LIKE_PATTERN_LENGTH
	9:  16,        // SQLITE_LIMIT_VARIABLE_NUMBER
	10: 10,        // SQLITE_LIMIT_TRIGGER_DEPTH
	11: 0,         // SQLITE_LIMIT_WORKER_THREADS
}

// answerQuestion reads the database in the current directory.
func answerQuestion(question []string, say func(row) error) error {
	ctx := context.Background()
	// It is our own copy, which SQLite may bring up to date from its log.
	conn, closeDB, err := openLimited(ctx, "file:db.sqlite?_pragma=trusted_schema(off)&_pragma=query_only(on)&_pragma=temp_store(memory)&_pragma=cell_size_check(on)")
	if err != nil {
		return err
	}
	defer closeDB()
	if err := checkSchema(ctx, conn); err != nil {
		return err
	}
	return questions[question[0]](ctx, conn, question[1:], say)
}

// questions are what the child can be asked.
var questions = map[string]func(ctx context.Context, conn *sql.Conn, args []string, say func(row) error) error{
	askRoots:   answerRoots,
	askClosure: answerClosure,
}

func openLimited(ctx context.Context, dsn string) (*sql.Conn, func(), error) {
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, nil, err
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		db.Close()
		return nil, nil, err
	}
	for id, limit := range sqliteLimits {
		if _, err := sqlite.Limit(conn, id, limit); err != nil {
			db.Close()
			return nil, nil, err
		}
	}
	return conn, func() { conn.Close(); db.Close() }, nil
}

// checkSchema refuses a database whose tables are not as Nix makes them: with the
// same columns, none of them computed, and the same indices.
func checkSchema(ctx context.Context, conn *sql.Conn) error {
	ours, closeDB, err := openLimited(ctx, "file::memory:")
	if err != nil {
		return err
	}
	defer closeDB()
	if _, err := ours.ExecContext(ctx, schema); err != nil {
		return err
	}
	want, err := describeTables(ctx, ours)
	if err != nil {
		return err
	}
	got, err := describeTables(ctx, conn)
	if err != nil {
		return fmt.Errorf("reading its database: %w", err)
	}
	if !slices.Equal(want, got) {
		return errors.New("its database is not that of a store")
	}
	return nil
}

// describeTables lists what there is to know of the tables that are read.
func describeTables(ctx context.Context, conn *sql.Conn) (lines []string, err error) {
	const ours = "('ValidPaths', 'Refs', 'DerivationOutputs')"
	for _, query := range []string{
		"select type, name, tbl_name, '', '', '', '' from sqlite_schema where type in ('table', 'view') and name in " + ours + " order by name",
		"select m.name, c.name, lower(c.type), c.[notnull], coalesce(c.dflt_value, ''), c.pk, c.hidden from sqlite_schema m, pragma_table_xinfo(m.name) c where m.name in " + ours + " order by m.name, c.cid",
		"select m.name, i.name, i.[unique], i.origin, i.partial, c.cid, coalesce(c.name, '') from sqlite_schema m, pragma_index_list(m.name) i, pragma_index_xinfo(i.name) c where m.type = 'table' and m.name in " + ours + " order by m.name, i.name, c.seqno",
	} {
		rows, err := conn.QueryContext(ctx, query)
		if err != nil {
			return nil, err
		}
		for rows.Next() {
			var f [7]string
			if err := rows.Scan(&f[0], &f[1], &f[2], &f[3], &f[4], &f[5], &f[6]); err != nil {
				rows.Close()
				return nil, err
			}
			lines = append(lines, strings.Join(f[:], "|"))
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return nil, err
		}
	}
	return lines, nil
}

func answerRoots(ctx context.Context, conn *sql.Conn, _ []string, say func(row) error) error {
	rows, err := conn.QueryContext(ctx, `
		with Referred(id) as (select reference from Refs where referrer != reference)
		select path from ValidPaths as p
		where path not like '%.drv'
		and id not in Referred
		and not exists (select * from DerivationOutputs where path = p.path and drv in Referred)
		order by path`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var r row
		if err := rows.Scan(&r.Path); err != nil {
			return err
		}
		if err := say(r); err != nil {
			return err
		}
	}
	return rows.Err()
}

func answerClosure(ctx context.Context, conn *sql.Conn, root []string, say func(row) error) error {
	rows, err := conn.QueryContext(ctx, `
		with recursive Closure(id) as (
			select id from ValidPaths where path = ?
			union select reference from Refs join Closure on referrer = id
		)
		select path, hash, narSize, deriver, sigs, ca, (
			select group_concat(coalesce(q.path, '`+unregistered+`'), ' ')
			from Refs left join ValidPaths as q on q.id = reference where referrer = p.id
		) from ValidPaths as p where id in Closure order by path`, root[0])
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var r row
		var size sql.NullInt64
		var deriver, sigs, ca, references sql.NullString
		if err := rows.Scan(&r.Path, &r.Hash, &size, &deriver, &sigs, &ca, &references); err != nil {
			return err
		}
		r.NarSize, r.Deriver, r.Sigs, r.CA, r.References = size.Int64, deriver.String, sigs.String, ca.String, references.String
		if err := say(r); err != nil {
			return err
		}
	}
	return rows.Err()
}
